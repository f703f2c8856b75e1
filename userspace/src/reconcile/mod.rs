//! From a desired state to kernel devices and maps: fill what is open, compare with what is, apply the difference.

pub mod leases;
pub mod names;
pub mod problem;
pub mod resolved;
