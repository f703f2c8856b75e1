//! The desired state: what providers declare and the reconciler makes true, and arithmetic on ranges of addresses. Pure
//! data, no input or output.

mod family;
mod host;
mod mac_address;
mod network;
mod protocol;
pub mod range;
mod state;

pub use family::{BeforePort, Family, PerFamily};
pub use host::{HostSettings, Timeouts, VXLAN_PORT, Xdp};
pub use mac_address::MacAddress;
pub use network::{Driver, Filtering, GatewayMode, Network, Policy, Subnet};
pub use protocol::{PerProtocol, Protocol};
pub use state::{
    Attachment, Container, ContainerNamespace, DesiredState, HostPorts, Peer, PortRange, Publication,
    RemoteEndpoint,
};
