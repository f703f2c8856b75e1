//! The desired state: what providers declare and the reconciler makes true, and arithmetic on ranges of addresses. Pure
//! data, no input or output.

mod family;
mod protocol;
pub mod range;
mod state;

pub use family::{BeforePort, Family, PerFamily};
pub use protocol::{PerProtocol, Protocol};
pub use state::{
    Attachment, Container, ContainerNamespace, DesiredState, Driver, Filtering, GatewayMode, HostPorts,
    HostSettings, MacAddress, Network, Peer, PortRange, Publication, RemoteEndpoint, Subnet, Timeouts,
    VXLAN_PORT,
};
