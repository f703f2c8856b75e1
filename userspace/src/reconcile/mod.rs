//! From a desired state to kernel devices and maps: fill what is open, compare with what is, apply the difference.
//!
//! Every round starts from the whole desired state and a reading of the host; nothing depends on having seen an event.
//! What is remembered between rounds only saves looking again at what was right and has not been heard of since.

pub mod changes;
pub mod containers;
pub mod devices;
pub mod facts;
pub mod kernel;
pub mod leases;
mod maps;
pub mod names;
mod namespaces;
mod overlay;
pub mod pool;
pub mod ports;
pub mod problem;
mod programs;
mod reconciler;
pub mod resolved;
pub mod sysctls;
pub mod tables;
mod uplinks;
mod waiting_room;
mod xdp;

pub use namespaces::reference as namespace_reference;
pub use reconciler::{Applied, Depth, Error, Reconciler};
