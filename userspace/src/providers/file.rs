//! Files as a source of the desired state: loading them, and hearing that they changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    config::{ConfigErrors, FileStamp, Known, Loaded, Stamps},
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
    let files = expand(sources).inspect_err(|_| known.set_stamps(stamps(sources)))?;
    known.load(&files).map_err(|errors| in_parts(&errors))
}

/// Reads again only those of the sources' files that changed, came or went; answers the services of `loaded` that are
/// others now. `None`: [`load`] everything.
pub fn update(
    sources: &[PathBuf],
    changed: &BTreeSet<PathBuf>,
    known: &mut Known,
    loaded: &mut Loaded,
) -> Option<BTreeSet<String>> {
    let (mut there, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for file in changed {
        match fs::symlink_metadata(file) {
            Ok(found) if found.is_file() => there.insert(file.clone()),
            // It may go from a directory that has others.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_source = |path: &Path| sources.iter().any(|source| source == path);
                let directory = file.parent().filter(|directory| is_source(directory) && !is_source(file));
                directory.filter(|directory| has_files(directory))?;
                gone.insert(file.clone())
            }
            // A link leads to a file that makes no events here.
            _ => return None,
        };
    }
    known.update(&there, &gone, loaded)
}

/// The same for whatever is not as it was read last, events or not: it looks at every file.
pub fn refresh(sources: &[PathBuf], known: &mut Known, loaded: &mut Loaded) -> Option<BTreeSet<String>> {
    let (before, now) = (known.stamps(), stamps(sources));
    // A file that is named or listed and cannot be looked at is not one that is gone.
    if now.values().any(Option::is_none) {
        return None;
    }
    let gone = before.keys().filter(|file| !now.contains_key(*file)).map(PathBuf::from).collect();
    let others = now.iter().filter(|(file, stamp)| before.get(*file) != Some(*stamp));
    let changed = others.map(|(file, _)| PathBuf::from(file)).collect();
    known.update(&changed, &gone, loaded)
}

/// Whether the sources are those last read: not every change makes an event.
pub fn is_current(sources: &[PathBuf], known: &Known) -> bool {
    *known.stamps() == stamps(sources)
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
        if is_file(&entry)? {
            files.push(entry.file_name());
        }
    }
    // Names, for paths are compared part by part, which takes ten times as long.
    files.sort_unstable();
    Ok(files.into_iter().map(|name| directory.join(name)).collect())
}

fn has_files(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.any(|entry| is_file(&entry).unwrap_or(false))
}

/// Without following links there: what a link leads to is the reader's to judge.
fn is_file(entry: &fs::DirEntry) -> io::Result<bool> {
    Ok(is_source(Path::new(&entry.file_name())) && !entry.file_type()?.is_dir())
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
pub fn load_checked(sources: &[PathBuf], known: &mut Known) -> Result<Loaded, Vec<FileError>> {
    checked(load(sources, known)?)
}

pub(super) fn checked(loaded: Loaded) -> Result<Loaded, Vec<FileError>> {
    let errors = missing_namespaces(&loaded);
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
}

/// The namespaces that are named and do not exist.
pub fn missing_namespaces(loaded: &Loaded) -> Vec<FileError> {
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
        errors.push(at_service(loaded, name, reason));
    }
    errors
}

fn at_service(loaded: &Loaded, name: &str, reason: String) -> FileError {
    let reason = format!("service {name}: {reason}");
    // `file:line:column`; a file name may hold colons itself.
    let mut parts = loaded.source_of_service(name).unwrap_or_default().rsplitn(3, ':');
    let column = parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let line = parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    FileError { file: parts.next().unwrap_or_default().into(), line, column, reason }
}

/// What tells one content of the sources from another without reading it.
fn stamps(sources: &[PathBuf]) -> Stamps {
    // A directory without files, or one that cannot be read, is looked at like a file.
    let files = sources.iter().flat_map(|source| match files_in(source) {
        Ok(files) if !files.is_empty() => files,
        _ => vec![source.clone()],
    });
    files
        .map(|file| {
            let stamp = FileStamp::of(&file);
            (file.into_os_string(), stamp)
        })
        .collect()
}

