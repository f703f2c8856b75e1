//! ICMP errors about packets of a flow (RFC 5508 section 4): the quoted packet is translated, checksums and all, and the
//! error changes nothing about the flow.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, Path, flags};
use etherparse::{
    Icmpv4Type,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
};

use crate::{
    Result,
    frames::Frame,
    host::{SCTP, TCP, UDP, with_host},
    topology::{A, B, B_AGAIN, C, Container, FRONT, HOST, REMOTE, REMOTE_2, ROUTER_MAC, UPLINK_MAC},
};

/// An error from somebody, about a frame that this one has got.
fn error_about(kind: Icmpv4Type, from: Ipv4Addr, frame: &Frame, quote: usize) -> Frame {
    let quoted = &frame.bytes()[14..];
    let to = Ipv4Addr::from(frame.ip.source);
    Frame::icmp(kind, from, to).payload(&quoted[..quote.min(quoted.len())])
}

fn kinds() -> [Icmpv4Type; 4] {
    use DestUnreachableHeader::{FragmentationNeeded, Host, Port};
    [
        Icmpv4Type::DestinationUnreachable(Port),
        Icmpv4Type::DestinationUnreachable(Host),
        Icmpv4Type::DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1400 }),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
    ]
}

/// A packet of each protocol, with quotations of 8 and more bytes behind the IP header, with and without a checksum.
fn sent(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<(Frame, usize)> {
    let udp = Frame::udp(from, to).payload(&[7; 600]);
    let tcp = Frame::syn(from, to).payload(&[9; 100]);
    let sctp = Frame::sctp(from, to).payload(&[5; 400]);
    let mut cases = Vec::new();
    for quote in [28, 36, 38, 40, 120, 548] {
        cases.push((udp.clone(), quote));
        cases.push((udp.clone().without_checksum(), quote));
        cases.push((tcp.clone(), quote));
        cases.push((sctp.clone(), quote));
        cases.push((sctp.clone().without_checksum(), quote));
        cases.push((Frame::echo_request(from.0, to.0, from.1), quote));
    }
    cases
}

/// From the far end and from a router on the way, about what a masqueraded container has sent.
#[test]
fn into_a_masqueraded_container() -> Result {
    with_host(|host| {
        for (port, kind) in (25_000..).zip(kinds()) {
            for (frame, quote) in sent((A.address, port), (REMOTE, 443)) {
                host.container_sends(&A, &frame.clone().sent_by(&A))?.took(Path::MasqueradeOut);
                // The pool begins at 20,000, so the container keeps its port; the packet has lost a hop on the way.
                let outside = frame.clone().source((HOST, port)).hop();
                for from in [REMOTE, REMOTE_2] {
                    let error = error_about(kind.clone(), from, &outside, quote).by_router();
                    let mut expected = error_about(kind.clone(), from, &frame.clone().hop(), quote);
                    expected.ip.destination = A.address.octets();
                    host.world_sends(&error)?.redirected(Path::IcmpError, &expected.routed_to(&A).hop());
                }
            }
        }
        Ok(())
    })
}

/// With another port outside than inside.
#[test]
fn into_a_container_with_another_port() -> Result {
    with_host(|host| {
        for (frame, quote) in sent((A.address, 100), (REMOTE, 443)) {
            let outcome = host.container_sends(&A, &frame.clone().sent_by(&A))?.on_path(Path::MasqueradeOut);
            let port = match frame.source_port() {
                // An identifier is kept.
                _ if outcome.frame[23] == 1 => 100,
                _ => outcome.source_port(),
            };
            let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
            let error =
                error_about(kind.clone(), REMOTE, &frame.clone().source((HOST, port)), quote).by_router();
            let mut expected = error_about(kind, REMOTE, &frame, quote);
            expected.ip.destination = A.address.octets();
            host.world_sends(&error)?.redirected(Path::IcmpError, &expected.routed_to(&A).hop());
        }
        Ok(())
    })
}

/// About the answer of a published port, and from its container about what a client sent.
#[test]
fn through_a_published_port() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        host.publish(TCP, None, 53, (&A, 5353))?;
        host.publish(SCTP, None, 53, (&A, 5353))?;
        let (client, public, inside) = ((REMOTE, 40_000), (HOST, 53), (A.address, 5353));
        for quote in [28, 60] {
            for frame in [
                Frame::udp(client, public),
                Frame::syn(client, public).payload(&[1; 40]),
                Frame::sctp(client, public).payload(&[1; 40]),
            ] {
                let arrived = frame.clone().destination(inside);
                host.world_sends(&frame.clone().by_router())?.took(Path::PortmapIn);
                let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
                let mut error = error_about(kind.clone(), A.address, &arrived, quote).sent_by(&A);
                error.ip.destination = REMOTE.octets();
                let expected = error_about(kind.clone(), HOST, &frame, quote).macs(A.mac, FRONT.gateway_mac);
                host.container_sends(&A, &error)?.redirected(Path::IcmpError, &expected.hop());

                let answer = frame.clone().source(public).destination(client);
                let too_big =
                    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                        next_hop_mtu: 1300,
                    });
                let error = error_about(too_big.clone(), REMOTE_2, &answer, quote).by_router();
                let mut expected = error_about(too_big, REMOTE_2, &answer.source(inside), quote);
                expected.ip.destination = A.address.octets();
                host.world_sends(&error)?.redirected(Path::IcmpError, &expected.routed_to(&A).hop());
            }
        }
        Ok(())
    })
}

