//! The lease file: one JSON document in the state directory, replaced as a whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{Leases, journal};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "leases.json";

/// The new file while it is written. The name is fixed, so that one left by a daemon that was killed is found again.
const NEW_FILE_NAME: &str = "leases.json.new";

/// Why leases could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The content is not what weft writes. The file is left as it is.
    #[error(
        "{} is damaged ({source}); it holds the addresses and ports given to containers and was left untouched: \
         mend it, or move it away to lease everything anew",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Another daemon keeps its leases there.
    #[error(
        "{} is used by another weft daemon; stop that one, or give this one another --state-dir",
        path.display()
    )]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// Written by a newer weft.
    #[error("{} has format {found}, this weft knows {known}: use a newer weft, or move the file away", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// The lease file of a state directory.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

/// The exclusive use of a state directory, until dropped.
#[derive(Debug)]
pub struct StateLock {
    _directory: Flock<File>,
}

impl Store {
    /// The store in a directory, which need not exist yet.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE_NAME) }
    }

    /// Where the leases are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory if there is none, and locks it: two daemons would replace each other's leases.
    pub fn create_and_lock(&self) -> Result<StateLock, StoreError> {
        fs::create_dir_all(self.directory()).map_err(|error| self.io("create the directory of", error))?;
        self.lock()?.ok_or_else(|| self.in_use())
    }

    /// Locks the directory; `None` if there is none.
    pub fn lock(&self) -> Result<Option<StateLock>, StoreError> {
        let failed = |error| self.io("lock the directory of", error);
        let directory = match File::open(self.directory()) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => directory,
            Err((_, Errno::EWOULDBLOCK)) => return Err(self.in_use()),
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // A teardown may have removed the directory between open and flock: then this lock protects nothing.
        let locked = directory.metadata().map_err(failed)?;
        match fs::metadata(self.directory()) {
            Ok(present) if (present.dev(), present.ino()) == (locked.dev(), locked.ino()) => {
                Ok(Some(StateLock { _directory: directory }))
            }
            Ok(_) => Err(self.in_use()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn in_use(&self) -> StoreError {
        StoreError::InUse { path: self.directory().to_owned() }
    }

    /// Where everything is kept.
    pub fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        }
    }

    /// Reads the leases; `None` if there never were any.
    pub fn load(&self) -> Result<Option<Leases>, StoreError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read", error)),
        };
        let damaged = |source| StoreError::Damaged { path: self.path.clone(), source };
        // The version first: a newer format need not have our fields.
        let version: Version = serde_json::from_slice(&text).map_err(damaged)?;
        if version.version != Leases::VERSION {
            return Err(StoreError::Version {
                path: self.path.clone(),
                found: version.version,
                known: Leases::VERSION,
            });
        }
        let mut leases = serde_json::from_slice(&text).map_err(damaged)?;
        journal::replay(self.directory(), &text, &mut leases)
            .map_err(|error| self.io("read the journal of", error))?;
        Ok(Some(leases))
    }

    /// Replaces the file so that a crash at any moment leaves the old or the new one, never a part.
    pub fn save(&self, leases: &Leases) -> Result<(), StoreError> {
        let directory = self.directory();
        fs::create_dir_all(directory).map_err(|error| self.io("create the directory of", error))?;
        let mut text =
            serde_json::to_vec_pretty(leases).map_err(|error| self.io("encode", io::Error::other(error)))?;
        text.push(b'\n');
        let new = directory.join(NEW_FILE_NAME);
        let write = || {
            remove_if_there(&new)?;
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|error| self.io("write beside", error))?;
        fs::rename(&new, &self.path).map_err(|error| self.io("replace", error))?;
        // The rename itself lasts only once the directory is on disk.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.io("sync the directory of", error))
    }

    /// Removes the file, and what a save that was interrupted has left; fine if there is none.
    pub fn remove(&self) -> Result<(), StoreError> {
        journal::remove(self.directory())
            .and_then(|()| remove_if_there(&self.directory().join(NEW_FILE_NAME)))
            .and_then(|()| remove_if_there(&self.path))
            .map_err(|error| self.io("remove", error))
    }

    /// An error of what was tried with the file.
    pub fn io(&self, operation: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { operation, path: self.path.clone(), source }
    }
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[derive(serde::Deserialize)]
struct Version {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn what_was_saved_is_loaded() -> TestResult {
        let directory = tempfile::tempdir()?;
        let store = Store::new(&directory.path().join("deep/state"));
        assert!(store.load()?.is_none());
        let mut leases = Leases::new(7);
        leases.sysctls.insert("net.ipv4.ip_forward".into(), "0".into());
        store.save(&leases)?;
        store.save(&leases)?;
        assert_eq!(store.load()?, Some(leases));
        assert_eq!(
            fs::read_dir(directory.path().join("deep/state"))?.count(),
            1,
            "no temporary file is left"
        );
        Ok(())
    }

    #[test]
    fn an_interrupted_save_leaves_nothing_behind() -> TestResult {
        let directory = tempfile::tempdir()?;
        let store = Store::new(&directory.path().join("state"));
        assert!(store.lock()?.is_none());
        let lock = store.create_and_lock()?;
        assert!(matches!(store.create_and_lock(), Err(StoreError::InUse { .. })));
        assert!(matches!(store.lock(), Err(StoreError::InUse { .. })));
        let half = directory.path().join("state/leases.json.new");
        fs::write(&half, "{")?;
        store.save(&Leases::new(7))?;
        assert_eq!(store.load()?, Some(Leases::new(7)));
        fs::write(&half, "{")?;
        store.remove()?;
        assert_eq!(fs::read_dir(directory.path().join("state"))?.count(), 0);
        drop(lock);
        assert!(store.lock()?.is_some());
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() -> TestResult {
        let directory = tempfile::tempdir()?;
        let store = Store::new(directory.path());
        fs::write(store.path(), b"{\"version\": 1, \"netw")?;
        let message = store.load().map(drop).map_err(|error| error.to_string());
        assert!(message.is_err_and(|message| message.contains("leases.json is damaged")));
        assert_eq!(fs::read(store.path())?, b"{\"version\": 1, \"netw");
        fs::write(store.path(), b"{\"version\": 99}")?;
        assert!(matches!(store.load(), Err(StoreError::Version { found: 99, .. })));
        Ok(())
    }
}
