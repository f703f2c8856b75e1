//! What growth costs, as tables for people.

use anyhow::Result;
use comfy_table::{Table, presets::ASCII_MARKDOWN};

use super::{Report, mebibytes, spread};
use crate::bench::statistics::short;

impl Report {
    /// All that was measured.
    pub fn markdown(&self) -> String {
        let mut parts = vec![self.machine.describe()];
        parts.extend(self.ports.as_ref().map(|ports| ports.describe()));
        let tables = [
            (self.published.is_empty(), self.published()),
            (self.flows.is_empty(), self.flows()),
            (self.remotes.is_empty(), self.remotes()),
            (self.containers.is_empty(), self.containers()),
        ];
        parts
            .extend(tables.into_iter().filter(|(is_empty, _)| !is_empty).map(|(_, table)| table.to_string()));
        parts.join("\n\n")
    }

    /// As JSON for the record.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    fn published(&self) -> Table {
        let mut table = table(&[
            "published ports",
            "with",
            "set, s",
            "applied, ms",
            "maps grow, KiB",
            "round trip, µs",
            "connections, 1/s",
        ]);
        for row in &self.published {
            table.add_row([
                row.ports.to_string(),
                row.variant.name().to_owned(),
                short(row.set_s),
                row.apply_ms.map_or_else(|| "–".to_owned(), short),
                row.map_growth_bytes.map_or_else(|| "–".to_owned(), |bytes| short(bytes as f64 / 1024.0)),
                spread(&Some(row.speed.round_trip_us)),
                spread(&Some(row.speed.connection_rate)),
            ]);
        }
        table
    }

    fn flows(&self) -> Table {
        let mut table = table(&[
            "flows",
            "first packet, ns",
            "later packet, ns",
            "of a thousand of them, ns",
            "maps, MiB",
        ]);
        for row in &self.flows {
            table.add_row([
                row.flows.to_string(),
                short(row.open_ns),
                short(row.established_ns),
                short(row.busy_ns),
                mebibytes(row.map_bytes),
            ]);
        }
        table
    }

    fn remotes(&self) -> Table {
        let heads =
            ["remotes", "applied, s", "maps grow, MiB", "daemon, MiB", "round trip, µs", "connections, 1/s"];
        let mut table = table(&heads);
        for row in &self.remotes {
            table.add_row([
                row.remotes.to_string(),
                short(row.apply_s),
                mebibytes(row.map_growth_bytes),
                mebibytes(row.cost.resident_bytes),
                spread(&Some(row.speed.round_trip_us)),
                spread(&Some(row.speed.connection_rate)),
            ]);
        }
        table
    }

    fn containers(&self) -> Table {
        let of_host = [
            "containers",
            "from nothing to `ready`, s",
            "teardown, s",
            "full round, CPU ms",
            "maps, MiB",
            "daemon, MiB",
            "one more",
        ];
        let of_one = ["answers, ms", "until applied, ms", "CPU until applied, ms", "all CPU meanwhile, ms"];
        let mut table = table(&[&of_host[..], &of_one[..]].concat());
        for row in &self.containers {
            for (how, one_more) in [
                ("in one file", &row.in_one_file),
                ("as a file", &row.as_a_file),
                ("as a file, `weft apply`", &row.by_apply),
            ] {
                table.add_row([
                    row.containers.to_string(),
                    short(row.ready_s),
                    short(row.teardown_s),
                    short(row.full_round_cpu_ms),
                    mebibytes(row.cost.map_bytes),
                    mebibytes(row.cost.resident_bytes),
                    how.to_owned(),
                    spread(&Some(one_more.answers_ms)),
                    spread(&one_more.apply_ms),
                    spread(&one_more.apply_cpu_ms),
                    spread(&Some(one_more.cpu_ms)),
                ]);
            }
        }
        table
    }
}

fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(heads);
    table
}
