//! from_container: members of one network, and who may not say what.

use std::net::Ipv6Addr;

use dataplane_common::abi::{DropReason, Path, flags, program};
use etherparse::{Icmpv6Type, IpNumber, icmpv6::DestUnreachableCode};

use super::{
    became,
    frame::{DESTINATION_OPTIONS, Frame, HOP_BY_HOP, ROUTING},
    sends,
    topology::{A, B, C, FAR, HOST, Member, REMOTE, gateway, with_host},
};
use crate::{Result, harness::shortest, topology::UPLINK};

/// Eight bytes of padding (RFC 8200 section 4.2).
pub const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// Nothing changes but the destination MAC address, not even the hop limit.
#[test]
fn a_frame_for_a_member_is_delivered() -> Result {
    with_host(|host| {
        let (a, b) = ((A.address, 4000), (B.address, 80));
        for frame in [
            Frame::syn(a, b),
            Frame::udp(a, b),
            Frame::udp(a, b).hop_limit(1),
            Frame::udp(a, b).extension(HOP_BY_HOP, &PADDING),
            Frame::udp(a, b).fragment(0, true, 7),
            Frame::raw(IpNumber::UDP, a.0, b.0).fragment(100, false, 7),
            Frame::echo_request(a.0, b.0, 1),
            Frame::echo_reply(a.0, b.0, 1),
            Frame::icmp(Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port), a.0, b.0),
            Frame::raw(IpNumber::GRE, a.0, b.0),
            Frame::udp(a, b).payload(&[7; 3000]),
        ] {
            for destination_mac in [B.mac(), A.gateway_mac(), [2, 0, 0, 0, 0, 9]] {
                let frame = frame.clone().macs(A.mac(), destination_mac);
                let expected = frame.clone().macs(A.mac(), B.mac());
                became(sends(host, &A, &frame)?, Path::Bridge, &expected);
            }
        }
        assert!(host.is_empty()?, "bridging keeps no state");
        Ok(())
    })
}

#[test]
fn isolation_is_that_of_ipv4() -> Result {
    with_host(|host| {
        let to = |destination: Ipv6Addr| Frame::syn((A.address, 4000), (destination, 80)).sent_by(&A);
        for destination in [C.address, FAR, Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x77)] {
            sends(host, &A, &to(destination))?.dropped(DropReason::Isolated);
        }
        host.change_flags(A.container.device, 0, flags::INTERNAL)?;
        for destination in [C.address, REMOTE] {
            sends(host, &A, &to(destination))?.dropped(DropReason::Internal);
        }
        sends(host, &A, &to(gateway(1)))?.passed(Path::Host);
        host.change_flags(A.container.device, flags::INTER_CONTAINER | flags::INTERNAL, 0)?;
        sends(host, &A, &to(B.address))?.dropped(DropReason::InterContainerDisabled);
        // The last address of the prefix and the first are hosts like others; there is no broadcast.
        sends(
            host,
            &B,
            &Frame::udp((B.address, 1), (Ipv6Addr::new(0xfd00, 1, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff), 2))
                .sent_by(&B),
        )?
        .passed(Path::SlowPath);
        Ok(())
    })
}

/// Direct routing from outside, and what would leave with a container's address.
#[test]
fn container_addresses_stay_inside() -> Result {
    with_host(|host| {
        let routed = Frame::syn((REMOTE, 1), (A.address, 80)).by_router();
        super::arrives(host, &routed)?.dropped(DropReason::DirectRouting);
        let leaving = Frame::udp((A.address, 1), (REMOTE, 2)).sent_by(&A).bytes();
        for length in shortest(&leaving)..=leaving.len() {
            host.programs
                .run(program::TO_UPLINK, &leaving[..length], UPLINK)?
                .outcome()?
                .dropped(DropReason::UntranslatedSource);
        }
        host.leave(&Frame::udp((HOST, 1), (REMOTE, 2)).bytes())?.ignored();
        Ok(())
    })
}

