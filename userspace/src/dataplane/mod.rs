//! The eBPF programs and maps of one host, as the controller sees them. The only module that knows aya.
//!
//! Everything that must outlive the daemon is pinned below one directory of the BPF file system:
//! `<bpf_dir>/v<ABI version>/maps/<map>` and `…/links/<program>[-<ifindex>]`. [`Dataplane::open`] takes over what is
//! there; nothing changes for packets until the caller asks for it.

mod bpffs;
mod cgroup;
mod error;
mod links;
mod object;
mod observe;
mod pinned;
mod ports;
mod sys;
mod table;
mod teardown;
mod xdp;

use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use bytemuck::Pod;
use dataplane_common::abi::{
    Address, Device, Endpoint, EndpointKey, Flow, FragmentKey, Fragments, HostSocketKey, HostSocketValue,
    Index, Mapping, MappingKey, Peer, Publication, PublicationKey, Remote, Settings, Subnet, SubnetKey,
    Tuple, VxlanKey, map, program,
};

pub use error::{Error, Result};
pub use links::{AttachedProgram, Ensured, TcProgram};
pub use object::{KeptSize, object_bytes};
pub use observe::{Flows, LoadedProgram, MapMemory};
pub use pinned::{Pinned, in_use};
pub use ports::{PortSets, publication_prefixes};
pub use table::{Changes, Order, Prefix, Table};
pub use teardown::{Removed, teardown};
pub use xdp::XdpError;

/// Where and how large.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory for pins, below /sys/fs/bpf.
    pub bpf_dir: PathBuf,
    /// Directory of the cgroup2 hierarchy whose sockets are hooked; `None`: its root, wherever it is mounted.
    pub cgroup: Option<PathBuf>,
    /// Sizes of maps that do not exist yet.
    pub sizes: Sizes,
}

/// Sizes of maps. `None` leaves what the programs declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Flows; the maps that serve flows keep their declared proportion to it.
    pub max_flows: u32,
    /// Containers on this host.
    pub max_endpoints: Option<u32>,
    /// Containers on other hosts.
    pub max_remotes: Option<u32>,
    /// Prefixes of published ports: one for a port, at most 30 for a range, for each protocol and address.
    pub max_publications: Option<u32>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { max_flows: 262_144, max_endpoints: None, max_remotes: None, max_publications: None }
    }
}

impl Sizes {
    /// Size of a map that the object declares with `declared` entries, and with `declared_flows` flows.
    fn max_entries(&self, name: &str, declared: u32, declared_flows: u32) -> u32 {
        match name {
            map::FLOWS | map::UNCONFIRMED | map::PORTS | map::MAPPINGS => {
                let scaled =
                    u64::from(declared) * u64::from(self.max_flows) / u64::from(declared_flows.max(1));
                u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
            }
            map::DEVICES | map::ENDPOINTS => self.max_endpoints.unwrap_or(declared),
            map::REMOTES => self.max_remotes.unwrap_or(declared),
            map::PUBLISHED => self.max_publications.unwrap_or(declared),
            _ => declared,
        }
    }
}

/// The maps that the controller fills or reads.
#[derive(Debug)]
pub struct Tables {
    /// By ifindex.
    pub devices: Table<u32, Device>,
    /// Containers here.
    pub endpoints: Table<EndpointKey, Endpoint>,
    /// Containers elsewhere.
    pub remotes: Table<EndpointKey, Remote>,
    /// Tunnel ends elsewhere.
    pub peers: Table<u32, Peer>,
    /// Who may send into which network.
    pub vxlan: Table<VxlanKey, u32>,
    /// Addresses of weft's networks.
    pub subnets: Table<Prefix<SubnetKey>, Subnet>,
    /// Addresses of this host, and the ifindex they are on.
    pub addresses: Table<Address, u32>,
    /// Published ports.
    pub published: Table<Prefix<PublicationKey>, Publication>,
    /// Sets of ports.
    pub port_sets: PortSets,
    /// Flows that both ends have confirmed; the programs' own.
    pub flows: Table<Tuple, Flow>,
    /// Flows that one end has opened; the programs' own.
    pub unconfirmed: Table<Tuple, Flow>,
    /// Claimed external ports; the programs' own.
    pub ports: Table<Tuple, Index>,
    /// External ports of internal sockets; the programs' own.
    pub mappings: Table<MappingKey, Mapping>,
    /// Sockets of the host that were led to containers; the programs' own.
    pub host_sockets: Table<HostSocketKey, HostSocketValue>,
    /// Datagrams in pieces; the programs' own.
    pub fragments: Table<FragmentKey, Fragments>,
    settings: Table<u32, Settings>,
}

