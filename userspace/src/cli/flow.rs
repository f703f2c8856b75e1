//! `weft flow ls`: read from the pinned maps, so that it works while no daemon runs.

use clap::Subcommand;

use super::{Failure, Global, Outcome, output};
use crate::{dataplane::Pinned, model::BeforePort, observe};

/// Translated flows.
#[derive(Debug, Subcommand)]
pub enum Flow {
    /// List the flow records.
    Ls,
}

/// The pinned maps, or why there are none.
pub(super) fn pinned(global: &Global) -> Result<Pinned, Failure> {
    Pinned::open(&global.bpf_dir).ok_or_else(|| {
        Failure::Failed(format!(
            "there are no maps of this version of weft in {}; start a daemon, or name its --bpf-dir",
            global.bpf_dir.display()
        ))
    })
}

impl Flow {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        let flows = observe::flows(&pinned(global)?.flows()?);
        output::list(
            global.output,
            &flows,
            ["PROTOCOL", "KIND", "STATE", "CONTAINER", "EXTERNAL", "REMOTE", "IDLE", "AGE"],
            |flow| {
                [
                    flow.protocol.clone(),
                    flow.kind.clone(),
                    flow.state.clone(),
                    format!("{}:{}", BeforePort(flow.container_address), flow.container_port),
                    format!("{}:{}", BeforePort(flow.external_address), flow.external_port),
                    format!("{}:{}", BeforePort(flow.remote_address), flow.remote_port),
                    format!("{}s", flow.idle_seconds),
                    format!("{}s", flow.age_seconds),
                ]
            },
        )
    }
}