#[test]
fn a_foreign_source_is_dropped() -> Result {
    with_host(|host| {
        let mapped: Ipv6Addr = "::ffff:10.10.0.10".parse()?;
        for (source, reason) in [
            (B.address, DropReason::SpoofedAddress),
            (HOST, DropReason::SpoofedAddress),
            (gateway(1), DropReason::SpoofedAddress),
            (A.link_local(), DropReason::SpoofedAddress),
            (Ipv6Addr::LOCALHOST, DropReason::SpoofedAddress),
            (Ipv6Addr::UNSPECIFIED, DropReason::SpoofedAddress),
            // It is A's IPv4 address to weft's maps, but no address of a packet.
            (mapped, DropReason::Malformed),
        ] {
            for destination in [B.address, REMOTE, HOST] {
                let frame = Frame::udp((source, 4000), (destination, 53)).sent_by(&A);
                sends(host, &A, &frame)?.dropped(reason);
            }
        }
        let frame = Frame::udp((A.address, 1), (mapped, 53)).sent_by(&A);
        sends(host, &A, &frame)?.dropped(DropReason::Malformed);
        let mac = Frame::udp((A.address, 1), (REMOTE, 53)).macs(B.mac(), A.gateway_mac());
        sends(host, &A, &mac)?.dropped(DropReason::SpoofedMac);
        // A container without IPv6 sends none.
        host.change_device(A.container.device, |device| {
            device.address_v6 = dataplane_common::abi::Address::UNSPECIFIED;
        })?;
        let frame = Frame::udp((A.address, 1), (REMOTE, 53)).sent_by(&A);
        sends(host, &A, &frame)?.dropped(DropReason::UnsupportedProtocol);
        Ok(())
    })
}

/// A neighbour discovery message of `A`.
pub fn discovery(kind: u8, from: Ipv6Addr, target: Option<Ipv6Addr>, options: &[u8]) -> Frame {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let message = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
    let payload = [target.map_or(Vec::new(), |target| target.octets().to_vec()), options.to_vec()].concat();
    Frame::icmp(message, from, to).hop_limit(255).payload(&payload).macs(A.mac(), [0x33, 0x33, 0, 0, 0, 1])
}

fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1], mac.as_slice()].concat()
}

/// The bridge carries neighbour discovery, and nobody speaks for another.
#[test]
fn neighbour_discovery_is_checked() -> Result {
    with_host(|host| {
        let (own, foreign) = (A.mac(), B.mac());
        let (solicit_router, advertise_router, solicit, advertise, redirect) = (133, 134, 135, 136, 137);
        for frame in [
            discovery(solicit_router, A.link_local(), None, &option(1, own)),
            discovery(solicit_router, Ipv6Addr::UNSPECIFIED, None, &[]),
            discovery(solicit, A.address, Some(B.address), &option(1, own)),
            discovery(solicit, A.link_local(), Some(gateway(1)), &option(1, own)),
            // Duplicate address detection.
            discovery(solicit, Ipv6Addr::UNSPECIFIED, Some(A.address), &[]),
            // A nonce (RFC 7527) is an option of another kind.
            discovery(solicit, Ipv6Addr::UNSPECIFIED, Some(A.address), &[14, 1, 1, 2, 3, 4, 5, 6]),
            discovery(advertise, A.address, Some(A.address), &option(2, own)),
            discovery(advertise, A.link_local(), Some(A.link_local()), &option(2, own)),
        ] {
            sends(host, &A, &frame)?.passed(Path::SlowPath);
        }
        for (frame, reason) in [
            (discovery(advertise_router, A.link_local(), None, &[0; 8]), DropReason::SpoofedAddress),
            (discovery(redirect, A.link_local(), Some(B.address), &[0; 16]), DropReason::SpoofedAddress),
            (discovery(advertise, A.address, Some(B.address), &option(2, own)), DropReason::SpoofedAddress),
            (discovery(advertise, A.address, Some(gateway(1)), &option(2, own)), DropReason::SpoofedAddress),
            (discovery(advertise, B.address, Some(A.address), &option(2, own)), DropReason::SpoofedAddress),
            (discovery(solicit, B.address, Some(C.address), &option(1, own)), DropReason::SpoofedAddress),
            (discovery(advertise, A.address, Some(A.address), &option(2, foreign)), DropReason::SpoofedMac),
            (discovery(solicit, A.address, Some(B.address), &option(1, foreign)), DropReason::SpoofedMac),
            (discovery(solicit_router, A.link_local(), None, &option(1, foreign)), DropReason::SpoofedMac),
            // Behind an option of another kind, in one that is too long, and in one too many.
            (
                discovery(
                    solicit,
                    A.address,
                    Some(B.address),
                    &[vec![14, 1, 0, 0, 0, 0, 0, 0], option(1, foreign)].concat(),
                ),
                DropReason::SpoofedMac,
            ),
            (
                discovery(solicit, A.address, Some(B.address), &[&[1, 2], own.as_slice(), &[0; 8]].concat()),
                DropReason::SpoofedMac,
            ),
            (
                discovery(
                    solicit,
                    A.address,
                    Some(B.address),
                    &[option(1, own), option(1, own), option(1, foreign)].concat(),
                ),
                DropReason::Malformed,
            ),
            (
                discovery(solicit, A.address, Some(B.address), &[1, 0, 0, 0, 0, 0, 0, 0]),
                DropReason::Malformed,
            ),
        ] {
            sends(host, &A, &frame)?.dropped(reason);
        }
        Ok(())
    })
}