/// The loaded programs, their maps and links. One for each `bpf_dir` at a time: it holds a lock.
#[derive(Debug)]
pub struct Dataplane {
    /// Maps as tables.
    pub tables: Tables,
    /// Programs, and the maps of counters.
    ebpf: Ebpf,
    links: links::Links,
    cgroup: Option<PathBuf>,
    kept_sizes: Vec<KeptSize>,
    layout: bpffs::Layout,
    bpf_dir: PathBuf,
    lock: bpffs::Lock,
}

/// A daemon moves it between threads.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Dataplane>();
};

impl Dataplane {
    /// Loads the programs of this build and takes over the pinned maps, or makes them.
    ///
    /// Takes as long as the verifier needs. Attaches nothing: links from before go on running the programs from before
    /// until `ensure_…` replaces them.
    pub fn open(options: &Options) -> Result<Self> {
        let lock = bpffs::prepare(&options.bpf_dir)?;
        let layout = bpffs::Layout::new(&options.bpf_dir);
        layout.create()?;
        let (mut ebpf, kept_sizes) = object::load(&layout.maps, &options.sizes)?;
        let links = links::Links::new(layout.links.clone(), &ebpf)?;
        let tables = Tables {
            devices: table(&mut ebpf, map::DEVICES)?,
            endpoints: table(&mut ebpf, map::ENDPOINTS)?,
            remotes: table(&mut ebpf, map::REMOTES)?,
            peers: table(&mut ebpf, map::PEERS)?,
            vxlan: table(&mut ebpf, map::VXLAN)?,
            subnets: table(&mut ebpf, map::SUBNETS)?,
            addresses: table(&mut ebpf, map::ADDRESSES)?,
            published: table(&mut ebpf, map::PUBLISHED)?,
            port_sets: PortSets { words: table(&mut ebpf, map::PORT_SETS)? },
            flows: table(&mut ebpf, map::FLOWS)?,
            unconfirmed: table(&mut ebpf, map::UNCONFIRMED)?,
            ports: table(&mut ebpf, map::PORTS)?,
            mappings: table(&mut ebpf, map::MAPPINGS)?,
            host_sockets: table(&mut ebpf, map::HOST_SOCKETS)?,
            fragments: table(&mut ebpf, map::FRAGMENTS)?,
            settings: table(&mut ebpf, map::SETTINGS)?,
        };
        let cgroup = options.cgroup.clone();
        let bpf_dir = options.bpf_dir.clone();
        Ok(Self { tables, ebpf, links, cgroup, kept_sizes, layout, bpf_dir, lock })
    }

    /// Pins again what somebody has unpinned: without its pin a map would be lost with this process, and all flows with
    /// it. Links are repaired by `ensure_…`. Answers whether anything was missing.
    pub fn ensure_pins(&mut self) -> Result<bool> {
        let mut missing = false;
        if !self.bpf_dir.exists() {
            self.layout.create()?;
            // The lock was on the directory that is gone.
            self.lock = bpffs::lock(&self.bpf_dir)?;
            missing = true;
        } else if !self.layout.maps.exists() || !self.layout.links.exists() {
            self.layout.create()?;
            missing = true;
        }
        for (name, map) in self.maps() {
            let pin = self.layout.maps.join(name);
            if !pin.exists() {
                sys::object_pin(map.fd().as_fd(), &pin)
                    .map_err(Error::system(format!("pin map {}", pin.display())))?;
                missing = true;
            }
        }
        Ok(missing)
    }

    /// Maps that keep the size they were made with although another is configured now.
    pub fn kept_sizes(&self) -> &[KeptSize] {
        &self.kept_sizes
    }

