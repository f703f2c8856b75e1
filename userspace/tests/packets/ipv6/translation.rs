//! Masquerade, published ports and hairpin.

use dataplane_common::abi::{DropReason, Endpoint, EndpointKey, Path, flags, map};
use etherparse::IpNumber;

use super::{
    arrives, became,
    bridge::PADDING,
    frame::{DESTINATION_OPTIONS, Frame, HOP_BY_HOP},
    sends, source_port,
    topology::{A, B, C, HOST, REMOTE, REMOTE_2, gateway, key, publish, with_host},
};
use crate::{
    Result,
    host::{SCTP, TCP, UDP},
    outcome::assert_bytes,
    topology::UPLINK,
};

/// A port of the pool, which is kept.
const PORT: u16 = 20_500;

#[test]
fn masquerade_out_and_back_byte_by_byte() -> Result {
    with_host(|host| {
        let (a, remote) = ((A.address, PORT), (REMOTE, 443));
        for (out, back) in [
            (Frame::syn(a, remote), Frame::syn_ack(remote, a)),
            (Frame::tcp(a, remote).payload(&[9; 1400]), Frame::tcp(remote, a).payload(b"odd")),
            (Frame::udp(a, remote), Frame::udp(remote, a).payload(b"")),
            (Frame::sctp(a, remote), Frame::sctp(remote, a).payload(b"")),
            (
                Frame::udp(a, remote).extension(HOP_BY_HOP, &PADDING),
                Frame::udp(remote, a).extension(DESTINATION_OPTIONS, &PADDING),
            ),
            // A fragment header on a whole packet (RFC 6946).
            (Frame::udp(a, remote).fragment(0, false, 1), Frame::udp(remote, a)),
            (Frame::echo_request(a.0, REMOTE, PORT), Frame::echo_reply(REMOTE, a.0, PORT)),
            (Frame::echo_request(a.0, REMOTE, 0), Frame::echo_reply(REMOTE, a.0, 0)),
        ] {
            let out = out.sent_by(&A);
            let port = match &out.transport {
                super::frame::Transport::Icmp(etherparse::Icmpv6Type::EchoRequest(echo)) => echo.id,
                _ => PORT,
            };
            let expected = out.clone().source((HOST, port)).hop();
            became(sends(host, &A, &out)?, Path::MasqueradeOut, &expected);
            let arriving = back.clone().destination((HOST, port)).by_router();
            became(arrives(host, &arriving)?, Path::MasqueradeIn, &back.routed_to(&A).hop());
        }
        Ok(())
    })
}

/// Translation that changes the port, too; an IPv6 flow and an IPv4 flow of the same ports are two.
#[test]
fn ports_are_translated_both_ways() -> Result {
    with_host(|host| {
        let remote = (REMOTE, 443);
        for out in
            [Frame::syn((A.address, 50_000), remote), Frame::udp((A.address, 50_000), remote).payload(b"odd")]
        {
            let out = out.sent_by(&A);
            let outcome = sends(host, &A, &out)?.on_path(Path::MasqueradeOut);
            let port = source_port(&outcome);
            assert!((20_000..30_000).contains(&port), "{port} is not in the pool");
            assert_bytes(&outcome.frame, &out.clone().source((HOST, port)).hop().bytes());
            let back = out.clone().source(remote).destination((HOST, port)).by_router();
            let expected = out.source(remote).destination((A.address, 50_000)).routed_to(&A).hop();
            became(arrives(host, &back)?, Path::MasqueradeIn, &expected);
        }
        let v4 = crate::frames::Frame::udp((A.container.address, PORT), (crate::topology::REMOTE, 443));
        host.container_sends(A.container, &v4.sent_by(A.container))?.took(Path::MasqueradeOut);
        let v6 = Frame::udp((A.address, PORT), remote).sent_by(&A);
        sends(host, &A, &v6)?.took(Path::MasqueradeOut);
        assert_eq!(host.mappings()?.len(), 4);
        Ok(())
    })
}

/// Filtering is by address and port; what nobody has asked for is the host's.
#[test]
fn strangers_are_not_let_in() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        sends(host, &A, &out)?.took(Path::MasqueradeOut);
        for from in [(REMOTE_2, 443), (REMOTE, 444)] {
            arrives(host, &Frame::udp(from, (HOST, PORT)).by_router())?.dropped(DropReason::Filtered);
        }
        arrives(host, &Frame::udp((REMOTE, 443), (HOST, PORT + 1)).by_router())?.passed(Path::NotOurs);
        Ok(())
    })
}

#[test]
fn the_ways_to_say_no() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        for hops in [0, 1] {
            sends(host, &A, &out.clone().hop_limit(hops))?.refused_v6(
                DropReason::TimeToLive,
                (3, 0, 0),
                gateway(1),
            );
        }
        let long = out.clone().payload(&[1; 1460]);
        sends(host, &A, &long)?.refused_v6(DropReason::TooBig, (2, 0, 1500), gateway(1));
        let tcp = Frame::tcp((A.address, PORT), (REMOTE, 443)).payload(&[1; 1441]).sent_by(&A);
        sends(host, &A, &tcp)?.refused_v6(DropReason::TooBig, (2, 0, 1500), gateway(1));
        // IPv6 has a switch of its own.
        host.change_flags(A.container.device, flags::FORWARDING_V6, 0)?;
        sends(host, &A, &out)?.dropped(DropReason::ForwardingDisabled);
        host.change_flags(A.container.device, flags::FORWARDING, flags::FORWARDING_V6)?;
        sends(host, &A, &out)?.took(Path::MasqueradeOut);
        let endpoint_key = EndpointKey { network: A.container.network.number, address: key(A.address) };
        let mut endpoints = host.programs.hash::<EndpointKey, Endpoint>(map::ENDPOINTS)?;
        let endpoint = endpoints.get(&endpoint_key, 0)?;
        let flags = endpoint.flags & !flags::FORWARDING_V6;
        endpoints.insert(endpoint_key, Endpoint { flags, ..endpoint }, 0)?;
        let back = Frame::udp((REMOTE, 443), (HOST, PORT)).by_router();
        arrives(host, &back)?.dropped(DropReason::ForwardingDisabled);
        // An uplink without an address of the family is no way out.
        let other = Frame::udp((A.address, PORT + 1), (REMOTE, 443)).sent_by(&A);
        host.change_device(UPLINK, |device| device.address_v6 = dataplane_common::abi::Address::UNSPECIFIED)?;
        sends(host, &A, &other)?.dropped(DropReason::NoRoute);
        Ok(())
    })
}

