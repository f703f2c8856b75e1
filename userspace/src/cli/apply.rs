//! `weft apply`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Failure, Global, Outcome, absolute, output, unexpected};
use crate::{
    control::{
        client::ask,
        protocol::{Reply, Request},
    },
    providers::once,
    reconcile::{changes::Change, problem::Problem},
};

/// Applies files.
#[derive(Debug, Args)]
pub struct Apply {
    /// Files that declare networks and services, directories for all *.yaml and *.yml in them, or - for standard input;
    /// they are merged. If one is a pipe or standard input, all are read once and not watched.
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    changes: &'a [Change],
    problems: &'a [Problem],
}

impl Apply {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        // What can be read only once is read here: `/dev/fd/63` is another file to the daemon.
        let (files, texts) = match once::texts(&self.files).map_err(Failure::BadFiles)? {
            Some(sources) => {
                let (files, texts): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
                (absolute(&files)?, Some(texts))
            }
            None => (absolute(&self.files)?, None),
        };
        let request =
            if self.dry_run { Request::Plan { files, texts } } else { Request::Apply { files, texts } };
        match ask(&global.socket, &request)? {
            Reply::Changes { changes, problems } => {
                for problem in &problems {
                    eprintln!("problem: {problem}");
                }
                match global.output {
                    output::Format::Json => {
                        output::json(&Document { changes: &changes, problems: &problems })
                    }
                    output::Format::Table => {
                        changes.iter().try_for_each(|change| output::print(&change.to_string()))
                    }
                }
            }
            other => Err(unexpected(other)),
        }
    }
}
