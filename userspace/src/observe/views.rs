//! The documents. Their field names are part of the command line's contract.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    model::{MacAddress, Policy, PortRange, Protocol, Xdp},
    providers::file::FileError,
    reconcile::problem::Problem,
};

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counts by name.
pub type Counts = BTreeMap<String, Count>;

/// `weft status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatusView {
    /// Whether a daemon runs. Without one everything but counters and drops is empty.
    pub running: bool,
    /// Process id of the daemon.
    pub pid: Option<u32>,
    /// The files.
    pub config: ConfigView,
    /// How long reading and applying the last change of the files took, in milliseconds; none since the start: `None`.
    pub last_apply_ms: Option<f64>,
    /// CPU time of the daemon in that while, in milliseconds.
    pub last_apply_cpu_ms: Option<f64>,
    /// Devices that lead to the world.
    pub uplinks: Vec<UplinkView>,
    /// Whether this host forwards.
    pub forwarding: ForwardingView,
    /// External ports that masquerade uses.
    pub masquerade_ports: Option<PortRange>,
    /// What is not as declared.
    pub problems: Vec<Problem>,
    /// Kernel settings that weft has changed.
    pub sysctls: Vec<SysctlView>,
    /// Programs.
    pub programs: Vec<ProgramView>,
    /// Maps.
    pub maps: Vec<MapView>,
    /// Packets by the way they took.
    pub counters: Counts,
    /// Dropped packets by reason.
    pub drops: Counts,
}

/// State of the files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ConfigView {
    /// `good`, or `bad` while the files have errors and the last good state is served.
    pub state: String,
    /// The files.
    pub files: Vec<std::path::PathBuf>,
    /// Whether changes of them are applied; not if one of them could be read only once.
    pub watched: bool,
    /// What is wrong with them.
    pub errors: Vec<FileError>,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<String>,
}

/// A device that leads to the world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UplinkView {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// IPv4 address that masqueraded traffic leaves with.
    pub address: Option<IpAddr>,
    /// The same for IPv6.
    pub address_v6: Option<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether XDP serves it before tc.
    #[serde(default)]
    pub xdp: XdpView,
}

/// Whether XDP serves an uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct XdpView {
    /// What the files ask for.
    pub wanted: Xdp,
    /// `native`, or `none` where tc serves alone.
    pub mode: String,
    /// Why.
    pub reason: String,
}

/// Whether this host forwards.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ForwardingView {
    /// Containers reach the world.
    pub enabled: bool,
    /// The same by IPv6; `None` where no network has it.
    #[serde(default)]
    pub enabled_v6: Option<bool>,
    /// Why not.
    pub reason: Option<String>,
}

/// A kernel setting that weft has changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SysctlView {
    /// Name.
    pub name: String,
    /// Value before weft.
    pub before: String,
    /// Value now.
    pub now: String,
}

/// A loaded program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgramView {
    /// Name.
    pub name: String,
    /// The kernel's number.
    pub id: u32,
    /// Instructions that the verifier went through.
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code.
    pub jited_bytes: u32,
    /// Number of places it is attached to.
    pub attached: usize,
}

/// A map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MapView {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: String,
    /// Most entries.
    pub max_entries: u32,
    /// Kernel memory in bytes.
    pub bytes: u64,
}

/// A network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkView {
    /// Name.
    pub name: String,
    /// Number in the maps.
    pub number: u32,
    /// `bridge` or `overlay`.
    pub driver: String,
    /// IPv4 address range.
    pub subnet: Option<String>,
    /// The bridge's address in it.
    pub gateway: Option<IpAddr>,
    /// IPv6 address range.
    pub subnet_v6: Option<String>,
    /// The bridge's address in it.
    pub gateway_v6: Option<IpAddr>,
    /// Bridge device.
    pub bridge: String,
    /// MTU of its devices.
    pub mtu: Option<u32>,
    /// Whom its members reach, and who reaches them.
    #[serde(flatten)]
    pub policy: Policy,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// Vxlan device.
    pub vxlan: Option<String>,
    /// Its containers, those on other hosts included.
    pub endpoints: Vec<EndpointView>,
}

/// A container's interface, or a container that has none of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointView {
    /// Container.
    pub container: String,
    /// Network; `None` for a container without one.
    pub network: Option<String>,
    /// `ready`, `failed` (see the problems), `missing` (its namespace), `remote`, or the mode of a container that weft
    /// gives no interface: `none`, `host`, `shared`.
    pub state: String,
    /// IPv4 address with prefix length.
    pub address: Option<String>,
    /// IPv6 address with prefix length.
    pub address_v6: Option<String>,
    /// MAC address.
    pub mac_address: Option<MacAddress>,
    /// Name inside the container.
    pub interface: Option<String>,
    /// Host side.
    pub device: Option<String>,
    /// Index of the host side.
    pub ifindex: Option<u32>,
    /// Identity in the maps.
    pub epoch: Option<u32>,
    /// Where it is: the namespace, the other host, or the container whose stack it shares.
    pub place: Option<String>,
}

/// A published port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortView {
    /// Container.
    pub container: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Host address; `0.0.0.0` and `::`: all of their family.
    pub host_address: IpAddr,
    /// Host ports.
    pub host_ports: PortRange,
    /// The container's address.
    pub container_address: IpAddr,
    /// Container ports.
    pub container_ports: PortRange,
    /// Network it leads through.
    pub network: String,
    /// `served` or `refused`.
    pub state: String,
    /// Why it is refused.
    pub reason: Option<String>,
}

/// A flow record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowView {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp` or a number.
    pub protocol: String,
    /// `masquerade`, `portmap`, `hairpin`, `turn_back` or `routed`.
    pub kind: String,
    /// `unconfirmed`, `established` or `closing`.
    pub state: String,
    /// The container's own end.
    pub container_address: IpAddr,
    /// Port there; the identifier of an ICMP query.
    pub container_port: u16,
    /// The other end.
    pub remote_address: IpAddr,
    /// Port there.
    pub remote_port: u16,
    /// The host's address in the place of the container's.
    pub external_address: IpAddr,
    /// Port there.
    pub external_port: u16,
    /// Network number.
    pub network: u32,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// Seconds since it was opened.
    pub age_seconds: u64,
}
