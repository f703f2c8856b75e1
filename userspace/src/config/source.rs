//! From a path to text: size, encoding and characters are checked before any YAML is read.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::error::{Position, Report};

/// Largest file that is read. A thousand containers with long port lists need a tenth of it.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Reads a file, or notes why it cannot be read.
pub(super) fn read(path: &Path, file: usize, report: &mut Report) -> Option<String> {
    text(open(path), file, report)
}

/// The same of anything that has an end, and of standard input (`-`), which may give their content only once.
pub(super) fn read_once(path: &Path, file: usize, report: &mut Report) -> Option<String> {
    if path == Path::new("-") {
        return text(Ok(io::stdin().lock()), file, report);
    }
    text(File::open(path), file, report)
}

fn text(opened: io::Result<impl Read>, file: usize, report: &mut Report) -> Option<String> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large, also where the size is not known beforehand.
    let outcome = opened.and_then(|opened| opened.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = outcome {
        report.add(Position::start_of(file), format!("cannot be read: {error}"));
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.as_bytes().len() as u64 > LARGEST_FILE => {
            report.add(Position::start_of(file), too_large());
            None
        }
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            report.add(end_of(&before, file), "this byte is not UTF-8 text: save the file as UTF-8");
            None
        }
    }
}

/// Opens a regular file, and a directory, whose reading says best what it is. A FIFO or a device might never give
/// anything, nor an end, and is empty when it is read again.
fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK the opening of a FIFO waits for a writer; to regular files it means nothing.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        Ok(file)
    } else {
        Err(io::Error::other(
            "it is no regular file: its content could be read only once, but is needed again whenever it may have changed; \
             write it to a file and name that",
        ))
    }
}

/// Checks the text itself. Files and texts given directly pass here both.
pub(super) fn check_text(text: &str, file: usize, report: &mut Report) -> bool {
    if text.len() as u64 > LARGEST_FILE {
        report.add(Position::start_of(file), too_large());
        return false;
    }
    if let Some(offset) = text.find('\0') {
        report
            .add(end_of(&text[..offset], file), "a NUL character: this is not a text file, or it is damaged");
        return false;
    }
    true
}

fn too_large() -> String {
    format!("the file is larger than {} MiB: split it", LARGEST_FILE / 1024 / 1024)
}

/// The place right behind `before`, which is the beginning of the file.
fn end_of(before: &str, file: usize) -> Position {
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position {
        file,
        line: count(before.matches('\n').count() + 1),
        column: count(last_line.chars().count() + 1),
    }
}
