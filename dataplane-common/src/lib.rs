//! The contract between weft's eBPF programs and its controller, and the logic both sides can run.
//!
//! * [`abi`]: keys and values of every map, drop reasons, paths.
//! * [`packet`]: header layouts and checksum arithmetic.
//! * [`flow`]: the life of a flow, as pure functions.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod flow;
pub mod packet;
