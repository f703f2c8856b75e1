//! The lease file: one JSON document in the state directory, replaced as a whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::Leases;

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "leases.json";

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

impl Store {
    /// The store in a directory, which need not exist yet.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE_NAME) }
    }

    /// Where the leases are.
    pub fn path(&self) -> &Path {
        &self.path
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
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Replaces the file so that a crash at any moment leaves the old or the new one, never a part.
    pub fn save(&self, leases: &Leases) -> Result<(), StoreError> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(|error| self.io("create the directory of", error))?;
        let mut text =
            serde_json::to_vec_pretty(leases).map_err(|error| self.io("encode", io::Error::other(error)))?;
        text.push(b'\n');
        let mut file =
            tempfile::NamedTempFile::new_in(directory).map_err(|error| self.io("write beside", error))?;
        file.write_all(&text)
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| self.io("write beside", error))?;
        file.persist(&self.path).map_err(|error| self.io("replace", error.error))?;
        // The rename itself lasts only once the directory is on disk.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.io("sync the directory of", error))
    }

    /// Removes the file; fine if there is none.
    pub fn remove(&self) -> Result<(), StoreError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io("remove", error)),
            _ => Ok(()),
        }
    }

    fn io(&self, operation: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { operation, path: self.path.clone(), source }
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
