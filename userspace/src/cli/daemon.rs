//! `weft daemon`.

use std::{io, path::PathBuf};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{Failure, Global, Outcome, absolute};
use crate::{daemon, providers::once};

/// Runs the daemon.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Files that declare networks and services, or directories for all *.yaml and *.yml in them; they are merged and
    /// watched, so pipes and standard input (-) are not taken.
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Daemon {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        if self.files.iter().any(|file| once::is_standard_input(file)) {
            return Err(Failure::BadInput(
                "-f -: the daemon reads its files again whenever they change, and standard input can be read only \
                 once: write it to a file and name that"
                    .to_owned(),
            ));
        }
        let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter).init();
        let options = daemon::Options {
            files: absolute(&self.files)?,
            state_dir: global.state_dir.clone(),
            bpf_dir: global.bpf_dir.clone(),
            socket: global.socket.clone(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(daemon::run(options)).map_err(|error| match error {
            daemon::Error::BadInput(errors) => Failure::BadFiles(errors),
            other => Failure::Failed(other.to_string()),
        })
    }
}
