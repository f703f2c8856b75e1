//! IPv6: what the other pages show for IPv4.

pub mod bridge;
pub mod cost;
mod errors;
pub mod frame;
mod overlay;
mod properties;
pub mod routed;
pub mod topology;
mod translation;

use frame::Frame;
use topology::Member;

use crate::{Result, host::Host, outcome::Outcome};

pub fn sends(host: &mut Host, member: &Member, frame: &Frame) -> Result<Outcome> {
    host.container_sends_bytes(member.container, &frame.bytes())
}

fn arrives(host: &mut Host, frame: &Frame) -> Result<Outcome> {
    host.world_sends_bytes(&frame.bytes())
}

/// Redirected on this path, as exactly this frame.
#[track_caller]
fn became(outcome: Outcome, path: dataplane_common::abi::Path, expected: &Frame) {
    outcome.redirected_bytes(path, &expected.bytes());
}

/// The source port of what came out, without extension headers.
fn source_port(outcome: &Outcome) -> u16 {
    u16::from_be_bytes([outcome.frame[54], outcome.frame[55]])
}
