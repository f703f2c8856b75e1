//! Removal of everything weft has pinned.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{Error, Result, bpffs, links, sys};

/// What [`teardown`] has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, and with them programs.
    pub links: usize,
    /// Maps.
    pub maps: usize,
}

/// Removes all links, then all maps, of every version of weft, below `bpf_dir`, and the directories.
///
/// It needs no loadable object, and fails while a daemon uses the directory. What does not look like weft's is left
/// and reported, and every other removal is still tried.
pub fn teardown(bpf_dir: &Path) -> Result<Removed> {
    if !bpf_dir.exists() {
        return Ok(Removed::default());
    }
    if !bpffs::is_bpffs(bpf_dir)? {
        return Err(Error::BpfDirectory {
            path: bpf_dir.to_path_buf(),
            problem: "is not in a BPF file system: nothing in it is weft's".to_owned(),
        });
    }
    let _lock = bpffs::lock(bpf_dir)?;
    let mut work = Work::default();
    let versions = work.children(bpf_dir, is_version);
    // Links of all versions come first: no program may run on maps that are half gone.
    for version in &versions {
        for pin in work.children(&version.join("links"), is_link) {
            work.remove_link(&pin);
        }
    }
    for version in &versions {
        for pin in work.children(&version.join("maps"), is_map) {
            let removed = work.note(&pin, fs::remove_file(&pin));
            work.removed.maps += usize::from(removed);
        }
        for directory in [version.join("links"), version.join("maps"), version.clone()] {
            work.remove_directory(&directory);
        }
    }
    work.remove_directory(bpf_dir);
    if work.errors.is_empty() { Ok(work.removed) } else { Err(Error::Teardown(work.errors)) }
}

#[derive(Default)]
struct Work {
    removed: Removed,
    errors: Vec<String>,
}

impl Work {
    fn note(&mut self, path: &Path, result: io::Result<()>) -> bool {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::NotFound
        {
            self.errors.push(format!("{}: {error}", path.display()));
        }
        result.is_ok()
    }

    /// Entries of a directory whose names weft gives; others are reported.
    fn children(&mut self, directory: &Path, is_ours: fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.note(directory, Err(error));
                return Vec::new();
            }
        };
        let mut children = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) if entry.file_name().to_str().is_some_and(is_ours) => children.push(entry.path()),
                Ok(entry) => self.errors.push(format!("{}: not made by weft, left", entry.path().display())),
                Err(error) => self.errors.push(format!("{}: {error}", directory.display())),
            }
        }
        children
    }

    fn remove_link(&mut self, pin: &Path) {
        let result = match sys::object_get(pin) {
            Ok(link) => links::remove_link(pin, link.as_fd()).map_err(io::Error::other),
            Err(error) => Err(error),
        };
        let removed = self.note(pin, result);
        self.removed.links += usize::from(removed);
    }

    fn remove_directory(&mut self, directory: &Path) {
        // Why it is not empty has been reported already.
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            result => {
                self.note(directory, result);
            }
        }
    }
}

/// `v` and a number.
fn is_version(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Other versions may have had other maps, but names follow one pattern.
fn is_map(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A program's name, and for a device its index.
fn is_link(name: &str) -> bool {
    match name.rsplit_once('-') {
        Some((program, ifindex)) => is_map(program) && ifindex.parse::<u32>().is_ok(),
        None => is_map(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_weft_gives_are_its_own() {
        assert!(is_version("v1") && is_version("v12"));
        assert!(!is_version("v") && !is_version("vx1") && !is_version("maps"));
        assert!(is_link("from_container-12") && is_link("connect4"));
        assert!(!is_link("from_container-") && !is_link("-1") && !is_link("Some-1"));
        assert!(is_map("port_sets") && !is_map("tc-thing") && !is_map(""));
    }
}
