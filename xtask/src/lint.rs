//! `cargo xtask lint`: formatting, and clippy for both targets.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::{
    command::{cargo, root, run as run_command, target_directory},
    toolchain::{self, DEBIAN_RUSTC, TARGET, Toolchain},
};

/// Options of `lint`: none.
#[derive(Debug, clap::Args)]
pub struct Options {}

/// Fails at the first complaint.
pub fn run(_: &Options) -> Result<()> {
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    let mut host = cargo();
    host.args(["clippy", "--workspace", "--exclude", "dataplane-ebpf", "--all-targets"]);
    run_command(host.args(["--", "-D", "warnings"]))?;
    let mut bpf = match toolchain::require()? {
        // rustup's clippy-driver belongs to another compiler; Debian's own is of the same version as its rustc.
        // `CARGO` is in the environment: cargo-clippy calls the cargo that called us.
        Toolchain::Debian => {
            ensure!(
                Path::new("/usr/bin/cargo-clippy").is_file() && Path::new("/usr/bin/clippy-driver").is_file(),
                "no clippy for the BPF target: run `cargo xtask setup`, or `apt-get install rust-web-clippy`"
            );
            let mut command = Command::new("/usr/bin/cargo-clippy");
            command.arg("clippy").current_dir(root());
            // aya-ebpf uses unstable features.
            command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            command
        }
        Toolchain::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "clippy", "-Z", "build-std=core"]);
            // Of the toolchain that runs us.
            command
                .env_remove("CARGO")
                .env_remove("RUSTC")
                .env_remove("RUSTUP_TOOLCHAIN")
                .current_dir(root());
            command
        }
    };
    // Its own directory: the two compilers would overwrite each other's build scripts.
    bpf.env("CARGO_TARGET_DIR", target_directory()?.join("lint-bpf"));
    bpf.args(["--package", "dataplane-ebpf", "--target", TARGET, "--", "-D", "warnings"]);
    run_command(&mut bpf)
}
