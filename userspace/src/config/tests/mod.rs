//! Tests of the file format: files that must be refused, files that must be read, and properties.

mod bad_files;
mod good_files;
mod good_ports;
mod properties;
mod several_files;

use std::path::PathBuf;

use super::{ConfigErrors, Loaded, parse_with_sources};

/// Parses one text as the file `test.yaml`.
fn parse_one(text: &str) -> Result<Loaded, ConfigErrors> {
    parse_with_sources(&[(PathBuf::from("test.yaml"), text.to_owned())])
}

/// What the errors of a text print.
fn errors_of(text: &str) -> String {
    parse_one(text).err().map(|errors| errors.to_string()).unwrap_or_default()
}
