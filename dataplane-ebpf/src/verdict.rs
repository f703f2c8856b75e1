//! What becomes of a packet. Every way out of a hook is one of these.

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use dataplane_common::abi::{Counter, DropReason, Path};

use crate::maps;

/// The end of a packet's way through a hook.
pub enum Verdict {
    /// On to other programs and the kernel's stack, counted under a path.
    Pass(Path),
    /// On, and of no interest to weft's counters.
    Ignore,
    /// A redirect helper has been called and has answered this.
    Redirect(Path, i32),
    /// The same, of no interest to weft's counters.
    Silent(i32),
    /// Dropped, for a named reason, and its sender is told: the answer has been made of it and redirected.
    Refuse(DropReason, i32),
    /// Dropped, for a named reason.
    Drop(DropReason),
}

impl Verdict {
    /// Counts the packet by the size it came with, and gives the kernel its answer.
    #[inline(always)]
    pub fn finish(self, size: Counter) -> i32 {
        match self {
            Self::Ignore => TCX_NEXT,
            Self::Pass(path) => {
                maps::count(path, size);
                TCX_NEXT
            }
            Self::Redirect(path, action) => {
                maps::count(path, size);
                action
            }
            Self::Silent(action) => action,
            Self::Refuse(reason, action) => {
                maps::count_drop(reason, size);
                action
            }
            Self::Drop(reason) => {
                maps::count_drop(reason, size);
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
