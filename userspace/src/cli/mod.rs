//! The command line. Its words, documents and exit codes are a contract: scripts rely on them.

mod apply;
mod config;
mod daemon;
mod drop;
mod endpoint;
mod flow;
mod network;
mod output;
mod port;
mod status;
mod teardown;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::{
    control::client,
    providers::{file::FileError, once},
};

/// Container networking in eBPF.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of all commands.
#[derive(Debug, Args)]
struct Global {
    /// How to print: aligned tables for people, or JSON for programs.
    #[arg(short, long, value_enum, global = true, default_value_t = output::Format::Table)]
    output: output::Format,
    /// The daemon's control socket.
    #[arg(long, global = true, default_value = "/run/weft/weft.sock")]
    socket: PathBuf,
    /// Where maps and programs are pinned.
    #[arg(long, global = true, default_value = "/sys/fs/bpf/weft")]
    bpf_dir: PathBuf,
    /// Where leased addresses and ports are kept.
    #[arg(long, global = true, default_value = "/var/lib/weft")]
    state_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in the foreground and keep this host as the files declare it.
    Daemon(daemon::Daemon),
    /// Have the running daemon take these files as its state.
    Apply(apply::Apply),
    /// Show what runs, what does not and why.
    Status,
    /// Networks.
    #[command(subcommand)]
    Network(network::Network),
    /// Containers.
    #[command(subcommand)]
    Endpoint(endpoint::Endpoint),
    /// Published ports.
    #[command(subcommand)]
    Port(port::Port),
    /// Translated flows; works without a daemon.
    #[command(subcommand)]
    Flow(flow::Flow),
    /// Dropped packets by reason; works without a daemon.
    #[command(subcommand)]
    Drop(drop::Drop),
    /// The file format.
    #[command(subcommand)]
    Config(config::Config),
    /// End the daemon and remove everything weft has ever made here.
    Teardown,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2.
    BadInput(String),
    /// Exit code 2, with what is wrong in parts.
    BadFiles(Vec<FileError>),
    /// This exit code; the reason has been printed.
    Shown(u8),
}

impl Failure {
    /// Says why on stderr, and in JSON on stdout where a program reads it. Gives the exit code.
    fn report(self, format: output::Format) -> u8 {
        let (code, reason, files) = match self {
            Self::Shown(code) => return code,
            Self::Failed(reason) => (1, reason, Vec::new()),
            Self::BadInput(reason) => (2, reason, Vec::new()),
            Self::BadFiles(errors) => (2, lines(&errors), errors),
        };
        if files.is_empty() {
            eprintln!("weft: {reason}");
        } else {
            eprintln!("{reason}");
        }
        if format == output::Format::Json {
            // Nothing is left to be done about a standard output that is gone.
            let _ = output::json(&json!({ "error": reason, "exit_code": code, "errors": files }));
        }
        code
    }
}

fn lines(errors: &[FileError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<crate::dataplane::Error> for Failure {
    fn from(error: crate::dataplane::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Result of a command.
type Outcome = Result<(), Failure>;

/// Does what the command line says and gives the exit code: 0 done, 1 failed, 2 bad input.
pub fn run(cli: Cli) -> u8 {
    let Cli { global, command } = cli;
    let format = global.output;
    let outcome = match command {
        Command::Daemon(command) => command.run(&global),
        Command::Apply(command) => command.run(&global),
        Command::Status => status::run(&global),
        Command::Network(command) => command.run(&global),
        Command::Endpoint(command) => command.run(&global),
        Command::Port(command) => command.run(&global),
        Command::Flow(command) => command.run(&global),
        Command::Drop(command) => command.run(&global),
        Command::Config(command) => command.run(&global),
        Command::Teardown => teardown::run(&global),
    };
    outcome.map_or_else(|failure| failure.report(format), |()| 0)
}

/// An answer of another kind than the question asked for.
fn unexpected(reply: crate::control::protocol::Reply) -> Failure {
    use crate::control::protocol::Reply;
    match reply {
        Reply::BadInput(errors) => Failure::BadFiles(errors),
        Reply::Failed(reason) => Failure::Failed(reason),
        other => Failure::Failed(format!("the daemon answered something else than was asked: {other:?}")),
    }
}

/// Paths as the daemon, which has a working directory of its own, must be told them.
fn absolute(files: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    files
        .iter()
        .map(|file| {
            if once::is_standard_input(file) {
                return Ok(file.clone());
            }
            std::path::absolute(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
        })
        .collect()
}
