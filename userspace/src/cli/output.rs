//! Printing: JSON, or aligned tables without lines, which `awk` and `cut` can read.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use super::Outcome;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON document.
    Json,
    /// Aligned columns.
    Table,
}

/// Prints a list: as it is, or as a table with these columns.
pub fn list<T: Serialize, const N: usize>(
    format: Format,
    items: &[T],
    header: [&str; N],
    row: impl Fn(&T) -> [String; N],
) -> Outcome {
    match format {
        Format::Json => json(items),
        Format::Table => print(&table(header, items.iter().map(row))),
    }
}

/// Prints a document as JSON.
pub fn json<T: Serialize + ?Sized>(document: &T) -> Outcome {
    let text = serde_json::to_string_pretty(document).map_err(io::Error::other)?;
    print(&text)
}

/// Lays out a table.
pub fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    // Never wrapped to the width of a terminal: scripts read lines.
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Prints text and a line end.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // `weft flow ls | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// What there is for IPv4 and for IPv6.
pub fn both(v4: Option<impl std::fmt::Display>, v6: Option<impl std::fmt::Display>) -> String {
    match (v4, v6) {
        (Some(v4), Some(v6)) => format!("{v4} {v6}"),
        (v4, None) => or_dash(v4),
        (None, v6) => or_dash(v6),
    }
}

/// A value, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
