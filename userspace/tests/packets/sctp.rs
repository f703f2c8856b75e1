//! SCTP: its CRC32c covers the ports, and not the addresses (RFC 9260 section 6.8). Expectations have theirs from `frames`,
//! which divides it out over the whole packet.

use std::cell::RefCell;

use dataplane_common::abi::{DropReason, Path, PortSet};
use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use weft::model::PortRange;

use crate::{
    Result,
    frames::{Frame, Socket},
    host::{Host, SCTP, with_host},
    outcome::{assert_bytes, sum},
    topology::{A, B, C, Container, FIRST_PORT, FRONT, HOST, LAST_PORT, REMOTE, REMOTE_2},
};

/// Where no other container has it, a port is kept also outside the pool.
const PORT: u16 = 5000;
const SERVER: Socket = (REMOTE, 3868);

/// Opens an association through masquerade, out and back, and answers its external port.
#[track_caller]
fn external_port(host: &mut Host, container: &Container, port: u16, chunks: &[u8]) -> Result<u16> {
    let inside = (container.address, port);
    let out = Frame::sctp(inside, SERVER).payload(chunks).sent_by(container);
    let outcome = host.container_sends(container, &out)?.on_path(Path::MasqueradeOut);
    let external = outcome.source_port();
    assert_bytes(&outcome.frame, &out.source((HOST, external)).hop().bytes());
    let back = Frame::sctp(SERVER, (HOST, external)).payload(chunks).by_router();
    let expected = Frame::sctp(SERVER, inside).payload(chunks).routed_to(container).hop();
    host.world_sends(&back)?.redirected(Path::MasqueradeIn, &expected);
    Ok(external)
}

/// `B` gets this port's association to the server, so that another container's leaves with another port.
fn take(host: &mut Host, port: u16) -> Result {
    assert_eq!(external_port(host, &B, port, b"")?, port);
    Ok(())
}

#[test]
fn a_port_is_kept_where_nobody_has_it() -> Result {
    with_host(|host| {
        host.reserve(PortSet::RESERVED_SCTP, [FIRST_PORT + 1, 36_412])?;
        host.reserve(PortSet::RESERVED_UDP, [FIRST_PORT + 2])?;
        for port in [1, PORT, FIRST_PORT, FIRST_PORT + 2, LAST_PORT + 1, u16::MAX] {
            assert_eq!(external_port(host, &A, port, b"chunks")?, port);
        }
        // Taken by another container, published or a socket's, and no port at all.
        for (container, port) in [(&B, PORT), (&A, FIRST_PORT + 1), (&A, 36_412), (&A, 0)] {
            let external = external_port(host, container, port, b"chunks")?;
            assert!((FIRST_PORT..=LAST_PORT).contains(&external), "{port} became {external}");
            assert_ne!(external, FIRST_PORT + 1);
            // To the next remote end as well (RFC 4787 REQ-1).
            let other = Frame::sctp((container.address, port), (REMOTE_2, 3868)).sent_by(container);
            let expected = other.clone().source((HOST, external)).hop();
            host.container_sends(container, &other)?.redirected(Path::MasqueradeOut, &expected);
        }
        // Strangers are not heard.
        let stranger = Frame::sctp((REMOTE_2, 9), (HOST, PORT)).by_router();
        host.world_sends(&stranger)?.dropped(DropReason::Filtered);
        Ok(())
    })
}

/// Whatever the length and the content, both ways.
#[test]
fn a_port_is_rewritten_whatever_the_packet() -> Result {
    let strategy = (1_u16.., prop::collection::vec(any::<u8>(), 0..1460));
    with_host(|host| {
        let host = RefCell::new(host);
        let mut runner =
            TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
        let result = runner.run(&strategy, |(port, chunks)| {
            let host = &mut *host.borrow_mut();
            let failed =
                |error: Box<dyn std::error::Error + Send + Sync>| TestCaseError::fail(error.to_string());
            external_port(host, &B, port, &chunks).map_err(failed)?;
            let external = external_port(host, &A, port, &chunks).map_err(failed)?;
            prop_assert_ne!(external, port);
            Ok(())
        });
        result.map_err(|error| error.to_string().into())
    })
}

