//! Files as a source of the desired state: loading them, and hearing that they changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    config::{ConfigErrors, FileStamp, Known, Loaded},
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

/// Reads the sources: files, and directories for the files in them. `known` has those read before.
pub fn load(sources: &[PathBuf], known: &mut Known) -> Result<Loaded, Vec<FileError>> {
    load_stamped(sources, known).1
}

/// The same, with what tells later whether the sources are others than those read.
pub fn load_stamped(sources: &[PathBuf], known: &mut Known) -> (Stamp, Result<Loaded, Vec<FileError>>) {
    let files = match expand(sources) {
        Ok(files) => files,
        Err(errors) => return (Stamp::of(sources), Err(errors)),
    };
    let loaded = known.load(&files).map_err(|errors| in_parts(&errors));
    (Stamp(known.stamps().to_vec()), loaded)
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

/// The files that sources stand for: a directory for all `*.yaml` and `*.yml` in it, in the order of their names.
pub(super) fn expand(sources: &[PathBuf]) -> Result<Vec<PathBuf>, Vec<FileError>> {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    let mut bad = |file: &Path, reason: String| {
        errors.push(FileError { file: file.to_owned(), line: 1, column: 1, reason });
    };
    for source in sources {
        if !source.is_dir() {
            files.push(source.clone());
            continue;
        }
        match files_in(source) {
            // More likely a wrong name or a missing mount than the wish to remove everything.
            Ok(found) if found.is_empty() => bad(
                source,
                "no *.yaml or *.yml file is in this directory; for an empty state write a file with `services: {}`"
                    .to_owned(),
            ),
            Ok(found) => files.extend(found),
            Err(error) => bad(source, format!("cannot be read: {error}")),
        }
    }
    if errors.is_empty() { Ok(files) } else { Err(errors) }
}

fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Without following links there: what a link leads to is the reader's to judge.
        if is_source(Path::new(&entry.file_name())) && !entry.file_type()?.is_dir() {
            files.push(entry.file_name());
        }
    }
    // Names, for paths are compared part by part, which takes ten times as long.
    files.sort_unstable();
    Ok(files.into_iter().map(|name| directory.join(name)).collect())
}

/// Whether a file of this name in a directory is read: hidden files and what editors leave behind (`.a.yaml.swp`,
/// `#a.yaml#`, `a.yaml~`, `.#a.yaml`) are not.
fn is_source(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().first().is_none_or(|first| b".#".contains(first)));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Reads the files and also requires that every namespace they name exists: for people who check or apply a file by
/// hand. The daemon itself goes on without a namespace, which may come later.
pub fn load_checked(sources: &[PathBuf]) -> Result<Loaded, Vec<FileError>> {
    checked(load(sources, &mut Known::default())?)
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

/// What tells one content of the sources from another without reading it: their files, and the stamp of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, Option<FileStamp>)>);

impl Stamp {
    /// That of the sources as they are now.
    pub fn of(sources: &[PathBuf]) -> Self {
        // A directory without files, or one that cannot be read, is looked at like a file.
        let files = sources.iter().flat_map(|source| match files_in(source) {
            Ok(files) if !files.is_empty() => files,
            _ => vec![source.clone()],
        });
        Self(files.map(|file| (file.clone(), FileStamp::of(&file))).collect())
    }
}

/// Which directory a path leads to: device, inode, and when it was made, for inodes are used again.
type DirectoryIdentity = Option<(u64, u64, Option<SystemTime>)>;

/// The sources as their directories are called in truth, and these directories.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    files: BTreeSet<PathBuf>,
    /// Directories whose files are all sources.
    whole: BTreeSet<PathBuf>,
    directories: BTreeMap<PathBuf, DirectoryIdentity>,
}

impl Places {
    fn of(sources: &[PathBuf]) -> Self {
        let (whole, files): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.is_dir());
        let whole: BTreeSet<PathBuf> =
            whole.into_iter().filter_map(|directory| directory.canonicalize().ok()).collect();
        let files: BTreeSet<PathBuf> = files.into_iter().map(|file| absolute(file)).collect();
        let parents = files.iter().filter_map(|file| file.parent());
        let directories = parents.chain(whole.iter().map(PathBuf::as_path)).map(|directory| {
            let identity = fs::metadata(directory).ok();
            let identity = identity.map(|found| (found.dev(), found.ino(), found.created().ok()));
            (directory.to_owned(), identity)
        });
        Self { directories: directories.collect(), files, whole }
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
        let (names, whole) = (places.files.clone(), places.whole.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let concerns_us = match &event {
                // Reading a file is no change, and our own reading would never end otherwise.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) => {
                    event.need_rescan() || event.paths.iter().any(|path| concerns(path, &names, &whole))
                }
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
fn concerns(path: &Path, files: &BTreeSet<PathBuf>, whole: &BTreeSet<PathBuf>) -> bool {
    files.contains(path)
        || whole.contains(path)
        || is_source(path) && path.parent().is_some_and(|parent| whole.contains(parent))
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

    #[tokio::test]
    async fn a_directory_is_all_its_files() -> TestResult {
        let root = tempfile::tempdir()?;
        let sources = [root.path().to_owned()];
        let mut known = Known::default();
        let service = |name: &str| format!("services: {{ {name}: {{ network_mode: none }} }}");
        let mut names = || -> Result<Vec<String>, Vec<FileError>> {
            load(&sources, &mut known).map(|loaded| loaded.state.containers.into_keys().collect())
        };
        let empty = names().err().unwrap_or_default();
        assert!(empty.len() == 1 && empty[0].reason.contains("no *.yaml or *.yml"), "{empty:?}");
        for leftover in [".b.yaml", "#b.yaml#", "b.yaml~", ".#b.yaml", "b.yaml.swp", "b.txt"] {
            fs::write(root.path().join(leftover), service("leftover"))?;
        }
        fs::create_dir(root.path().join("sub.yaml"))?;
        assert!(names().is_err());
        fs::write(root.path().join("b.yaml"), service("b"))?;
        assert_eq!(names(), Ok(vec!["b".to_owned()]));

        let mut watch = Watch::new(&sources)?;
        let mut stamp = Stamp::of(&sources);
        let mut change = async |expected: Result<Vec<String>, &str>| -> TestResult {
            tokio::time::timeout(Duration::from_secs(10), watch.changed()).await?;
            assert_ne!(std::mem::replace(&mut stamp, Stamp::of(&sources)), stamp);
            let found = names();
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected)),
                Err(place) => {
                    let errors = found.err().unwrap_or_default();
                    assert!(errors.iter().any(|error| error.to_string().contains(place)), "{errors:?}");
                }
            }
            Ok(())
        };
        fs::write(root.path().join("new"), service("a"))?;
        fs::rename(root.path().join("new"), root.path().join("a.yml"))?;
        change(Ok(vec!["a".into(), "b".into()])).await?;
        // Places stay right while files come and go before theirs.
        fs::write(root.path().join("new"), "services: { c: { nothing: 1 } }")?;
        fs::rename(root.path().join("new"), root.path().join("0.yaml"))?;
        change(Err("0.yaml:1:18")).await?;
        fs::write(root.path().join("new"), service("d"))?;
        fs::rename(root.path().join("new"), root.path().join("0.yaml"))?;
        change(Ok(vec!["a".into(), "b".into(), "d".into()])).await?;
        fs::remove_file(root.path().join("b.yaml"))?;
        change(Ok(vec!["a".into(), "d".into()])).await?;
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