/// Whether a neighbour is still there is asked at its own address, and answered to whom has asked, from a link-local one as well
/// (RFC 4861 sections 7.2.2 and 7.3.3). Nothing else of that source is for a global address.
#[test]
fn probes_of_neighbours() -> Result {
    with_host(|host| {
        let own = A.mac();
        let probe = |kind, target, to: Ipv6Addr, option_kind| {
            let mut frame = discovery(kind, A.link_local(), Some(target), &option(option_kind, own));
            frame.ip.destination = to.octets();
            frame.macs(own, A.gateway_mac())
        };
        for to in [gateway(1), B.address] {
            sends(host, &A, &probe(135, to, to, 1))?.passed(Path::SlowPath);
            sends(host, &A, &probe(136, A.link_local(), to, 2))?.passed(Path::SlowPath);
            let foreign = discovery(135, B.link_local(), Some(to), &option(1, own));
            sends(host, &A, &foreign)?.dropped(DropReason::SpoofedAddress);
            let echo = Frame::echo_request(A.link_local(), to, 1).sent_by(&A);
            sends(host, &A, &echo)?.dropped(DropReason::SpoofedAddress);
            let mut fragment = probe(135, to, to, 1).fragment(0, true, 1);
            fragment.ip.hop_limit = 255;
            sends(host, &A, &fragment)?.dropped(DropReason::SpoofedAddress);
        }
        // They are nobody's business beyond the link.
        for to in [HOST, REMOTE, C.address] {
            sends(host, &A, &probe(135, to, to, 1))?.dropped(DropReason::SpoofedAddress);
        }
        let mut unspecified = probe(135, B.address, B.address, 1);
        unspecified.ip.source = Ipv6Addr::UNSPECIFIED.octets();
        sends(host, &A, &unspecified)?.dropped(DropReason::SpoofedAddress);
        Ok(())
    })
}

/// Members that may not talk to one another do not hear each other: the bridge is asked in the group of the neighbour, for
/// which it answers. Under whatever MAC address the neighbour has been known, and from any address of one's own.
#[test]
fn probes_of_isolated_neighbours() -> Result {
    with_host(|host| {
        host.change_flags(A.container.device, flags::INTER_CONTAINER, 0)?;
        let own = A.mac();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, u16::from(B.address.octets()[15]));
        let group_mac = [0x33, 0x33, 0xff, 0, 0, B.address.octets()[15]];
        let probe = |from, kind, to: Ipv6Addr| {
            let mut frame = discovery(kind, from, Some(to), &option(1, own));
            frame.ip.destination = to.octets();
            frame
        };
        for from in [A.link_local(), A.address] {
            let solicitation = probe(from, 135, B.address);
            let mut expected = solicitation.clone().macs(own, group_mac);
            expected.ip.destination = group.octets();
            for mac in [A.gateway_mac(), B.mac()] {
                sends(host, &A, &solicitation.clone().macs(own, mac))?
                    .passed_as(Path::SlowPath, &expected.bytes());
            }
        }
        // The gateway is there itself, and what is no solicitation is nothing to answer.
        sends(host, &A, &probe(A.link_local(), 135, gateway(1)))?.passed(Path::SlowPath);
        let echo = Frame::echo_request(A.address, B.address, 1).sent_by(&A);
        sends(host, &A, &echo)?.dropped(DropReason::InterContainerDisabled);
        let foreign = probe(B.link_local(), 135, B.address);
        sends(host, &A, &foreign)?.dropped(DropReason::SpoofedAddress);
        let mut unspecified = probe(A.link_local(), 135, B.address);
        unspecified.ip.source = Ipv6Addr::UNSPECIFIED.octets();
        sends(host, &A, &unspecified)?.dropped(DropReason::SpoofedAddress);
        sends(host, &A, &probe(A.link_local(), 135, C.address))?.dropped(DropReason::SpoofedAddress);
        Ok(())
    })
}

