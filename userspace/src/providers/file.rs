//! Files as a source of the desired state: loading them, and hearing that they changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    config::{self, ConfigErrors, Loaded},
    reconcile::namespace_reference,
};

/// One thing wrong with the files, as text for people and as parts for tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileError {
    /// The file; empty where no single one is at fault.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for FileError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.reason)
    }
}

/// Reads the files.
pub fn load(files: &[PathBuf]) -> Result<Loaded, Vec<FileError>> {
    config::load_with_sources(files).map_err(|errors| in_parts(&errors))
}

pub(super) fn in_parts(errors: &ConfigErrors) -> Vec<FileError> {
    errors
        .iter()
        .map(|error| FileError {
            file: error.file.clone(),
            line: error.line,
            column: error.column,
            reason: error.reason.clone(),
        })
        .collect()
}

/// Reads the files and also requires that every namespace they name exists: for people who check or apply a file by
/// hand. The daemon itself goes on without a namespace, which may come later.
pub fn load_checked(files: &[PathBuf]) -> Result<Loaded, Vec<FileError>> {
    checked(load(files)?)
}

pub(super) fn checked(loaded: Loaded) -> Result<Loaded, Vec<FileError>> {
    let mut errors = Vec::new();
    for (name, container) in &loaded.state.containers {
        let reason = match namespace_reference(container) {
            None => continue,
            Some(Ok(reference)) => match reference.open() {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            },
            Some(Err(reason)) => reason.to_owned(),
        };
        errors.push(at_service(&loaded, name, reason));
    }
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
}

fn at_service(loaded: &Loaded, name: &str, reason: String) -> FileError {
    let reason = format!("service {name}: {reason}");
    // `file:line:column`; a file name may hold colons itself.
    let mut parts = loaded.source_of_service(name).unwrap_or_default().rsplitn(3, ':');
    let column = parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let line = parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    FileError { file: parts.next().unwrap_or_default().into(), line, column, reason }
}

/// What tells one content of the files from another without reading them: device, inode, size and times of each,
/// `None` for one that cannot be looked at. Take it before reading: what changes meanwhile then shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<[i64; 7]>>);

impl Stamp {
    /// That of the files as they are now, wherever links lead.
    pub fn of(files: &[PathBuf]) -> Self {
        let one = |metadata: Metadata| {
            [
                metadata.dev().cast_signed(),
                metadata.ino().cast_signed(),
                metadata.size().cast_signed(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                // Nobody can set this one.
                metadata.ctime(),
                metadata.ctime_nsec(),
            ]
        };
        Self(files.iter().map(|file| fs::metadata(file).ok().map(one)).collect())
    }
}

/// Which directory a path leads to: device, inode, and when it was made, for inodes are used again.
type DirectoryIdentity = Option<(u64, u64, Option<SystemTime>)>;

/// The files as their directories are called in truth, and these directories.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    files: BTreeSet<PathBuf>,
    directories: BTreeMap<PathBuf, DirectoryIdentity>,
}

impl Places {
    fn of(files: &[PathBuf]) -> Self {
        let files: BTreeSet<PathBuf> = files.iter().map(|file| absolute(file)).collect();
        let directories = files.iter().filter_map(|file| file.parent()).map(|directory| {
            let identity = fs::metadata(directory).ok();
            let identity = identity.map(|found| (found.dev(), found.ino(), found.created().ok()));
            (directory.to_owned(), identity)
        });
        Self { directories: directories.collect(), files }
    }
}

/// Hears of changes to a set of files. It stops when dropped.
#[derive(Debug)]
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
    places: Places,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches the files' directories: editors replace a file by another one of its name, which a watch on the file
    /// itself would not see.
    pub fn new(files: &[PathBuf]) -> notify::Result<Self> {
        // One slot: "something changed" is all there is to say.
        let (sender, changes) = mpsc::channel(1);
        let places = Places::of(files);
        let names = places.files.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let concerns_us = match &event {
                // Reading a file is no change, and our own reading would never end otherwise.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) => event.need_rescan() || event.paths.iter().any(|path| concerns(path, &names)),
                // Something was lost: look.
                Err(_) => true,
            };
            if concerns_us {
                // Full means that a change is already waiting to be looked at.
                let _ = sender.try_send(());
            }
        })?;
        for directory in places.directories.keys() {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher, places, changes })
    }

    /// Whether it no longer watches where these files are now: a link on the way leads elsewhere, or a directory was
    /// replaced. No event tells of that.
    pub fn is_stale(&self, files: &[PathBuf]) -> bool {
        Places::of(files) != self.places
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher's thread has ended; the tick still looks at the files.
            std::future::pending::<()>().await;
        }
    }
}

/// A file, or the target of a symbolic link swapped beside it (Kubernetes' `..data`): any name there that is not
/// clearly another one's.
fn concerns(path: &Path, files: &BTreeSet<PathBuf>) -> bool {
    files.contains(path)
        || path.file_name().is_some_and(|name| name == "..data")
        || files.iter().any(|file| file.parent() == Some(path))
}

fn absolute(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    // The directory is resolved, for that is how events name it; the file itself may be a link that is swapped.
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => absolute,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    #[tokio::test]
    async fn a_swapped_directory_on_the_way_is_noticed_and_watched() -> TestResult {
        let root = tempfile::tempdir()?;
        let (current, next) = (root.path().join("current"), root.path().join("next"));
        for release in ["r1", "r2"] {
            fs::create_dir(root.path().join(release))?;
            fs::write(root.path().join(release).join("state.yaml"), "services: {}")?;
        }
        symlink("r1", &current)?;
        let files = [current.join("state.yaml")];
        let mut watch = Watch::new(&files)?;
        let stamp = Stamp::of(&files);
        assert!(!watch.is_stale(&files));
        assert_eq!(Stamp::of(&files), stamp);

        symlink("r2", &next)?;
        fs::rename(&next, &current)?;
        assert!(watch.is_stale(&files));
        assert_ne!(Stamp::of(&files), stamp);
        watch = Watch::new(&files)?;
        assert!(!watch.is_stale(&files));
        fs::write(root.path().join("r2/state.yaml"), "networks: {}")?;
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await?;
        Ok(())
    }

    #[test]
    fn a_directory_made_anew_is_noticed() -> TestResult {
        let root = tempfile::tempdir()?;
        let directory = root.path().join("state");
        fs::create_dir(&directory)?;
        let files = [directory.join("state.yaml")];
        let watch = Watch::new(&files)?;
        fs::remove_dir(&directory)?;
        assert!(watch.is_stale(&files));
        assert!(Watch::new(&files).is_err());
        fs::create_dir(&directory)?;
        assert!(watch.is_stale(&files));
        Ok(())
    }

    #[test]
    fn a_rewritten_file_has_another_stamp() -> TestResult {
        let file = tempfile::NamedTempFile::new()?;
        let files = [file.path().to_owned(), PathBuf::from("/there/is/no/such/file")];
        fs::write(file.path(), "a")?;
        let stamp = Stamp::of(&files);
        // Of the same size, and later by more than any clock of a file system is coarse.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(file.path(), "b")?;
        assert_ne!(Stamp::of(&files), stamp);
        Ok(())
    }
}
