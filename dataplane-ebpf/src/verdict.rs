//! What becomes of a packet. Every way out of a hook is one of these.

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use dataplane_common::abi::{DropReason, Path};

use crate::{maps, packet::Packet};

/// The end of a packet's way through a hook.
pub enum Verdict {
    /// On to other programs and the kernel's stack, counted under a path.
    Pass(Path),
    /// On, and of no interest to weft's counters.
    Ignore,
    /// A redirect helper has been called and has answered this.
    Redirect(Path, i32),
    /// Dropped, for a named reason.
    Drop(DropReason),
}

impl Verdict {
    /// Counts, and gives the kernel its answer.
    #[inline(always)]
    pub fn finish(self, packet: &Packet) -> i32 {
        let packets = packet.segments();
        let bytes = packet.length() as u64;
        match self {
            Self::Ignore => TCX_NEXT,
            Self::Pass(path) => {
                maps::count(path, packets, bytes);
                TCX_NEXT
            }
            Self::Redirect(path, action) => {
                maps::count(path, packets, bytes);
                action
            }
            Self::Drop(reason) => {
                maps::count_drop(reason, packets, bytes);
                TCX_DROP
            }
        }
    }
}

/// Lets `?` end a job with a drop.
pub type Outcome<T> = Result<T, DropReason>;

impl From<Outcome<Verdict>> for Verdict {
    #[inline(always)]
    fn from(outcome: Outcome<Verdict>) -> Self {
        match outcome {
            Ok(verdict) => verdict,
            Err(reason) => Self::Drop(reason),
        }
    }
}
