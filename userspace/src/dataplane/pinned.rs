//! Reading the pinned maps without a daemon: what the programs count and keep goes on when nobody is there.

use std::{collections::HashMap, io, path::Path};

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use bytemuck::Pod;
use dataplane_common::abi::{ABI_VERSION, Counter, DropReason, Path as Way, map};

use super::{Error, Flows, Result, Table, bpffs};

/// The pinned maps of a directory.
#[derive(Debug)]
pub struct Pinned {
    maps: std::path::PathBuf,
}

impl Pinned {
    /// The maps of this build's layout; `None` if there are none.
    pub fn open(bpf_dir: &Path) -> Option<Self> {
        let maps = bpf_dir.join(format!("v{ABI_VERSION}")).join("maps");
        maps.join(map::COUNTERS).exists().then_some(Self { maps })
    }

    /// Packets by the way they took.
    pub fn counters(&self) -> Result<Vec<(Way, Counter)>> {
        let cells = self.per_cpu(map::COUNTERS)?;
        Way::ALL
            .iter()
            .map(|&way| Ok((way, super::observe::sum(&cells, map::COUNTERS, way as u32)?)))
            .collect()
    }

    /// Dropped packets by reason.
    pub fn drops(&self) -> Result<Vec<(DropReason, Counter)>> {
        let cells = self.per_cpu(map::DROPS)?;
        DropReason::ALL
            .iter()
            .map(|&reason| Ok((reason, super::observe::sum(&cells, map::DROPS, reason as u32)?)))
            .collect()
    }

    /// All flow records.
    pub fn flows(&self) -> Result<Flows> {
        Ok(Flows { confirmed: self.table(map::FLOWS)?, unconfirmed: self.table(map::UNCONFIRMED)? })
    }

    fn table<K: Pod + Eq + std::hash::Hash, V: Pod + PartialEq>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<K, V>> {
        Table::new(name, self.data(name)?)?.dump()
    }

    fn per_cpu(&self, name: &'static str) -> Result<PerCpuArray<MapData, Counter>> {
        Map::PerCpuArray(self.data(name)?)
            .try_into()
            .map_err(|error: MapError| Error::Object(format!("map {name}: {error}")))
    }

    fn data(&self, name: &str) -> Result<MapData> {
        let pin = self.maps.join(name);
        let action = format!("open {}", pin.display());
        MapData::from_pin(&pin).map_err(|error| Error::system(action)(io::Error::other(error)))
    }
}

/// Whether a daemon works on this directory.
pub fn in_use(bpf_dir: &Path) -> Result<bool> {
    if !bpf_dir.exists() {
        return Ok(false);
    }
    match bpffs::lock(bpf_dir) {
        Ok(_) => Ok(false),
        Err(Error::InUse { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
