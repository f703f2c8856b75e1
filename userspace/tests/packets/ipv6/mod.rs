//! IPv6: what the other pages show for IPv4.

mod bridge;
mod errors;
mod frame;
mod overlay;
mod routed;
mod topology;
mod translation;

use frame::Frame;
use topology::Member;

use crate::{
    Result,
    host::Host,
    outcome::{Outcome, assert_bytes},
};

fn sends(host: &mut Host, member: &Member, frame: &Frame) -> Result<Outcome> {
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

/// Dropped for this reason, and the sender is told by this ICMPv6 error from `source`.
#[track_caller]
fn refused(
    outcome: Outcome,
    reason: dataplane_common::abi::DropReason,
    (kind, code, mtu): (u8, u8, u32),
    source: std::net::Ipv6Addr,
) {
    assert_eq!((outcome.path, outcome.drop), (None, Some(reason)));
    let (ethernet, rest) = etherparse::Ethernet2Header::from_slice(&outcome.frame).expect("Ethernet");
    assert_eq!(ethernet.destination[..], outcome.input[6..12]);
    assert_eq!(ethernet.source[..], outcome.input[0..6]);
    let (ip, rest) = etherparse::Ipv6Header::from_slice(rest).expect("an IPv6 header");
    assert_eq!((ip.source, ip.destination), (source.octets(), outcome.input[22..38].try_into().expect("16")));
    assert_eq!(usize::from(ip.payload_length), outcome.frame.len() - 54);
    assert_eq!((ip.next_header, ip.hop_limit), (etherparse::IpNumber::IPV6_ICMP, 64));
    let pseudo =
        [&ip.source[..], &ip.destination, &(rest.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    assert_eq!(crate::outcome::sum(&[&pseudo, rest].concat()), 0xffff, "the ICMPv6 checksum");
    assert_eq!((rest[0], rest[1]), (kind, code));
    assert_eq!(u32::from_be_bytes(rest[4..8].try_into().expect("four")), mtu);
    let quote = &rest[8..];
    assert!(quote.len() >= 48, "it quotes {} bytes", quote.len());
    assert_bytes(quote, &outcome.input[14..14 + quote.len()]);
}
