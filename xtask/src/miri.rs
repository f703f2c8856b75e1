//! `cargo xtask miri`: the tests of the logic that both sides share, in an interpreter that finds undefined behaviour.
//!
//! What talks to the kernel cannot run there: programs, maps, netlink.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::command::{find_program, output, root, run as run_command, target_directory};

/// Options of `miri`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where there is no Miri, say so and succeed
    #[arg(long)]
    skip_if_missing: bool,
}

/// Cases of each property test: the interpreter is some hundred times slower.
const PROPERTY_CASES: &str = "32";

/// Runs the tests. Adds Miri to a nightly toolchain that is there.
pub fn run(options: &Options) -> Result<()> {
    if !have_miri() {
        let advice = "Miri is missing: `rustup toolchain install nightly --component miri,rust-src`";
        ensure!(options.skip_if_missing, "{advice}");
        eprintln!("miri: skipped. {advice}");
        return Ok(());
    }
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "miri", "test", "--package", "dataplane-common"]);
    // The toolchain that runs us is another one.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command.env("PROPTEST_CASES", PROPERTY_CASES);
    // Property tests look for a file of earlier failures.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    command.env("CARGO_TARGET_DIR", target_directory()?.join("miri"));
    run_command(command.current_dir(root()))
}

fn have_miri() -> bool {
    if find_program("rustup").is_none() {
        return false;
    }
    let works =
        || output(Command::new("rustup").args(["which", "--toolchain", "nightly", "cargo-miri"])).is_some();
    let add = ["component", "add", "miri", "rust-src", "--toolchain", "nightly"];
    works() || (run_command(Command::new("rustup").args(add)).is_ok() && works())
}
