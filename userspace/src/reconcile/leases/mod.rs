//! Every choice the user left open is made once here and kept: numbers, subnets, addresses, MAC addresses, host
//! ports and epochs. [`resolve`] is a pure function of the desired state, the earlier choices and what the host is
//! like; [`Store`] keeps the choices in a file.

mod addresses;
mod containers;
pub mod difference;
pub mod journal;
mod networks;
mod overlay;
mod ports;
mod pruning;
mod publications;
mod store;
mod subnets;
mod unkept;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

pub use pruning::prune;
pub use store::{StateLock, Store, StoreError};
pub use unkept::withhold;

use super::resolved::{EndpointId, FoundNamespace, ResolvedEndpoint, ResolvedState};
use crate::{
    model::{DesiredState, Family, MacAddress, PerFamily, PerProtocol, PortRange},
    netdev::PortRanges,
};

/// All choices made so far. Nothing is forgotten while its object is away for less than a week; room is made earlier only
/// when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// Format of the file.
    pub version: u32,
    /// Random, so that MAC addresses of two hosts differ.
    pub seed: u64,
    /// Next network number; from 1, never used again.
    pub next_network: u32,
    /// Next epoch; from 1, never used again.
    pub next_epoch: u32,
    /// Next peer number; from 1.
    pub next_peer: u32,
    /// Networks by name.
    pub networks: BTreeMap<String, NetworkLease>,
    /// Container interfaces by container and network.
    pub endpoints: BTreeMap<String, BTreeMap<String, EndpointLease>>,
    /// Host ports of publications that leave them open, by [`publications`]' key.
    pub ports: BTreeMap<String, u16>,
    /// Numbers of the peers.
    pub peers: BTreeMap<IpAddr, u32>,
    /// When peers were found to be declared no longer, in seconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gone_peers: BTreeMap<IpAddr, u64>,
    /// Kernel settings that weft changed, with the value from before.
    pub sysctls: BTreeMap<String, String>,
    /// Device names that weft has used.
    pub devices: BTreeSet<String>,
    /// Where the settings were changed; elsewhere, and after a restart of the machine, they are what they were.
    pub sysctls_of: Option<SysctlScope>,
    /// `net.ipv4.ip_forward` is to be switched on, or was a moment ago.
    #[serde(default)]
    pub forwarding_due: bool,
    /// What has become of `net.ipv6.conf.all.forwarding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding_v6: Option<ForwardingV6>,
    /// Ports that weft added to `net.ipv4.ip_local_reserved_ports`, in the kernel's notation.
    pub reserved_ports: String,
}

/// One life of one network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlScope {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Cookie of the namespace.
    pub namespace_cookie: u64,
}

/// What has become of forwarding by IPv6, which is switched on when the first network needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardingV6 {
    /// It is to be switched on, or was a moment ago.
    Due,
    /// It is the administrator's from now on.
    Settled,
}

/// What a network keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLease {
    /// Number in the maps.
    pub number: u32,
    /// The IPv4 subnet chosen for it, if it names none.
    pub subnet: Option<Ipv4Network>,
    /// The IPv6 subnet chosen for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_v6: Option<Ipv6Network>,
    /// The IPv4 address given last.
    pub last_address: Option<Ipv4Addr>,
    /// The IPv6 address given last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_address_v6: Option<Ipv6Addr>,
    /// When it was found to be declared no longer, in seconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_since: Option<u64>,
}

/// What a container keeps for one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLease {
    /// Its IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_v6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its identity.
    pub epoch: u32,
    /// The namespace that the epoch stands for.
    pub namespace_cookie: Option<u64>,
    /// Number of its interface (`eth0`, `eth1`, …) while it is attached.
    pub interface: Option<u32>,
    /// When it was found to be declared no longer, in seconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_since: Option<u64>,
}

/// What the choices depend on besides the desired state.
#[derive(Debug, Clone)]
pub struct LeaseFacts {
    /// Destinations that the host routes elsewhere, without the default route and weft's own bridges.
    pub host_routes: Vec<IpNetwork>,
    /// Namespaces that exist, by container.
    pub namespaces: BTreeMap<String, FoundNamespace>,
    /// The host's ephemeral port range.
    pub ephemeral_ports: PortRange,
    /// Ports that processes of the host hold.
    pub bound_ports: PerProtocol<PortRanges>,
}

