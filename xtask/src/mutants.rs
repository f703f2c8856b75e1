//! `cargo xtask mutants`: changes the source in small ways, one at a time, and names each change that no test notices.
//!
//! It takes minutes (`--programs`: hours), so CI does not run it. .cargo/mutants.toml leaves out changes that make no
//! difference, each with its reason.

use std::process::Command;

use anyhow::Result;

use crate::{
    command::{cargo, output, run as run_command, target_directory},
    test, toolchain,
};

/// Options of `mutants`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Instead of the logic that both sides share, change how the programs find external ports and keep flows, and run the
    /// tests of packets on each change
    #[arg(long)]
    programs: bool,
    /// More arguments for cargo-mutants, such as `--list`
    #[arg(last = true)]
    arguments: Vec<String>,
}

const VERSION: &str = "27.1.0";
/// Files of the programs that `--programs` changes.
const PROGRAMS: &[&str] = &["dataplane-ebpf/src/external_port.rs", "dataplane-ebpf/src/flows.rs"];

/// Installs cargo-mutants where it is missing, and runs it on a copy of the source. Fails where a change is not noticed.
pub fn run(options: &Options) -> Result<()> {
    let installed = output(Command::new("cargo-mutants").args(["mutants", "--version"])).unwrap_or_default();
    if !installed.split_whitespace().any(|word| word == VERSION) {
        let install = ["install", "cargo-mutants", "--version", VERSION, "--locked", "--force"];
        run_command(cargo().args(install))?;
    }
    let mut command = cargo();
    // The copy has a target directory of its own.
    command.env_remove("CARGO_TARGET_DIR").arg("mutants").arg("--output").arg(target_directory()?);
    if options.programs {
        toolchain::require()?;
        test::run_tests_as_root(&mut command)?;
        // cargo-mutants tests the package that it changes; the programs have their tests in another.
        command.args([
            "--package",
            "dataplane-ebpf",
            "--cargo-arg=--package=weft",
            "--cargo-arg=--test=packets",
        ]);
        // Unoptimised tests would take longer than what they build anew. Random packets and figures are no tests of this.
        command.env("CARGO_INCREMENTAL", "1").args(["--profile", "release"]);
        command.args(PROGRAMS.iter().flat_map(|file| ["--file", file])).args(&options.arguments);
        command.args(["--", "--", "--skip", "fuzz", "--skip", "verifier"]);
    } else {
        command.args(["--package", "dataplane-common"]).args(&options.arguments);
    }
    run_command(&mut command)
}
