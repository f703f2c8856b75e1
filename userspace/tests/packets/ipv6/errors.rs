//! ICMPv6 errors about packets of a flow (RFC 4443, RFC 5508 section 4).

use std::net::Ipv6Addr;

use dataplane_common::abi::{DropReason, Path};
use etherparse::{
    Icmpv6Type,
    icmpv6::{DestUnreachableCode, TimeExceededCode},
};

use super::{
    arrives, became,
    frame::{Frame, Socket},
    sends, source_port,
    topology::{A, C, HOST, REMOTE, REMOTE_2, publish, with_host},
};
use crate::{
    Result,
    host::{SCTP, TCP, UDP},
};

/// An error from somebody, about a frame that this one has got.
fn error_about(kind: Icmpv6Type, from: Ipv6Addr, frame: &Frame, quote: usize) -> Frame {
    let quoted = &frame.bytes()[14..];
    Frame::icmp(kind, from, frame.ip.source.into()).payload(&quoted[..quote.min(quoted.len())])
}

/// The same error as it must reach this address.
fn for_address(mut error: Frame, address: Ipv6Addr) -> Frame {
    error.ip.destination = address.octets();
    error
}

const PORT_UNREACHABLE: Icmpv6Type = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);

fn kinds() -> [Icmpv6Type; 4] {
    [
        PORT_UNREACHABLE,
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute),
        Icmpv6Type::PacketTooBig { mtu: 1400 },
        Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
    ]
}

/// A packet of each protocol, with quotations of 8 and more bytes behind the IPv6 header.
fn sent(from: Socket, to: Socket) -> Vec<(Frame, usize)> {
    let mut cases = Vec::new();
    for quote in [48, 56, 58, 60, 140, 600] {
        cases.push((Frame::udp(from, to).payload(&[7; 600]), quote));
        cases.push((Frame::syn(from, to).payload(&[9; 100]), quote));
        cases.push((Frame::sctp(from, to).payload(&[5; 400]), quote));
        cases.push((Frame::echo_request(from.0, to.0, from.1), quote));
    }
    cases
}

/// From the far end and from a router on the way, with the container's port kept outside and with another.
#[test]
fn into_a_masqueraded_container() -> Result {
    with_host(|host| {
        for (kept, kind) in (25_000..).zip(kinds()) {
            for (frame, quote) in sent((A.address, kept), (REMOTE, 443)) {
                became_error(host, &kind, frame, quote)?;
            }
            for (frame, quote) in sent((A.address, 100), (REMOTE, 443)) {
                became_error(host, &kind, frame, quote)?;
            }
        }
        Ok(())
    })
}

fn became_error(host: &mut crate::host::Host, kind: &Icmpv6Type, frame: Frame, quote: usize) -> Result {
    let outcome = sends(host, &A, &frame.clone().sent_by(&A))?.on_path(Path::MasqueradeOut);
    let port = match &frame.transport {
        super::frame::Transport::Icmp(Icmpv6Type::EchoRequest(echo)) => echo.id,
        _ => source_port(&outcome),
    };
    let outside = frame.clone().source((HOST, port)).hop();
    for from in [REMOTE, REMOTE_2] {
        let error = error_about(*kind, from, &outside, quote).by_router();
        let expected = error_about(*kind, from, &frame.clone().hop(), quote).routed_to(&A).hop();
        became(arrives(host, &error)?, Path::IcmpError, &expected);
    }
    Ok(())
}

/// About the answer of a published port, and from its container about what a client sent.
#[test]
fn through_a_published_port() -> Result {
    with_host(|host| {
        publish(host, UDP, 53, (&A, 5353))?;
        publish(host, TCP, 53, (&A, 5353))?;
        publish(host, SCTP, 53, (&A, 5353))?;
        let (client, public, inside) = ((REMOTE, 40_000), (HOST, 53), (A.address, 5353));
        for quote in [48, 80] {
            for frame in [
                Frame::udp(client, public),
                Frame::syn(client, public).payload(&[1; 40]),
                Frame::sctp(client, public).payload(&[1; 40]),
            ] {
                let arrived = frame.clone().destination(inside);
                arrives(host, &frame.clone().by_router())?.took(Path::PortmapIn);
                let error = error_about(PORT_UNREACHABLE, A.address, &arrived, quote).sent_by(&A);
                let expected = error_about(PORT_UNREACHABLE, HOST, &frame, quote).sent_by(&A).hop();
                became(sends(host, &A, &error)?, Path::IcmpError, &expected);

                let answer = frame.clone().source(public).destination(client);
                let too_big = Icmpv6Type::PacketTooBig { mtu: 1300 };
                let error = error_about(too_big, REMOTE_2, &answer, quote).by_router();
                let expected = error_about(too_big, REMOTE_2, &answer.source(inside), quote);
                let expected = for_address(expected, A.address).routed_to(&A).hop();
                became(arrives(host, &error)?, Path::IcmpError, &expected);
            }
        }
        Ok(())
    })
}

/// Both ends of a hairpin flow are containers of this host.
#[test]
fn through_a_hairpin() -> Result {
    with_host(|host| {
        publish(host, UDP, 53, (&C, 5353))?;
        let (client, public, inside) = ((A.address, 40_000), (HOST, 53), (C.address, 5353));
        let request = Frame::udp(client, public);
        sends(host, &A, &request.clone().sent_by(&A))?.took(Path::HairpinIn);
        let error =
            error_about(PORT_UNREACHABLE, C.address, &request.clone().destination(inside), 80).sent_by(&C);
        let expected = error_about(PORT_UNREACHABLE, HOST, &request, 80).routed_to(&A).hop();
        became(sends(host, &C, &error)?, Path::IcmpError, &expected);

        let answer = Frame::udp(inside, client);
        sends(host, &C, &answer.clone().sent_by(&C))?.took(Path::HairpinOut);
        let error = error_about(PORT_UNREACHABLE, A.address, &answer.clone().source(public), 80).sent_by(&A);
        let expected = error_about(PORT_UNREACHABLE, A.address, &answer, 80).routed_to(&C).hop();
        became(sends(host, &A, &error)?, Path::IcmpError, &expected);
        Ok(())
    })
}

/// What quotes nothing of weft's is the host's; from a container it leads nowhere. No error about an error.
#[test]
fn errors_about_nothing() -> Result {
    with_host(|host| {
        let unknown = Frame::udp((HOST, 25_000), (REMOTE, 53));
        arrives(host, &error_about(PORT_UNREACHABLE, REMOTE, &unknown, 80).by_router())?
            .passed(Path::NotOurs);
        let unknown = Frame::udp((REMOTE, 53), (A.address, 25_000));
        let error = error_about(PORT_UNREACHABLE, A.address, &unknown, 80).sent_by(&A);
        sends(host, &A, &error)?.dropped(DropReason::UnrelatedIcmp);

        let frame = Frame::udp((A.address, 25_000), (REMOTE, 53));
        sends(host, &A, &frame.clone().sent_by(&A))?.took(Path::MasqueradeOut);
        let error = error_about(PORT_UNREACHABLE, REMOTE, &frame.source((HOST, 25_000)), 80).by_router();
        arrives(host, &error.clone().hop_limit(1))?.dropped(DropReason::TimeToLive);
        arrives(host, &error)?.took(Path::IcmpError);
        Ok(())
    })
}
