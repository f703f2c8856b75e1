//! The `weft` binary.

use std::process::ExitCode;

use clap::Parser;
use weft::cli::{Cli, run};

fn main() -> ExitCode {
    ExitCode::from(run(Cli::parse()))
}