impl NetworkLease {
    /// Of a network that has nothing but its number.
    pub const fn new(number: u32) -> Self {
        Self {
            number,
            subnet: None,
            subnet_v6: None,
            last_address: None,
            last_address_v6: None,
            gone_since: None,
        }
    }

    /// The subnet chosen for one family.
    pub fn subnet_of(&self, family: Family) -> Option<IpNetwork> {
        match family {
            Family::V4 => self.subnet.map(IpNetwork::V4),
            Family::V6 => self.subnet_v6.map(IpNetwork::V6),
        }
    }

    fn choose_subnet(&mut self, subnet: IpNetwork) {
        match subnet {
            IpNetwork::V4(subnet) => self.subnet = Some(subnet),
            IpNetwork::V6(subnet) => self.subnet_v6 = Some(subnet),
        }
    }

    fn forget_subnet(&mut self, family: Family) {
        match family {
            Family::V4 => self.subnet = None,
            Family::V6 => self.subnet_v6 = None,
        }
    }

    fn last_given(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.last_address.map(IpAddr::V4),
            Family::V6 => self.last_address_v6.map(IpAddr::V6),
        }
    }

    fn note_given(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.last_address = Some(address),
            IpAddr::V6(address) => self.last_address_v6 = Some(address),
        }
    }
}

impl EndpointLease {
    /// Its addresses.
    pub fn addresses(&self) -> PerFamily<IpAddr> {
        PerFamily { v4: self.address.map(IpAddr::V4), v6: self.address_v6.map(IpAddr::V6) }
    }
}

impl Leases {
    /// Format of the file.
    pub const VERSION: u32 = 1;

    /// No choice made yet. `seed` should be random.
    pub const fn new(seed: u64) -> Self {
        Self {
            version: Self::VERSION,
            seed,
            next_network: 1,
            next_epoch: 1,
            next_peer: 1,
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            peers: BTreeMap::new(),
            gone_peers: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            devices: BTreeSet::new(),
            sysctls_of: None,
            forwarding_due: false,
            forwarding_v6: None,
            reserved_ports: String::new(),
        }
    }

    /// What a container keeps for one network.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&EndpointLease> {
        self.endpoints.get(&id.container)?.get(&id.network)
    }

    /// Whether an interface has what was chosen for it.
    fn has(&self, id: &EndpointId, endpoint: &ResolvedEndpoint) -> bool {
        self.endpoint(id).is_some_and(|lease| {
            lease.addresses() == endpoint.addresses.map(|address| address.ip())
                && lease.epoch == endpoint.epoch
        })
    }

    /// The keys of a container's host ports.
    fn ports_of(&self, container: &str) -> impl Iterator<Item = &String> {
        let prefix = format!("{container} ");
        let keys = self.ports.range(prefix.clone()..).map(|(key, _)| key);
        keys.take_while(move |key| key.starts_with(&prefix))
    }

    /// Has the host ports of a container free for others.
    fn forget_ports_of(&mut self, container: &str) {
        let gone: Vec<String> = self.ports_of(container).cloned().collect();
        for key in gone {
            self.ports.remove(&key);
        }
    }
}

/// Makes every open choice, keeping those of `leases` and entering the new ones there.
///
/// What cannot be resolved is left out and named in [`ResolvedState::problems`].
pub fn resolve(desired: &DesiredState, leases: &mut Leases, facts: &LeaseFacts) -> ResolvedState {
    let mut state = ResolvedState { host: desired.host.clone(), ..ResolvedState::default() };
    networks::resolve(desired, leases, facts, &mut state);
    overlay::resolve(desired, leases, &mut state);
    containers::resolve(desired, leases, facts, &mut state);
    publications::resolve(desired, leases, facts, &mut state);
    leases.devices.extend(
        state
            .networks
            .values()
            .flat_map(|network| [Some(network.bridge.clone()), network.vxlan.clone()].into_iter().flatten()),
    );
    leases.devices.extend(state.endpoints.values().map(|endpoint| endpoint.device.clone()));
    state
}

#[cfg(test)]
mod tests;
