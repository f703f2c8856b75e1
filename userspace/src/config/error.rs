//! What is wrong with a file, and where: every complaint names file, line and column.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// More errors than this help nobody; the rest is only counted.
const MOST_ERRORS: usize = 100;
/// Longer pieces of the user's text are cut in messages.
const LONGEST_QUOTE: usize = 60;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.reason)
    }
}

/// All that was found wrong in one go, in the order of the files and lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    /// Errors beyond those listed.
    omitted: usize,
}

impl ConfigErrors {
    /// The errors, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            error.fmt(out)?;
        }
        if self.omitted > 0 {
            write!(out, "\n… and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A place in one of the files of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    /// Index into the files of the load.
    pub file: usize,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Position {
    /// The start of a file, for what concerns it as a whole.
    pub(super) const fn start_of(file: usize) -> Self {
        Self { file, line: 1, column: 1 }
    }
}

/// Collects what is wrong while the files are read.
pub(super) struct Report {
    files: Vec<PathBuf>,
    faults: Vec<(Position, String)>,
}

impl Report {
    pub(super) fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        Self { files: files.into_iter().map(Path::to_owned).collect(), faults: Vec::new() }
    }

    /// Notes an error.
    pub(super) fn add(&mut self, at: Position, reason: impl Into<String>) {
        self.faults.push((at, reason.into()));
    }

    /// `file:line:column`, for a reason that points to a second place.
    pub(super) fn place(&self, at: Position) -> String {
        place(self.file(at.file), at)
    }

    /// Number of errors so far.
    pub(super) fn count(&self) -> usize {
        self.faults.len()
    }

    /// The result if nothing was wrong, else all that was.
    pub(super) fn finish<T>(mut self, result: T) -> Result<T, ConfigErrors> {
        if self.faults.is_empty() {
            return Ok(result);
        }
        self.faults.sort();
        self.faults.dedup();
        let omitted = self.faults.len().saturating_sub(MOST_ERRORS);
        let errors = self
            .faults
            .iter()
            .take(MOST_ERRORS)
            .map(|(at, reason)| ConfigError {
                file: self.file(at.file).to_owned(),
                line: at.line,
                column: at.column,
                reason: reason.clone(),
            })
            .collect();
        Err(ConfigErrors { errors, omitted })
    }

    fn file(&self, index: usize) -> &Path {
        self.files.get(index).map_or(Path::new("(no file)"), PathBuf::as_path)
    }
}

/// `file:line:column`.
pub(super) fn place(file: &Path, at: Position) -> String {
    format!("{}:{}:{}", file.display(), at.line, at.column)
}

/// The user's own text inside a message: short, and without control characters that a terminal would obey.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(LONGEST_QUOTE).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        quoted.push('…');
    }
    format!("'{quoted}'")
}
