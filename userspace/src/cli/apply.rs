//! `weft apply`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Global, Outcome, absolute, output, unexpected};
use crate::{
    control::{
        client::ask,
        protocol::{Reply, Request},
    },
    reconcile::{changes::Change, problem::Problem},
};

/// Applies files.
#[derive(Debug, Args)]
pub struct Apply {
    /// Files that declare networks and services, or directories for all *.yaml and *.yml in them; they are merged.
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
        let files = absolute(&self.files)?;
        let request = if self.dry_run { Request::Plan { files } } else { Request::Apply { files } };
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
