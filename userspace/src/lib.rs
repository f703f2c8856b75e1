//! weft's controller: it turns a declared state of networks and containers into kernel devices and BPF maps.
//!
//! Dependencies point one way: `cli` and `providers` know the `model`; `reconcile` knows the model, `netdev`
//! and `dataplane`; only `dataplane` knows aya.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod model;
pub mod netdev;
pub mod observe;
pub mod providers;
pub mod reconcile;
