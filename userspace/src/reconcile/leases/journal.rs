//! What a difference changed in the leases, appended to a journal beside the lease file: one more container must not cost
//! the writing of all others.
//!
//! The first line names the lease file that the journal continues, by its hash; replacing that file makes the journal
//! void, however late it is removed. A line that a crash cut off is not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{EndpointLease, Leases, NetworkLease, store::remove_if_there};
use crate::reconcile::{names::stable_hash, resolved::ResolvedState};

/// Name of the file in the state directory.
const FILE_NAME: &str = "leases.journal";

/// From this size on the lease file itself is written again.
const LARGEST: u64 = 1 << 20;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Hash of the lease file.
    continues: u64,
}

/// Another line: what holds now for some containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    next_epoch: u32,
    networks: BTreeMap<String, NetworkLease>,
    /// By container.
    endpoints: BTreeMap<String, BTreeMap<String, EndpointLease>>,
    devices: BTreeSet<String>,
    /// Containers whose host ports are free for others.
    ports_gone: BTreeSet<String>,
    /// What weft adds to `net.ipv4.ip_local_reserved_ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reserved_ports: Option<String>,
}

impl Entry {
    /// What is to be known of the touched containers, when `kept` is known already.
    pub fn new(leases: &Leases, kept: &Leases, touched: &BTreeSet<String>, state: &ResolvedState) -> Self {
        let devices = touched
            .iter()
            .flat_map(|name| state.of_container(name))
            .map(|(_, endpoint)| endpoint.device.clone());
        Self {
            next_epoch: leases.next_epoch,
            networks: leases
                .networks
                .iter()
                .filter(|(name, lease)| kept.networks.get(*name) != Some(lease))
                .map(|(name, lease)| (name.clone(), lease.clone()))
                .collect(),
            endpoints: touched
                .iter()
                .filter_map(|name| Some((name.clone(), leases.endpoints.get(name)?.clone())))
                .collect(),
            devices: devices.collect(),
            ports_gone: touched
                .iter()
                .filter(|name| leases.ports_of(name).next().is_none() && kept.ports_of(name).next().is_some())
                .cloned()
                .collect(),
            reserved_ports: (leases.reserved_ports != kept.reserved_ports)
                .then(|| leases.reserved_ports.clone()),
        }
    }

    /// Whether `kept` knows all of it.
    pub fn is_kept(&self, kept: &Leases) -> bool {
        self.next_epoch == kept.next_epoch
            && self.networks.is_empty()
            && self.ports_gone.is_empty()
            && self.reserved_ports.is_none()
            && self.devices.is_subset(&kept.devices)
            && self.endpoints.iter().all(|(name, lease)| kept.endpoints.get(name) == Some(lease))
    }

    /// Enters it in the leases.
    pub fn apply(self, leases: &mut Leases) {
        leases.next_epoch = self.next_epoch;
        leases.networks.extend(self.networks);
        leases.endpoints.extend(self.endpoints);
        leases.devices.extend(self.devices);
        self.ports_gone.iter().for_each(|name| leases.forget_ports_of(name));
        if let Some(reserved) = self.reserved_ports {
            leases.reserved_ports = reserved;
        }
    }
}

/// The journal of a state directory.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Hash of the lease file, once that is known to hold everything that is not in the journal.
    continues: Option<u64>,
    length: u64,
}

impl Journal {
    /// That of the directory.
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join(FILE_NAME), continues: None, length: 0 }
    }

    /// Begins anew behind a lease file that was just written.
    pub fn begin(&mut self, lease_file: &Path) -> io::Result<()> {
        self.continues = None;
        self.length = 0;
        remove_if_there(&self.path)?;
        self.continues = Some(hash(&fs::read(lease_file)?));
        Ok(())
    }

    /// The lease file may have been replaced, or not: nothing can be appended until [`Self::begin`].
    pub fn doubt(&mut self) {
        self.continues = None;
    }

    /// Appends an entry, on disk when this returns; `false` if it is time to write the lease file instead.
    pub fn append(&mut self, entry: &Entry) -> io::Result<bool> {
        let Some(continues) = self.continues else { return Ok(false) };
        if self.length > LARGEST {
            return Ok(false);
        }
        let mut text = Vec::new();
        if self.length == 0 {
            serde_json::to_writer(&mut text, &Header { version: Leases::VERSION, continues })?;
            text.push(b'\n');
        }
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
        // What fails may have been written in part: the lease file has to be written next.
        self.continues = None;
        let mut file = File::options().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(&text)?;
        file.sync_data()?;
        if self.length == 0
            && let Some(directory) = self.path.parent()
        {
            File::open(directory)?.sync_all()?;
        }
        self.length += text.len() as u64;
        self.continues = Some(continues);
        Ok(true)
    }
}

/// Enters in the leases what the journal has beyond the lease file with this content.
pub fn replay(directory: &Path, lease_file: &[u8], leases: &mut Leases) -> io::Result<()> {
    let text = match fs::read(directory.join(FILE_NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let header = lines.next().and_then(|line| serde_json::from_slice::<Header>(line).ok());
    let continued =
        |header: &Header| header.version == Leases::VERSION && header.continues == hash(lease_file);
    if !header.as_ref().is_some_and(continued) {
        return Ok(());
    }
    for line in lines {
        // Nothing behind a damaged line can be relied upon.
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { break };
        entry.apply(leases);
    }
    Ok(())
}

/// Removes the journal of a directory; fine if there is none.
pub fn remove(directory: &Path) -> io::Result<()> {
    remove_if_there(&directory.join(FILE_NAME))
}

fn hash(content: &[u8]) -> u64 {
    stable_hash(0, &[&String::from_utf8_lossy(content)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::leases::Store;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    fn entry(number: u32) -> Entry {
        let lease = EndpointLease {
            address: Some([10, 0, 0, number as u8].into()),
            address_v6: None,
            mac: crate::model::MacAddress([2, 0, 0, 0, 0, number as u8]),
            epoch: number,
            namespace_cookie: None,
            interface: Some(0),
            gone_since: None,
        };
        Entry {
            next_epoch: number + 1,
            networks: BTreeMap::new(),
            endpoints: BTreeMap::from([(
                format!("c{number}"),
                BTreeMap::from([("front".to_owned(), lease)]),
            )]),
            devices: BTreeSet::from([format!("veth{number}")]),
            ports_gone: BTreeSet::new(),
            reserved_ports: (number == 2).then(|| "80".to_owned()),
        }
    }

    #[test]
    fn entries_are_read_behind_their_lease_file_only() -> TestResult {
        let directory = tempfile::tempdir()?;
        let store = Store::new(directory.path());
        let mut journal = Journal::new(directory.path());
        assert!(!journal.append(&entry(1))?, "there is no lease file yet");
        let mut leases = Leases::new(7);
        store.save(&leases)?;
        journal.begin(store.path())?;
        for number in 1..4 {
            assert!(journal.append(&entry(number))?);
            entry(number).apply(&mut leases);
            assert_eq!(store.load()?.as_ref(), Some(&leases));
        }
        // The last line was cut off by a crash, at any place.
        let path = directory.path().join(FILE_NAME);
        let whole = fs::read(&path)?;
        let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap_or_default() + 1;
        for cut in last..whole.len() {
            fs::write(&path, &whole[..cut])?;
            assert_eq!(store.load()?.map(|leases| leases.next_epoch), Some(3));
        }
        // A crash after the lease file was replaced and before the journal was removed.
        fs::write(&path, &whole)?;
        leases.next_epoch = 100;
        store.save(&leases)?;
        assert_eq!(store.load()?, Some(leases));
        store.remove()?;
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }
}
