//! `weft config check` and `weft config schema`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, Global, Outcome, lines, output};
use crate::{config, providers::once};

/// The file format.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check files, and that the namespaces they name exist, without applying them.
    Check {
        /// Files, directories for all *.yaml and *.yml in them, pipes, or - for standard input; they are merged.
        #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print the JSON schema of the file format.
    Schema,
}

impl Config {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        match self {
            Self::Schema => output::json(&config::json_schema()),
            Self::Check { files } => match once::load_checked(files) {
                Ok(loaded) => {
                    let warnings: Vec<String> = loaded.state.host.timeouts.below_the_rfcs().collect();
                    if global.output == output::Format::Json {
                        return output::json(
                            &serde_json::json!({ "state": "good", "errors": [], "warnings": warnings }),
                        );
                    }
                    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                    Ok(())
                }
                Err(errors) => {
                    if global.output == output::Format::Table {
                        return Err(Failure::BadFiles(errors));
                    }
                    output::json(&serde_json::json!({ "state": "bad", "errors": errors }))?;
                    eprintln!("{}", lines(&errors));
                    Err(Failure::Shown(2))
                }
            },
        }
    }
}