/// Both ends of a hairpin flow are containers of this host.
#[test]
fn through_a_hairpin() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 5353))?;
        let (client, public, inside) = ((A.address, 40_000), (HOST, 53), (C.address, 5353));
        let request = Frame::udp(client, public);
        host.container_sends(&A, &request.clone().sent_by(&A))?.took(Path::HairpinIn);
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);

        let mut error =
            error_about(kind.clone(), C.address, &request.clone().destination(inside), 60).sent_by(&C);
        error.ip.destination = A.address.octets();
        let expected = error_about(kind.clone(), HOST, &request, 60).routed_to(&A);
        let expected = expected.hop();
        host.container_sends(&C, &error)?.redirected(Path::IcmpError, &expected);
        // The same by another network that the container shares with the client.
        host.add_container(&Container { container: C.container, ..B_AGAIN })?;
        host.container_sends(&B, &error.clone().sent_by(&B))?.redirected(Path::IcmpError, &expected);
        host.container_sends(&B, &error.ttl(1).sent_by(&B))?.dropped(DropReason::TimeToLive);

        let answer = Frame::udp(inside, client);
        host.container_sends(&C, &answer.clone().sent_by(&C))?.took(Path::HairpinOut);
        let error = error_about(kind.clone(), A.address, &answer.clone().source(public), 60).sent_by(&A);
        let mut expected = error_about(kind, A.address, &answer, 60).routed_to(&C);
        expected.ip.destination = C.address.octets();
        host.container_sends(&A, &error)?.redirected(Path::IcmpError, &expected.hop());
        Ok(())
    })
}

/// Between two external ports (RFC 5508 REQ-7): each end sees the other's external address, in the quotation too.
#[test]
fn between_two_external_ports() -> Result {
    with_host(|host| {
        for other in [&B, &C] {
            let (one, port) = ((A.address, 25_000), (HOST, 25_001));
            for quote in [28, 60] {
                let forth = Frame::udp(one, port);
                let back = Frame::udp((other.address, 25_001), (HOST, 25_000));
                let opened = Frame::udp((other.address, 25_001), (REMOTE, 1)).sent_by(other);
                host.container_sends(other, &opened)?.took(Path::MasqueradeOut);
                let first = host.container_sends(&A, &forth.clone().sent_by(&A))?;
                assert!(first.drop == Some(DropReason::Filtered) || quote == 60);
                host.container_sends(other, &back.clone().sent_by(other))?.took(Path::HairpinIn);
                host.container_sends(&A, &forth.clone().sent_by(&A))?.took(Path::HairpinIn);
                let arrived = Frame::udp((HOST, 25_000), (other.address, 25_001)).hop();
                let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
                let error = error_about(kind.clone(), other.address, &arrived, quote).sent_by(other);
                let expected = error_about(kind, HOST, &forth.hop(), quote).routed_to(&A);
                host.container_sends(other, &error)?.redirected(Path::IcmpError, &expected.hop());
            }
            host.age_flows(std::time::Duration::from_secs(302))?;
            host.expire()?;
            host.age_mappings(std::time::Duration::from_secs(121))?;
            host.expire()?;
            assert!(host.is_empty()?);
        }
        Ok(())
    })
}

