//! The desired state: what providers declare and the reconciler makes true. Pure data, no input or output.

mod state;

pub use state::{
    Attachment, Container, ContainerNamespace, DesiredState, Driver, HostPorts, HostSettings, MacAddress,
    Network, Peer, PortRange, Protocol, Publication, RemoteEndpoint, Subnet, Timeouts, VXLAN_PORT,
};
