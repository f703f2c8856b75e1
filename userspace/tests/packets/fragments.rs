//! Datagrams in pieces. What the waiting room does in time is shown in the lab; here it is a device that exists.

use std::{collections::HashSet, net::Ipv4Addr};

use dataplane_common::abi::{DropReason, Path};
use etherparse::IpNumber;
use nix::net::if_::if_nametoindex;

use crate::{
    Result,
    frames::Frame,
    host::{UDP, with_host},
    outcome::{Outcome, assert_bytes},
    topology::{A, B, C, HOST, REMOTE, STRANGER},
};

const PORT: u16 = 25_000;

/// A later fragment of a UDP datagram.
fn later(from: Ipv4Addr, to: Ipv4Addr, identification: u16, offset: u16, more: bool) -> Frame {
    identified(Frame::ip(IpNumber::UDP, from, to).payload(&[5; 64]).fragment(offset, more), identification)
}

fn identified(mut frame: Frame, identification: u16) -> Frame {
    frame.ip.identification = identification;
    frame
}

fn identification(outcome: &Outcome) -> u16 {
    u16::from_be_bytes([outcome.frame[18], outcome.frame[19]])
}

/// Outwards: later fragments follow the first, also twice, and two containers' datagrams with one identification leave
/// with two (RFC 6864 section 5.3.1).
#[test]
fn out_through_masquerade() -> Result {
    with_host(|host| {
        let mut seen = Vec::new();
        for container in [&A, &C] {
            let first =
                Frame::udp((container.address, PORT), (REMOTE, 443)).payload(&[1; 128]).fragment(0, true);
            let first = identified(first, 77).sent_by(container);
            let outcome = host.container_sends(container, &first)?.on_path(Path::MasqueradeOut);
            let (id, port) = (identification(&outcome), outcome.source_port());
            let expected = identified(first.clone().source((HOST, port)).hop(), id);
            // The checksum of the datagram covers all fragments; the change is the same as if this one were all.
            assert_bytes(&outcome.frame, &expected.bytes());
            for (offset, more) in [(17, true), (25, false), (17, true)] {
                let frame = later(container.address, REMOTE, 77, offset, more).sent_by(container);
                let mut expected = identified(frame.clone().hop(), id);
                expected.ip.source = HOST.octets();
                host.container_sends(container, &frame)?.redirected(Path::MasqueradeOut, &expected);
            }
            let again = host.container_sends(container, &first)?.on_path(Path::MasqueradeOut);
            assert_eq!(
                identification(&again),
                id,
                "a copy of the first fragment has its siblings' identification"
            );
            seen.push(id);
        }
        assert_ne!(seen[0], seen[1]);
        Ok(())
    })
}

/// No two datagrams to one destination leave with the same identification, whoever sends them: the receiver may still wait for
/// pieces of the earlier one (RFC 6864 section 4.3). By chance seven of a thousand would have met another's.
#[test]
fn identifications_do_not_come_again() -> Result {
    with_host(|host| {
        let mut seen = HashSet::new();
        for number in 0..500 {
            for container in [&A, &C] {
                let first =
                    Frame::udp((container.address, PORT), (REMOTE, 443)).payload(&[1; 128]).fragment(0, true);
                let first = identified(first, number).sent_by(container);
                let outcome = host.container_sends(container, &first)?.on_path(Path::MasqueradeOut);
                assert!(seen.insert(identification(&outcome)), "{number}");
            }
        }
        Ok(())
    })
}

/// Inwards: an answer in pieces, and a request for a published port.
#[test]
fn into_containers() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
        host.publish(UDP, None, 53, (&B, 5353))?;
        for (remote, port, container, inside, path) in
            [(443, PORT, &A, PORT, Path::MasqueradeIn), (999, 53, &B, 5353, Path::PortmapIn)]
        {
            let first = Frame::udp((REMOTE, remote), (HOST, port)).payload(&[1; 128]).fragment(0, true);
            let first = identified(first, remote).by_router();
            let expected = first.clone().destination((container.address, inside)).routed_to(container).hop();
            host.world_sends(&first)?.redirected(path, &expected);
            let frame = later(REMOTE, HOST, remote, 17, false).by_router();
            let mut expected = frame.clone().routed_to(container).hop();
            expected.ip.destination = container.address.octets();
            host.world_sends(&frame)?.redirected(path, &expected);
        }
        Ok(())
    })
}

