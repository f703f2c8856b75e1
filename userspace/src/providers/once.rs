//! Sources that can be read only once: standard input, pipes and process substitution. They are for commands; the daemon
//! reads its files again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::file::{self, FileError};
use crate::config::{self, Loaded};

/// Whether this means standard input.
pub fn is_standard_input(file: &Path) -> bool {
    file == Path::new("-")
}

/// Whether the content may be gone when it has been read, or the path means something else to another process.
fn is_read_once(file: &Path) -> bool {
    is_standard_input(file)
        || ["/dev/stdin", "/dev/fd", "/proc/self", "/proc/thread-self"]
            .iter()
            .any(|own| file.starts_with(own))
        || fs::metadata(file).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The texts of the files, all of them, if one can be read only once.
pub fn texts(files: &[PathBuf]) -> Result<Option<Vec<String>>, Vec<FileError>> {
    if !files.iter().any(|file| is_read_once(file)) {
        return Ok(None);
    }
    let sources = config::read_once(files).map_err(|errors| file::in_parts(&errors))?;
    Ok(Some(sources.into_iter().map(|(_, text)| text).collect()))
}

/// As [`file::load_checked`], of texts read from these files.
pub fn parse_checked(files: &[PathBuf], texts: Vec<String>) -> Result<Loaded, Vec<FileError>> {
    let sources: Vec<_> = files.iter().cloned().zip(texts).collect();
    file::checked(config::parse_with_sources(&sources).map_err(|errors| file::in_parts(&errors))?)
}

/// As [`file::load_checked`], also of what can be read only once.
pub fn load_checked(files: &[PathBuf]) -> Result<Loaded, Vec<FileError>> {
    match texts(files)? {
        Some(texts) => parse_checked(files, texts),
        None => file::load_checked(files),
    }
}
