//! `weft drop ls`: read from the pinned maps, so that it works while no daemon runs.

use clap::Subcommand;

use super::{Global, Outcome, flow::pinned, output};
use crate::observe;

/// Dropped packets.
#[derive(Debug, Subcommand)]
pub enum Drop {
    /// List the reasons for which packets were dropped; JSON has those with no packet as well.
    Ls,
}

impl Drop {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        let drops = observe::drops(&pinned(global)?.drops()?);
        match global.output {
            output::Format::Json => output::json(&drops),
            output::Format::Table => output::print(&output::table(
                ["REASON", "PACKETS", "BYTES"],
                drops
                    .iter()
                    .filter(|(_, count)| count.packets > 0)
                    .map(|(reason, count)| [reason.clone(), count.packets.to_string(), count.bytes.to_string()]),
            )),
        }
    }
}
