//! `cargo xtask run`: the demonstration, or weft itself.

use std::env;

use anyhow::Result;

use crate::{
    build,
    command::{cargo, is_root, privileged, replace, run as run_command, target_directory},
    demo, setup, test,
};

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// End after the reachability table, with exit code 0 only if every row is as it must be
    #[arg(long)]
    once: bool,
    /// Everything is built: what the run as root is told
    #[arg(long, hide = true)]
    built: bool,
    /// Run weft with these arguments in the current network namespace instead of the demonstration
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Installs, builds and runs.
pub fn run(options: &Options) -> Result<()> {
    if !options.built {
        setup::run(&setup::Options {})?;
        build::run(&build::Options {})?;
        if options.arguments.is_empty() {
            run_command(cargo().args(["build", "--release", "--package", "tests", "--bins"]))?;
        }
    }
    let release = target_directory()?.join("release");
    if !options.arguments.is_empty() {
        return replace(privileged(release.join("weft"))?.args(&options.arguments));
    }
    if !is_root() {
        // Only this part is root's; what was built stays the user's.
        let mut again = privileged(env::current_exe()?)?;
        return replace(again.args(["run", "--built"]).args(options.once.then_some("--once")));
    }
    test::mount_bpffs()?;
    demo::run(&release, options.once)
}