/// An error neither ends a flow nor keeps it alive (RFC 5508 REQ-6, RFC 5382 REQ-10).
#[test]
fn errors_do_not_touch_flows() -> Result {
    with_host(|host| {
        let frame = Frame::udp((A.address, 25_000), (REMOTE, 53));
        host.container_sends(&A, &frame.clone().sent_by(&A))?.took(Path::MasqueradeOut);
        host.age_flows(std::time::Duration::from_secs(200))?;
        let before = host.unconfirmed()?;
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        let error = error_about(kind, REMOTE, &frame.source((HOST, 25_000)), 60).by_router();
        host.world_sends(&error)?.took(Path::IcmpError);
        assert_eq!(host.unconfirmed()?, before);
        assert!(host.confirmed()?.is_empty(), "an error is no answer");
        Ok(())
    })
}

/// What quotes nothing of weft's is the host's; from a container it leads nowhere.
#[test]
fn errors_about_nothing() -> Result {
    with_host(|host| {
        let kind = || Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        let frame = Frame::udp((A.address, 25_000), (REMOTE, 53));
        host.container_sends(&A, &frame.clone().sent_by(&A))?.took(Path::MasqueradeOut);
        let outside = frame.clone().source((HOST, 25_000));
        let own = error_about(kind(), REMOTE, &Frame::udp((HOST, 40_000), (REMOTE, 53)), 60).by_router();
        host.world_sends(&own)?.passed(Path::NotOurs);
        for quote in [0, 8, 20, 27] {
            let short = error_about(kind(), REMOTE, &outside, quote).by_router();
            host.world_sends(&short)?.passed(Path::NotOurs);
        }
        // A later fragment, and another remote end.
        let later = error_about(kind(), REMOTE, &outside.clone().fragment(2, false), 60).by_router();
        host.world_sends(&later)?.passed(Path::NotOurs);
        let other = error_about(kind(), REMOTE, &outside.clone().destination((REMOTE, 54)), 60).by_router();
        host.world_sends(&other)?.passed(Path::NotOurs);

        let stray = error_about(kind(), A.address, &Frame::udp((REMOTE, 1), (A.address, 2)), 60).sent_by(&A);
        host.container_sends(&A, &stray)?.dropped(DropReason::UnrelatedIcmp);
        // It may not be used to reach somebody else's flow.
        let mut stolen = error_about(kind(), B.address, &Frame::udp((REMOTE, 53), (A.address, 25_000)), 60);
        stolen.ip.destination = REMOTE.octets();
        host.container_sends(&B, &stolen.sent_by(&B))?.dropped(DropReason::UnrelatedIcmp);
        Ok(())
    })
}

/// The switch for forwarding stops errors as well, and a container that was replaced hears nothing of its predecessor's.
#[test]
fn errors_that_are_not_delivered() -> Result {
    with_host(|host| {
        let frame = Frame::udp((A.address, 25_000), (REMOTE, 53));
        host.container_sends(&A, &frame.clone().sent_by(&A))?.took(Path::MasqueradeOut);
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        let error = error_about(kind, REMOTE, &frame.source((HOST, 25_000)), 60).by_router();
        host.change_forwarding(&A, flags::FORWARDING, 0)?;
        host.world_sends(&error)?.dropped(DropReason::ForwardingDisabled);
        host.change_forwarding(&A, 0, flags::FORWARDING)?;
        host.world_sends(&error.clone().ttl(1))?.dropped(DropReason::TimeToLive);
        host.remove_endpoint(&A)?;
        host.world_sends(&error)?.dropped(DropReason::StaleFlow);
        assert_eq!((error.source_mac, error.destination_mac), (ROUTER_MAC, UPLINK_MAC));
        Ok(())
    })
}

/// No error about an error, a later fragment, or beyond the budget.
#[test]
fn errors_that_are_not_sent() -> Result {
    with_host(|host| {
        let frame = Frame::udp((A.address, 25_000), (REMOTE, 53)).sent_by(&A);
        let expired = frame.clone().ttl(1);
        let mut refused = 0;
        for _ in 0..200 {
            let outcome = host.container_sends(&A, &expired)?;
            assert_eq!(outcome.drop, Some(DropReason::TimeToLive));
            refused += u32::from(outcome.verdict == crate::outcome::Verdict::Redirect);
        }
        // 50 at once, and 500 in a second.
        assert!((50..200).contains(&refused), "{refused} errors for 200 packets");
        // A container's budget is its own.
        let expired = Frame::udp((B.address, 25_000), (REMOTE, 53)).sent_by(&B).ttl(1);
        assert_eq!(host.container_sends(&B, &expired)?.verdict, crate::outcome::Verdict::Redirect);
        Ok(())
    })
}
