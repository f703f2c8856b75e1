//! Files as they were parsed before, so that those that have not changed are not parsed again.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    ConfigErrors, Loaded, conclude,
    error::Report,
    joint::{Changed, Joint},
    parse_one,
    schema::ComposeFile,
    source,
};

/// What tells one content of a file from another without reading it: device, inode, size and times. Take it before
/// reading: what changes meanwhile then shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp([i64; 7]);

impl FileStamp {
    /// That of a file as it is now, wherever links lead; `None` for one that cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self([
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.size().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            // Nobody can set this one.
            metadata.ctime(),
            metadata.ctime_nsec(),
        ]))
    }
}

/// What is known of files read before.
#[derive(Default)]
pub struct Known {
    /// Their numbers, which places refer to: a file keeps its own while others come and go. By text, for paths are hashed
    /// part by part.
    numbers: HashMap<OsString, usize>,
    paths: Vec<PathBuf>,
    /// By number, those of good shape.
    parsed: HashMap<usize, (FileStamp, ComposeFile)>,
    stamps: Stamps,
    /// What they say together, after a good reading.
    joint: Option<Joint>,
}

/// Which files there are, and the stamp of each; none of one that cannot be looked at. By text as well.
pub type Stamps = HashMap<OsString, Option<FileStamp>>;

impl std::fmt::Debug for Known {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Known").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Known {
    /// Reads files that together declare one state.
    pub fn load(&mut self, files: &[PathBuf]) -> Result<Loaded, ConfigErrors> {
        // Of files that were removed.
        if self.paths.len() > 2 * files.len() + 16 {
            *self = Self::default();
        }
        let numbers: Vec<usize> = files.iter().map(|path| self.number(path)).collect();
        let mut report = Report::new(self.paths.iter().map(PathBuf::as_path));
        self.joint = None;
        self.stamps.clear();
        let mut before = std::mem::take(&mut self.parsed);
        for (path, number) in files.iter().zip(&numbers) {
            let stamp = FileStamp::of(path);
            self.stamps.insert(path.clone().into_os_string(), stamp);
            let unchanged = before.remove(number).filter(|(before, _)| Some(*before) == stamp);
            let parsed = unchanged.or_else(|| {
                let text = source::read(path, *number, &mut report)?;
                let file = parse_one(&text, *number, &mut report)?;
                // Without a stamp it could be read all the same: it came in between, and is read again next time.
                Some((stamp.unwrap_or(FileStamp([0; 7])), file))
            });
            if let Some(parsed) = parsed {
                self.parsed.insert(*number, parsed);
            }
        }
        let parsed = numbers.iter().filter_map(|number| Some((*number, &self.parsed.get(number)?.1)));
        let (loaded, joint) = conclude(parsed.collect(), report)?;
        self.joint = Some(joint);
        Ok(loaded)
    }

    /// Reads again those of these files that changed or came, and forgets those that a directory of the sources no longer
    /// lists, where all others are as they were when `loaded`, the outcome of the last good reading, was read. Answers the
    /// services that are others now. `None`: all files have to be loaded again.
    pub fn update(
        &mut self,
        files: &BTreeSet<PathBuf>,
        gone: &BTreeSet<PathBuf>,
        loaded: &mut Loaded,
    ) -> Option<BTreeSet<String>> {
        // Given back at the end: it is of no use once anything was not as expected.
        let mut joint = self.joint.take()?;
        // Of files that were removed.
        if self.paths.len() > 2 * self.stamps.len() + 16 {
            return None;
        }
        let mut report = Report::new([]);
        let mut changed = Vec::new();
        for path in files {
            // One that cannot be looked at was not removed: that is an error, and the last good state stays.
            let stamp = FileStamp::of(path)?;
            let known = self.stamps.get(path.as_os_str()).copied();
            if known == Some(Some(stamp)) {
                continue;
            }
            let number = self.number(path);
            let before = self.parsed.remove(&number);
            if known.is_some() != before.is_some() {
                return None;
            }
            let text = source::read(path, number, &mut report)?;
            self.parsed.insert(number, (stamp, parse_one(&text, number, &mut report)?));
            self.stamps.insert(path.as_os_str().to_owned(), Some(stamp));
            changed.push((number, path, before.map(|(_, file)| file)));
        }
        for path in gone {
            if self.stamps.remove(path.as_os_str()).is_some() {
                let number = self.number(path);
                let (_, before) = self.parsed.remove(&number)?;
                changed.push((number, path, Some(before)));
            }
        }
        let changed = changed.into_iter().map(|(number, path, before)| {
            let after = self.parsed.get(&number).map(|(_, file)| file);
            Changed { number, path, before, after }
        });
        let touched = joint.update(&changed.collect::<Vec<_>>(), loaded)?;
        self.joint = Some(joint);
        Some(touched)
    }

    /// The files of the last reading, as they were just before it.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// There were other files than could be read, with these stamps.
    pub fn set_stamps(&mut self, stamps: Stamps) {
        self.stamps = stamps;
        self.joint = None;
    }

    fn number(&mut self, path: &Path) -> usize {
        if let Some(number) = self.numbers.get(path.as_os_str()) {
            return *number;
        }
        let number = self.paths.len();
        self.paths.push(path.to_owned());
        self.numbers.insert(path.as_os_str().to_owned(), number);
        number
    }
}