/// Which directory a path leads to: device, inode, and when it was made, for inodes are used again.
type DirectoryIdentity = Option<(u64, u64, Option<SystemTime>)>;

/// The sources as their directories are called in truth, each with the names it was given by, and these directories.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Places {
    files: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Directories whose files are all sources.
    whole: BTreeMap<PathBuf, Vec<PathBuf>>,
    directories: BTreeMap<PathBuf, DirectoryIdentity>,
}

impl Places {
    fn of(sources: &[PathBuf]) -> Self {
        let (mut files, mut whole) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for source in sources {
            if !source.is_dir() {
                files.entry(absolute(source)).or_default().push(source.clone());
            } else if let Ok(directory) = source.canonicalize() {
                whole.entry(directory).or_default().push(source.clone());
            }
        }
        let parents = files.keys().filter_map(|file| file.parent());
        let directories = parents.chain(whole.keys().map(PathBuf::as_path)).map(|directory| {
            let identity = fs::metadata(directory).ok();
            let identity = identity.map(|found| (found.dev(), found.ino(), found.created().ok()));
            (directory.to_owned(), identity)
        });
        Self { directories: directories.collect(), files, whole }
    }

    /// What an event about this path says.
    fn heard(&self, path: &Path) -> Heard {
        // The target of a symbolic link swapped beside a file (Kubernetes' `..data`), or a directory itself.
        if self.whole.contains_key(path)
            || path.file_name().is_some_and(|name| name == "..data")
            || self.files.keys().any(|file| file.parent() == Some(path))
        {
            return Heard::Anything;
        }
        let single = self.files.get(path).into_iter().flatten().cloned();
        let inside = path.parent().zip(path.file_name()).filter(|_| is_source(path));
        let inside = inside.and_then(|(directory, name)| Some((self.whole.get(directory)?, name)));
        let inside = inside.into_iter().flat_map(|(given, name)| given.iter().map(move |it| it.join(name)));
        Heard::Files(single.chain(inside).collect())
    }
}

/// What was heard of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// These files may have changed, come or gone; named as the sources were given.
    Files(BTreeSet<PathBuf>),
    /// Any of them may have.
    Anything,
}

impl Heard {
    /// Nothing.
    const fn nothing() -> Self {
        Self::Files(BTreeSet::new())
    }

    fn is_nothing(&self) -> bool {
        *self == Self::nothing()
    }

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Files(files), Self::Files(others)) => files.extend(others),
            _ => *self = Self::Anything,
        }
    }
}

/// Hears of changes to a set of files. It stops when dropped.
#[derive(Debug)]
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
    places: Places,
    heard: Arc<Mutex<Heard>>,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches the files' directories: editors replace a file by another one of its name, which a watch on the file
    /// itself would not see.
    pub fn new(files: &[PathBuf]) -> notify::Result<Self> {
        // One slot: it says that there is something in `heard`.
        let (sender, changes) = mpsc::channel(1);
        let places = Places::of(files);
        let heard = Arc::new(Mutex::new(Heard::nothing()));
        let (there, all) = (places.clone(), heard.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let mut news = Heard::nothing();
            match &event {
                // Reading a file is no change, and our own reading would never end otherwise.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => {}
                Ok(event) if event.need_rescan() => news = Heard::Anything,
                Ok(event) => event.paths.iter().for_each(|path| news.add(there.heard(path))),
                // Something was lost: look.
                Err(_) => news = Heard::Anything,
            }
            if !news.is_nothing() {
                all.lock().unwrap_or_else(PoisonError::into_inner).add(news);
                // Full means that a change is already waiting to be looked at.
                let _ = sender.try_send(());
            }
        })?;
        for directory in places.directories.keys() {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher, places, heard, changes })
    }

    /// The same in place of another watch, whose events may be lost.
    pub fn renewed(files: &[PathBuf]) -> notify::Result<Self> {
        let watch = Self::new(files)?;
        watch.heard.lock().unwrap_or_else(PoisonError::into_inner).add(Heard::Anything);
        Ok(watch)
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

    /// What was heard since this was asked last. Ask before reading: what changes meanwhile is heard of again.
    pub fn heard(&self) -> Heard {
        mem::replace(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner), Heard::nothing())
    }
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
mod tests;
