//! Files as a source of the desired state: loading them, and hearing that they changed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    config::{self, Loaded},
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
    config::load_with_sources(files).map_err(|errors| {
        errors
            .iter()
            .map(|error| FileError {
                file: error.file.clone(),
                line: error.line,
                column: error.column,
                reason: error.reason.clone(),
            })
            .collect()
    })
}

/// Reads the files and also requires that every namespace they name exists: for people who check or apply a file by
/// hand. The daemon itself goes on without a namespace, which may come later.
pub fn load_checked(files: &[PathBuf]) -> Result<Loaded, Vec<FileError>> {
    let loaded = load(files)?;
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

/// Hears of changes to a set of files. It stops when dropped.
#[derive(Debug)]
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches the files' directories: editors replace a file by another one of its name, which a watch on the file
    /// itself would not see.
    pub fn new(files: &[PathBuf]) -> notify::Result<Self> {
        // One slot: "something changed" is all there is to say.
        let (sender, changes) = mpsc::channel(1);
        let watched: BTreeSet<PathBuf> = files.iter().map(|file| absolute(file)).collect();
        let names = watched.clone();
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
        let directories: BTreeSet<&Path> = watched.iter().filter_map(|file| file.parent()).collect();
        for directory in directories {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher, changes })
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher's thread has ended; the tick goes on reading nothing new.
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
