//! weft's controller: it turns a declared state of networks and containers into kernel devices and BPF maps.
//!
//! Dependencies point one way: `cli` and `providers` know the `model`; `reconcile` knows the model, `netdev`
//! and `dataplane`; only `dataplane` knows aya.

pub mod config;
pub mod dataplane;
pub mod model;
pub mod netdev;