/// What is covered ends where the IP packet does, and begins behind its options.
#[test]
fn options_and_padding() -> Result {
    with_host(|host| {
        take(host, PORT)?;
        for (options, padding) in [(&[1_u8; 4][..], 0), (&[1; 40], 3), (&[], 6), (&[], 900)] {
            let out = Frame::sctp((A.address, PORT), SERVER).options(options).sent_by(&A);
            let frame = [out.bytes(), vec![0xee; padding]].concat();
            let outcome = host.container_sends_bytes(&A, &frame)?.on_path(Path::MasqueradeOut);
            let at = 34 + options.len();
            let external = u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]]);
            assert_ne!(external, PORT);
            let expected = [out.source((HOST, external)).hop().bytes(), vec![0xee; padding]].concat();
            assert_bytes(&outcome.frame, &expected);
        }
        Ok(())
    })
}

/// Zero is what the kernel's SCTP leaves for the device to fill in, over a field of zero; anything else would become part of
/// what is summed up. It stays so with RFC 9653 as well.
#[test]
fn a_checksum_that_is_not_there_stays_away() -> Result {
    with_host(|host| {
        take(host, PORT)?;
        let out = Frame::sctp((A.address, PORT), SERVER).without_checksum().sent_by(&A);
        let outcome = host.container_sends(&A, &out)?.on_path(Path::MasqueradeOut);
        let external = outcome.source_port();
        assert_ne!(external, PORT);
        assert_eq!(outcome.frame[42..46], [0; 4]);
        assert_bytes(&outcome.frame, &out.source((HOST, external)).hop().bytes());
        Ok(())
    })
}

/// Chunks that are to be made packets of their own (`GSO_BY_FRAGS`): each fits the path that SCTP has found, and the size is
/// none.
#[test]
fn segments_of_any_size() -> Result {
    with_host(|host| {
        take(host, PORT)?;
        let out = Frame::sctp((A.address, PORT), SERVER).payload(&[7; 2800]).without_checksum().sent_by(&A);
        let bytes = out.bytes();
        let run = host.programs.run(dataplane_common::abi::program::FROM_CONTAINER, &bytes, A.device)?;
        let outcome = run.gso(0xffff, 2).outcome()?.on_path(Path::MasqueradeOut).counts_as(2);
        let external = outcome.source_port();
        assert_bytes(&outcome.frame, &out.clone().source((HOST, external)).hop().bytes());
        // One packet of that length is too long.
        host.container_sends(&A, &out)?.refused(DropReason::TooBig, (3, 4, 1500), FRONT.gateway);
        Ok(())
    })
}

/// How much a port changes the checksum depends on the length of the whole datagram, which its first fragment does not tell.
#[test]
fn fragments_only_with_their_own_port() -> Result {
    with_host(|host| {
        let first = |container: &Container| {
            Frame::sctp((container.address, PORT), SERVER)
                .payload(&[7; 788])
                .fragment(0, true)
                .sent_by(container)
        };
        let outcome = host.container_sends(&B, &first(&B))?.on_path(Path::MasqueradeOut);
        let mut expected = first(&B).source((HOST, PORT)).hop();
        expected.ip.identification = u16::from_be_bytes([outcome.frame[18], outcome.frame[19]]);
        assert_bytes(&outcome.frame, &expected.bytes());
        host.container_sends(&A, &first(&A))?.dropped(DropReason::SctpPort);
        Ok(())
    })
}

