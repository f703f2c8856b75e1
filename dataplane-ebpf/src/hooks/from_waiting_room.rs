//! What comes back from the waiting room: fragments that came before the first of their datagram.

use crate::{
    fragments,
    packet::Packet,
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    fragments::give_back(packet)
}
