//! The differential oracle: random topologies and actions, played on weft and on the kernel's own bridge, nftables and
//! vxlan, which mean the same. What both ends of every action saw must be the same, but for the standing differences in
//! [`rules`].
//!
//! Namespaces, servers and daemons live as long as the run; a case changes what is declared, and every action makes its
//! sockets in the namespaces that it needs ([`sockets`]).

pub mod actions;
pub mod comparison;
pub mod description;
pub mod family;
pub mod generator;
pub mod kernel;
pub mod kernel_rules;
pub mod observation;
pub mod rules;
pub mod runner;
pub mod servers;
pub mod shrink;
pub mod site;
pub mod sockets;
pub mod stage;
pub mod topology;
pub mod weft;
