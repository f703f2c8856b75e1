//! Netlink: devices, addresses, routes and namespaces of this host.
//!
//! Everything here is a precise read or an idempotent `ensure`/`remove`; what ought to exist is decided by the
//! caller. [`Netlink`] speaks to one network namespace; the other modules add one kind of object each to it.

mod address;
mod bridge;
mod delay;
mod devices;
mod error;
mod ethtool;
mod forwarding;
mod handle;
mod instance;
mod link;
mod monitor;
mod namespace;
mod port_ranges;
mod routes;
mod sockets;
pub mod sysctl;
mod veth;
mod vxlan;

pub use address::Address;
pub use bridge::BridgeSpec;
pub use delay::DelaySpec;
pub use devices::{Ensured, Outcome};
pub use error::{Error, Result};
pub use ethtool::driver;
pub use forwarding::{ForwardingEntry, Neighbour};
pub use handle::Netlink;
pub use instance::NamespaceLock;
pub use link::{BridgeAttributes, Link, LinkKind, PortFlags, VethPeer, VxlanAttributes};
pub use monitor::{Change, Event, Monitor, Scope};
pub use namespace::{Namespace, NamespaceIdentity, NamespaceRef};
pub use port_ranges::{InvalidPortRanges, PortRanges};
pub use routes::{Route, RouteLookup};
pub use sockets::{LocalSocket, PortHolder, Process, SocketState, bound_ports, holders, sockets};
pub use veth::{EnsuredVeth, VethSpec};
pub use vxlan::VxlanSpec;