/// From outside, from a container of another network, from a neighbour, and from the container itself.
#[test]
fn a_published_port_is_reached_by_everybody() -> Result {
    with_host(|host| {
        for (protocol, frame) in
            [(TCP, Frame::syn as fn(_, _) -> Frame), (UDP, Frame::udp), (SCTP, Frame::sctp)]
        {
            publish(host, protocol, 80, (&A, 8080))?;
            let (public, inside) = ((HOST, 80), (A.address, 8080));
            let client = (REMOTE, 40_000);
            let request = frame(client, public).by_router();
            became(
                arrives(host, &request)?,
                Path::PortmapIn,
                &request.clone().destination(inside).routed_to(&A).hop(),
            );
            let answer = frame(inside, client).sent_by(&A);
            became(sends(host, &A, &answer)?, Path::PortmapOut, &answer.clone().source(public).hop());

            let client = (C.address, 40_000);
            let request = frame(client, public).sent_by(&C);
            became(
                sends(host, &C, &request)?,
                Path::HairpinIn,
                &request.clone().destination(inside).routed_to(&A).hop(),
            );
            let answer = frame(inside, client).sent_by(&A);
            became(
                sends(host, &A, &answer)?,
                Path::HairpinOut,
                &answer.clone().source(public).routed_to(&C).hop(),
            );

            // A neighbour, by the network's gateway: the container sees it with another port.
            let client = (B.address, 40_000);
            let public = (gateway(1), 80);
            let request = frame(client, public).sent_by(&B);
            let outcome = sends(host, &B, &request)?.on_path(Path::HairpinIn);
            let port = source_port(&outcome);
            let arrived = request.source((B.address, port)).destination(inside).routed_to(&A).hop();
            assert_bytes(&outcome.frame, &arrived.bytes());
            let answer = frame(inside, (B.address, port)).macs(A.mac(), B.mac());
            let expected = answer.clone().source(public).destination(client).routed_to(&B).hop();
            became(sends(host, &A, &answer)?, Path::HairpinOut, &expected);

            // Itself: it sees its gateway.
            let request = frame((A.address, 40_000), (HOST, 80)).sent_by(&A);
            let outcome = sends(host, &A, &request)?.on_path(Path::HairpinIn);
            let expected =
                request.source((gateway(1), source_port(&outcome))).destination(inside).routed_to(&A).hop();
            assert_bytes(&outcome.frame, &expected.bytes());
        }
        // The same port by IPv4 is not published.
        let v4 =
            crate::frames::Frame::udp((crate::topology::REMOTE, 1), (crate::topology::HOST, 80)).by_router();
        host.world_sends(&v4)?.passed(Path::NotOurs);
        Ok(())
    })
}

/// Sources that nobody outside can have do not open a flow.
#[test]
fn impossible_clients() -> Result {
    with_host(|host| {
        publish(host, UDP, 80, (&A, 8080))?;
        for source in ["::", "::1", "ff02::1", "fe80::1", "2001:db8::1", "fd00:1::11", "fd00:2::77"] {
            let frame = Frame::udp((source.parse()?, 4000), (HOST, 80)).by_router();
            arrives(host, &frame)?.dropped(DropReason::SpoofedAddress);
        }
        assert!(host.is_empty()?);
        Ok(())
    })
}

/// A later fragment has the ports of its first, each datagram its own; the fragment header stays as it is.
#[test]
fn fragments_follow_their_first() -> Result {
    with_host(|host| {
        let (a, remote) = ((A.address, PORT), (REMOTE, 443));
        let later = |id| Frame::raw(IpNumber::UDP, A.address, REMOTE).fragment(100, false, id).sent_by(&A);
        sends(host, &A, &later(1))?.dropped(DropReason::Fragment);
        let first = Frame::udp(a, remote).payload(&[3; 792]).fragment(0, true, 1).sent_by(&A);
        became(sends(host, &A, &first)?, Path::MasqueradeOut, &first.clone().source((HOST, PORT)).hop());
        became(sends(host, &A, &later(1))?, Path::MasqueradeOut, &later(1).source((HOST, 0)).hop());
        sends(host, &A, &later(2))?.dropped(DropReason::Fragment);

        let back = |frame: Frame| frame.by_router();
        let first = back(Frame::udp(remote, (HOST, PORT)).payload(&[3; 792]).fragment(0, true, 9));
        let expected = first.clone().destination(a).routed_to(&A).hop();
        became(arrives(host, &first)?, Path::MasqueradeIn, &expected);
        let later = back(Frame::raw(IpNumber::UDP, REMOTE, HOST).fragment(100, false, 9));
        let expected = later.clone().destination((A.address, 0)).routed_to(&A).hop();
        became(arrives(host, &later)?, Path::MasqueradeIn, &expected);
        Ok(())
    })
}
