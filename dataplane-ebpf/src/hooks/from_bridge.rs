//! What an isolated network would say to its host: nothing of it arrives, ARP and multicast included. Other bridges do not
//! have this program.

use dataplane_common::abi::DropReason;

use crate::verdict::{Outcome, Verdict};

#[inline(always)]
pub fn run() -> Outcome<Verdict> {
    Err(DropReason::Isolated)
}
