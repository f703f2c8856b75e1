//! `cargo xtask test`: every test, as root where it must be.
//!
//! In the release profile: what is tested is what runs, and `cargo xtask run` has built it already.

use std::{fs, process::Command};

use anyhow::Result;

use crate::{
    command::{cargo, find_program, is_root, output, privileged, run as run_command, words},
    toolchain,
};

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
}

/// Packages with tests.
const PACKAGES: &[&str] =
    &["--package", "dataplane-common", "--package", "weft", "--package", "tests", "--package", "xtask"];

/// Builds everything and runs the tests. The last lines are the test runner's summary.
pub fn run(options: &Options) -> Result<()> {
    toolchain::require()?;
    mount_bpffs()?;
    // The lab looks for these beside the test programs.
    run_command(cargo().args(["build", "--release", "--package", "weft", "--package", "tests", "--bins"]))?;
    let mut command = cargo();
    run_tests_as_root(&mut command)?;
    if find_program("cargo-nextest").is_some() {
        command.args(["nextest", "run", "--release", "--no-fail-fast"]).args(PACKAGES).args(&options.filter);
    } else {
        command.args(["test", "--release", "--no-fail-fast"]).args(PACKAGES).arg("--").args(&options.filter);
    }
    run_command(&mut command)
}

/// Has cargo and nextest start the test programs as root; building needs none.
pub fn run_tests_as_root(command: &mut Command) -> Result<()> {
    if !is_root() {
        let host = output(Command::new("rustc").args(["--print", "host-tuple"])).unwrap_or_default();
        let variable = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
        command.env(variable, words(&privileged("env")?));
    }
    Ok(())
}

/// A daemon mounts bpffs where it is missing, but tests start many at a time: two mounts would hide each
/// other's pins.
pub fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if mounts.lines().any(|mount| mount.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        return Ok(());
    }
    run_command(privileged("mount")?.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))
}