#[test]
fn a_published_range_with_other_ports() -> Result {
    with_host(|host| {
        host.publish_range(SCTP, None, PortRange { first: 8000, last: 8099 }, (&C, 80))?;
        for (public, own) in [(8000, 80), (8099, 179)] {
            let (client, to, inside) = ((REMOTE, 40_000), (HOST, public), (C.address, own));
            let request = Frame::sctp(client, to).payload(b"INIT").by_router();
            let expected = request.clone().destination(inside).routed_to(&C).hop();
            host.world_sends(&request)?.redirected(Path::PortmapIn, &expected);
            let answer = Frame::sctp(inside, client).payload(b"INIT ACK").sent_by(&C);
            let expected = answer.clone().source(to).hop();
            host.container_sends(&C, &answer)?.redirected(Path::PortmapOut, &expected);

            // From a container: of another network, by the host's address.
            let client = (A.address, 40_000);
            let request = Frame::sctp(client, to).payload(b"INIT").sent_by(&A);
            let expected = request.clone().destination(inside).routed_to(&C).hop();
            host.container_sends(&A, &request)?.redirected(Path::HairpinIn, &expected);
            let answer = Frame::sctp(inside, client).payload(b"INIT ACK").sent_by(&C);
            let expected = answer.clone().source(to).routed_to(&A).hop();
            host.container_sends(&C, &answer)?.redirected(Path::HairpinOut, &expected);
        }
        let beyond = Frame::sctp((REMOTE, 40_000), (HOST, 8100)).by_router();
        host.world_sends(&beyond)?.passed(Path::NotOurs);
        Ok(())
    })
}

/// Both ends of the association have another port than the packet had, and one of them a new one.
#[test]
fn a_neighbour_through_the_published_port() -> Result {
    with_host(|host| {
        host.publish(SCTP, None, 8080, (&B, 80))?;
        let (client, to, inside) = ((A.address, 40_000), (HOST, 8080), (B.address, 80));
        let request = Frame::sctp(client, to).payload(b"INIT").sent_by(&A);
        let outcome = host.container_sends(&A, &request)?.on_path(Path::HairpinIn);
        let seen = (A.address, outcome.source_port());
        assert_ne!(seen.1, 40_000);
        let expected = request.source(seen).destination(inside).routed_to(&B).hop();
        assert_bytes(&outcome.frame, &expected.bytes());
        let answer = Frame::sctp(inside, seen).payload(b"INIT ACK").sent_by(&B);
        let expected = answer.clone().source(to).destination(client).routed_to(&A).hop();
        host.container_sends(&B, &answer)?.redirected(Path::HairpinOut, &expected);
        Ok(())
    })
}

/// The quotation in an error is cut, and its checksum right all the same, for its IP header tells the length; that of a
/// first fragment does not, and stays as it is. (An SCTP sender looks at ports and verification tag only, RFC 9260 section
/// 10.)
#[test]
fn quotations_with_another_port() -> Result {
    with_host(|host| {
        take(host, PORT)?;
        let out = Frame::sctp((A.address, PORT), SERVER).payload(&[3; 1000]);
        let outcome = host.container_sends(&A, &out.clone().sent_by(&A))?.on_path(Path::MasqueradeOut);
        let external = outcome.source_port();
        let outside = out.clone().source((HOST, external)).hop();
        let too_big = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1000 };
        let error = |quotation: &[u8], to| {
            Frame::icmp(Icmpv4Type::DestinationUnreachable(too_big.clone()), REMOTE_2, to).payload(quotation)
        };
        for quote in [28, 32, 36, 38, 100, 548] {
            let arriving = error(&outside.bytes()[14..14 + quote], HOST).by_router();
            let expected = error(&out.clone().hop().bytes()[14..14 + quote], A.address);
            host.world_sends(&arriving)?.redirected(Path::IcmpError, &expected.routed_to(&A).hop());
        }
        let first = |frame: Frame| frame.fragment(0, true).bytes()[14..46].to_vec();
        let arriving = error(&first(outside.clone()), HOST).by_router();
        let mut quotation = first(out.clone().hop());
        quotation[28..].copy_from_slice(&first(outside)[28..]);
        let expected = error(&quotation, A.address).routed_to(&A).hop();
        assert_eq!(sum(&expected.bytes()[34..]), 0xffff);
        host.world_sends(&arriving)?.redirected(Path::IcmpError, &expected);
        Ok(())
    })
}
