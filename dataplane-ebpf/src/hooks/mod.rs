//! One page for each hook. A hook decides the order of the questions; the jobs answer them.

pub mod from_bridge;
pub mod from_container;
pub mod from_uplink;
pub mod from_waiting_room;
pub mod host_sockets;
pub mod to_container;
pub mod to_uplink;
pub mod uplink_xdp;
