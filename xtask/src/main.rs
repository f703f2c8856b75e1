//! weft's chores: `cargo xtask <command>`.

mod bench;
mod build;
mod command;
mod demo;
mod lint;
mod miri;
mod mutants;
mod run;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

/// Chores of the weft workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Command {
    /// Install what is missing: compiler for the BPF target, bpf-linker, programs that the labs use
    Setup(setup::Options),
    /// Build the daemon with its eBPF object
    Build(build::Options),
    /// Show weft at work in a lab of its own, or run it with the arguments after `--`
    Run(run::Options),
    /// Measure weft, the kernel's way and the cable side by side, or what scale costs
    Bench(bench::Options),
    /// Run every test, as root
    Test(test::Options),
    /// Check formatting, and run clippy for this machine and for the BPF target
    Lint(lint::Options),
    /// Run the tests of the shared logic in Miri, which finds undefined behaviour
    Miri(miri::Options),
    /// Change the source in small ways, and name each change that no test notices
    Mutants(mutants::Options),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Miri(options) => miri::run(&options),
        Command::Mutants(options) => mutants::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