    /// Has a program on a device of the calling thread's network namespace; `device` is for messages.
    ///
    /// Idempotent and cheap (five system calls when all is well), so that each round of reconciliation can ask for all
    /// of them: it repairs what was detached or removed behind weft's back.
    pub fn ensure_tc(&self, device: &str, ifindex: u32, program: TcProgram) -> Result<Ensured> {
        self.links.ensure_tc(device, ifindex, program)
    }

    /// Has the ten programs for sockets of the host on the cgroup hierarchy; as [`Self::ensure_tc`].
    pub fn ensure_host_sockets(&self) -> Result<Vec<(&'static str, Ensured)>> {
        let cgroup = cgroup::Cgroup::open(self.cgroup.as_deref())?;
        program::HOST_SOCKETS
            .iter()
            .map(|&name| Ok((name, self.links.ensure_cgroup(&cgroup, name)?)))
            .collect()
    }

    /// All pinned links, as the kernel describes them. One whose device has gone is not `live`: [`Self::detach`] it.
    pub fn attached(&self) -> Result<Vec<AttachedProgram>> {
        let cgroup = cgroup::Cgroup::open(self.cgroup.as_deref()).ok();
        self.links.attached(cgroup.map(|cgroup| cgroup.id()))
    }

    /// Takes all of weft's programs off a device, or away that were on a device that has gone; answers how many.
    pub fn detach(&self, ifindex: u32) -> Result<usize> {
        let mut detached = 0;
        for program in TcProgram::ALL {
            detached += usize::from(self.links.detach(ifindex, program)?);
        }
        detached += usize::from(self.detach_xdp(ifindex)?);
        Ok(detached)
    }

    /// Takes one program off a device; `false` if it was not there.
    pub fn detach_program(&self, ifindex: u32, program: TcProgram) -> Result<bool> {
        self.links.detach(ifindex, program)
    }

    /// The settings as the programs see them.
    pub fn settings(&self) -> Result<Option<Settings>> {
        Ok(self.tables.settings.dump()?.remove(&0))
    }

    /// Changes the settings; `false` if they were so already.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<bool> {
        if self.settings()?.as_ref() == Some(settings) {
            return Ok(false);
        }
        self.tables.settings.set(&0, settings)?;
        Ok(true)
    }

    /// Every pinned map.
    fn maps(&self) -> Vec<(&'static str, &MapData)> {
        let tables = &self.tables;
        let mut maps = vec![
            (map::DEVICES, tables.devices.map()),
            (map::ENDPOINTS, tables.endpoints.map()),
            (map::REMOTES, tables.remotes.map()),
            (map::PEERS, tables.peers.map()),
            (map::VXLAN, tables.vxlan.map()),
            (map::SUBNETS, tables.subnets.map()),
            (map::ADDRESSES, tables.addresses.map()),
            (map::PUBLISHED, tables.published.map()),
            (map::PORT_SETS, tables.port_sets.words.map()),
            (map::FLOWS, tables.flows.map()),
            (map::UNCONFIRMED, tables.unconfirmed.map()),
            (map::PORTS, tables.ports.map()),
            (map::MAPPINGS, tables.mappings.map()),
            (map::HOST_SOCKETS, tables.host_sockets.map()),
            (map::FRAGMENTS, tables.fragments.map()),
            (map::SETTINGS, tables.settings.map()),
        ];
        // What only the programs write.
        for name in [map::PEER_NEXT_HOPS, map::ICMP_BUDGETS, map::COUNTERS, map::DROPS] {
            if let Some(Map::PerCpuArray(data) | Map::LruHashMap(data) | Map::Array(data)) =
                self.ebpf.map(name)
            {
                maps.push((name, data));
            }
        }
        maps
    }
}

/// The map's data, whatever kind it is of: the kinds differ in what aya offers, not in what they are.
fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).ok_or_else(|| Error::Object(format!("it has no map {name}")))
}

fn table<K: Pod + Eq + std::hash::Hash, V: Pod + PartialEq>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Table<K, V>> {
    match take(ebpf, name)? {
        Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) | Map::Array(data) => {
            Table::new(name, data)
        }
        other => Err(Error::Object(format!("map {name} is no table but {other:?}"))),
    }
}
