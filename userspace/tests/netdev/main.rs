//! The netdev module against the real kernel, in network namespaces that each test makes for itself.
//!
//! What weft did is checked with `ip` and `bridge`, and what it must mend is broken with them. Needs root.

mod delay;
mod host;
mod monitor;
mod tunnel;
mod veth;
mod world;