/// An echo in pieces, the identifier of which is not kept.
#[test]
fn echo() -> Result {
    with_host(|host| {
        host.container_sends(&B, &Frame::echo_request(B.address, REMOTE, 7).sent_by(&B))?
            .took(Path::MasqueradeOut);
        let first = identified(Frame::echo_request(A.address, REMOTE, 7).fragment(0, true), 5).sent_by(&A);
        let outcome = host.container_sends(&A, &first)?.on_path(Path::MasqueradeOut);
        assert_ne!(outcome.frame[38..40], 7u16.to_be_bytes());
        let rest = Frame::ip(IpNumber::ICMP, A.address, REMOTE).fragment(4, false);
        let rest = identified(rest, 5).sent_by(&A);
        let mut expected = identified(rest.clone().hop(), identification(&outcome));
        expected.ip.source = HOST.octets();
        host.container_sends(&A, &rest)?.redirected(Path::MasqueradeOut, &expected);
        Ok(())
    })
}

/// What comes before its first fragment waits, if there is a room; without one a container's is dropped, and the world's
/// is the host's.
#[test]
fn too_early() -> Result {
    with_host(|host| {
        let out = later(A.address, REMOTE, 9, 17, false).sent_by(&A);
        let incoming = later(REMOTE, HOST, 9, 17, false).by_router();
        host.container_sends(&A, &out)?.dropped(DropReason::Fragment);
        host.world_sends(&incoming)?.passed(Path::NotOurs);
        let room = if_nametoindex(STRANGER)?;
        host.change_settings(|settings| settings.waiting_room = room)?;
        host.container_sends(&A, &out)?.redirected(Path::FragmentWaits, &out);
        host.world_sends(&incoming)?.redirected(Path::FragmentWaits, &incoming);
        // Another host's datagram with this identification says nothing about it, nor does one of another protocol.
        let first = Frame::udp((A.address, PORT), (HOST, 1)).fragment(0, true);
        host.container_sends(&A, &identified(first, 9).sent_by(&A))?.passed(Path::Host);
        host.container_sends(&A, &out)?.redirected(Path::FragmentWaits, &out);
        assert!(host.is_empty()?, "a later fragment opens nothing");
        Ok(())
    })
}

/// The first fragment was refused: so are the others, without waiting.
#[test]
fn of_a_refused_datagram() -> Result {
    with_host(|host| {
        let room = if_nametoindex(STRANGER)?;
        host.change_settings(|settings| settings.waiting_room = room)?;
        host.remove_address(HOST)?;
        let first =
            identified(Frame::udp((A.address, PORT), (C.address, 1)).fragment(0, true), 3).sent_by(&A);
        host.container_sends(&A, &first)?.dropped(DropReason::Isolated);
        let rest = later(A.address, C.address, 3, 17, false).sent_by(&A);
        host.container_sends(&A, &rest)?.dropped(DropReason::Isolated);
        Ok(())
    })
}

/// Between neighbours fragments need no ports, published or not.
#[test]
fn between_neighbours() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        let rest = later(A.address, B.address, 9, 17, false).macs(A.mac, B.mac);
        host.container_sends(&A, &rest)?.redirected(Path::Bridge, &rest);
        Ok(())
    })
}

/// What has no ports does not wait for any: echo of the host's own behind its first fragment, and other protocols at once.
#[test]
fn of_the_host() -> Result {
    with_host(|host| {
        let room = if_nametoindex(STRANGER)?;
        host.change_settings(|settings| settings.waiting_room = room)?;
        let first = identified(Frame::echo_request(REMOTE, HOST, 7).fragment(0, true), 5).by_router();
        let rest = identified(Frame::ip(IpNumber::ICMP, REMOTE, HOST).fragment(4, false), 5).by_router();
        host.world_sends(&rest)?.redirected(Path::FragmentWaits, &rest);
        host.world_sends(&first)?.passed(Path::NotOurs);
        host.world_sends(&rest)?.passed(Path::NotOurs);
        let tunnel = Frame::ip(IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, REMOTE, HOST).fragment(4, false);
        host.world_sends(&tunnel.by_router())?.passed(Path::NotOurs);
        // The same from a container that answers the host, or speaks to it.
        let first = Frame::ip(IpNumber::ICMP, A.address, HOST).payload(&[0; 64]).fragment(0, true);
        let rest = identified(Frame::ip(IpNumber::ICMP, A.address, HOST).fragment(8, false), 6).sent_by(&A);
        host.container_sends(&A, &identified(first, 6).sent_by(&A))?.passed(Path::Host);
        host.container_sends(&A, &rest)?.passed(Path::Host);
        assert!(host.is_empty()?);
        Ok(())
    })
}
