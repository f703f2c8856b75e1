//! `cargo xtask build`: the daemon, which has the eBPF object in it (userspace/build.rs builds that).

use anyhow::Result;

use crate::{
    command::{cargo, run as run_command},
    toolchain,
};

/// Options of `build`: none.
#[derive(Debug, clap::Args)]
pub struct Options {}

/// Builds the release profile.
pub fn run(_: &Options) -> Result<()> {
    toolchain::require()?;
    run_command(cargo().args(["build", "--release", "--package", "weft"]))
}