/// What a container sends, cut short at every byte, and with lengths that lie.
#[test]
fn cut_short() -> Result {
    with_host(|host| {
        let a = (A.address, 25_000);
        let ways: [(&Member, Frame); 5] = [
            (&A, Frame::syn(a, (REMOTE, 443))),
            (&A, Frame::udp(a, (REMOTE, 443)).extension(HOP_BY_HOP, &PADDING).extension(ROUTING, &PADDING)),
            (&A, Frame::echo_request(A.address, REMOTE, 9)),
            (&A, Frame::udp(a, (B.address, 443)).extension(DESTINATION_OPTIONS, &PADDING)),
            (&A, Frame::udp(a, (HOST, 54)).fragment(0, true, 3)),
        ];
        for (member, frame) in ways {
            let whole = frame.sent_by(member).bytes();
            for length in shortest(&whole)..whole.len() {
                host.container_sends_bytes(member.container, &whole[..length])?
                    .dropped(DropReason::Malformed);
            }
            // The transport header is not whole.
            let payload = b"some payload".len();
            for length in 0..whole.len() - 54 - payload {
                let mut lying = whole.clone();
                lying[18..20].copy_from_slice(&(length as u16).to_be_bytes());
                host.container_sends_bytes(member.container, &lying)?.dropped(DropReason::Malformed);
            }
        }
        assert!(host.is_empty()?, "a cut packet has left a record");
        Ok(())
    })
}

/// The extension headers reach further than the packet says that it does: a fragment header in what is padding, and in front
/// of a protocol of which no header is looked at. (Found by random packets.)
#[test]
fn extension_headers_in_the_padding() -> Result {
    with_host(|host| {
        super::topology::publish(host, crate::host::UDP, 53, (&A, 53))?;
        let first = Frame::udp((REMOTE, 40_000), (HOST, 53)).fragment(0, true, 7).by_router();
        let later = Frame::raw(IpNumber::UDP, REMOTE, HOST).fragment(100, false, 7).by_router();
        let other = Frame::raw(IpNumber::GRE, A.address, B.address).extension(HOP_BY_HOP, &PADDING);
        let other = other.macs(A.mac(), B.mac()).bytes();
        for length in 0..8 {
            let mut lying = later.bytes();
            lying[18..20].copy_from_slice(&[0, length]);
            // What it said is kept for two seconds.
            super::arrives(host, &first)?.took(Path::PortmapIn);
            host.world_sends_bytes(&lying)?.passed(Path::NotOurs);
            let mut lying = other.clone();
            lying[18..20].copy_from_slice(&[0, length]);
            host.container_sends_bytes(A.container, &lying)?.dropped(DropReason::Malformed);
        }
        super::arrives(host, &first)?.took(Path::PortmapIn);
        super::arrives(host, &later)?.took(Path::PortmapIn);
        host.container_sends_bytes(A.container, &other)?.took(Path::Bridge);
        Ok(())
    })
}

/// Four extension headers are looked through, a fifth is one too many (RFC 8883).
#[test]
fn extension_headers_have_a_bound() -> Result {
    with_host(|host| {
        let frame = || Frame::udp((A.address, 25_000), (REMOTE, 443)).sent_by(&A);
        let padded = |count: usize| {
            (0..count).fold(frame(), |frame, _| frame.extension(DESTINATION_OPTIONS, &PADDING))
        };
        for count in 0..=4 {
            sends(host, &A, &padded(count))?.took(Path::MasqueradeOut);
        }
        sends(host, &A, &padded(5))?.dropped(DropReason::UnsupportedProtocol);
        // Two fragment headers are an attempt at something (RFC 8200 section 4.5 has one).
        let twice = frame().fragment(0, true, 1).fragment(0, true, 2);
        sends(host, &A, &twice)?.dropped(DropReason::Malformed);
        Ok(())
    })
}
