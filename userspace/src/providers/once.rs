//! Sources that can be read only once: standard input, pipes and process substitution. They are for commands; the daemon
//! reads its files again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::file::{self, FileError};
use crate::config::{self, Known, Loaded};

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

/// The files that the sources stand for and their texts, all of them, if one can be read only once.
pub fn texts(sources: &[PathBuf]) -> Result<Option<Vec<(PathBuf, String)>>, Vec<FileError>> {
    if !sources.iter().any(|source| is_read_once(source)) {
        return Ok(None);
    }
    config::read_once(&file::expand(sources)?).map(Some).map_err(|errors| file::in_parts(&errors))
}

/// As [`file::load_checked`], of texts read from these files.
pub fn parse_checked(sources: &[(PathBuf, String)]) -> Result<Loaded, Vec<FileError>> {
    file::checked(config::parse_with_sources(sources).map_err(|errors| file::in_parts(&errors))?)
}

/// As [`file::load_checked`], also of what can be read only once.
pub fn load_checked(sources: &[PathBuf]) -> Result<Loaded, Vec<FileError>> {
    match texts(sources)? {
        Some(texts) => parse_checked(&texts),
        None => file::load_checked(sources, &mut Known::default()),
    }
}
