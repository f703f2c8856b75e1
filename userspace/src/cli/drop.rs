//! `weft drop ls`: read from the pinned maps, so that it works while no daemon runs.

use clap::Subcommand;

use super::{Global, Outcome, flow::pinned, output};
use crate::observe;

/// Dropped packets.
#[derive(Debug, Subcommand)]
pub enum Drop {
    /// List the reasons for dropping packets, those that happen most first.
    Ls,
}

impl Drop {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        let drops = observe::drops(&pinned(global)?.drops()?);
        let mut most_first: Vec<_> = drops.iter().collect();
        most_first.sort_by_key(|(_, count)| std::cmp::Reverse(count.packets));
        match global.output {
            output::Format::Json => output::json(&drops),
            output::Format::Table => output::print(&output::table(
                ["REASON", "PACKETS", "BYTES"],
                most_first.iter().map(|(reason, count)| {
                    [(*reason).clone(), count.packets.to_string(), count.bytes.to_string()]
                }),
            )),
        }
    }
}
