//! from_container to the world and from_uplink back: the packets of masqueraded flows. Ports are in `mappings`.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, Path, flags, program};
use etherparse::{Icmpv4Type, IpNumber, icmpv4::DestUnreachableHeader};

use crate::{
    Result,
    frames::Frame,
    host::with_host,
    namespace,
    outcome::assert_bytes,
    topology::{A, B, C, FRONT, HOST, REMOTE, REMOTE_2, STRANGER, UPLINK},
};

/// A port of the pool, which is kept.
const PORT: u16 = 20_500;

/// The redirect fills the Ethernet header in later, so the MAC addresses are still the container's.
fn translated(frame: &Frame) -> Frame {
    frame.clone().source((HOST, frame.source_port())).hop()
}

#[test]
fn out_and_back_byte_by_byte() -> Result {
    with_host(|host| {
        let (a, remote) = ((A.address, PORT), (REMOTE, 443));
        let out_and_back = [
            (Frame::syn(a, remote), Frame::tcp(remote, a).control(|tcp| (tcp.syn, tcp.ack) = (true, true))),
            (Frame::tcp(a, remote).payload(&[9; 1400]), Frame::tcp(remote, a).payload(b"odd")),
            (Frame::udp(a, remote), Frame::udp(remote, a).payload(b"")),
            (Frame::udp(a, remote).dscp_and_ecn(46, 1), Frame::udp(remote, a).dscp_and_ecn(10, 3)),
            (Frame::udp(a, remote).options(&[1, 1, 1, 0]), Frame::udp(remote, a).options(&[1; 40])),
            // Without a checksum it stays without one (RFC 768).
            (Frame::udp(a, remote).without_checksum(), Frame::udp(remote, a).without_checksum()),
            (Frame::echo_request(a.0, REMOTE, PORT), Frame::echo_reply(REMOTE, a.0, PORT)),
            (Frame::echo_request(a.0, REMOTE, 0), Frame::echo_reply(REMOTE, a.0, 0)),
        ];
        for (out, back) in out_and_back {
            let out = out.sent_by(&A);
            host.container_sends(&A, &out)?.redirected(Path::MasqueradeOut, &translated(&out));
            let port = out.source_port();
            let arriving = back.clone().destination((HOST, port)).by_router();
            let expected = back.routed_to(&A).hop();
            host.world_sends(&arriving)?.redirected(Path::MasqueradeIn, &expected);
        }
        Ok(())
    })
}

/// Translation that changes the port, too.
#[test]
fn ports_are_translated_both_ways() -> Result {
    with_host(|host| {
        let remote = (REMOTE, 443);
        for out in [
            Frame::syn((A.address, 50_000), remote),
            Frame::udp((A.address, 50_000), remote),
            Frame::udp((A.address, 50_000), remote).without_checksum().payload(b"odd"),
        ] {
            let out = out.sent_by(&A);
            let outcome = host.container_sends(&A, &out)?.on_path(Path::MasqueradeOut);
            let port = outcome.source_port();
            assert!((20_000..30_000).contains(&port), "{port} is not in the pool");
            assert_bytes(&outcome.frame, &out.clone().source((HOST, port)).hop().bytes());

            let back = out.clone().source(remote).destination((HOST, port)).by_router();
            let expected = out.clone().source(remote).destination((A.address, 50_000)).routed_to(&A).hop();
            host.world_sends(&back)?.redirected(Path::MasqueradeIn, &expected);
        }
        Ok(())
    })
}

#[test]
fn gso_packets_are_translated_and_counted_as_segments() -> Result {
    with_host(|host| {
        let frame = Frame::tcp((A.address, PORT), (REMOTE, 443)).payload(&[1; 3000]).sent_by(&A);
        let input = frame.bytes();
        for _ in 0..2 {
            let run = host.programs.run(program::FROM_CONTAINER, &input, A.device)?.gso(1448, 3);
            let outcome = run.outcome()?.on_path(Path::MasqueradeOut).counts_as(3);
            assert_bytes(&outcome.frame, &translated(&frame).bytes());
        }
        Ok(())
    })
}

/// Filtering is by address and port (RFC 4787 section 5, "address and port-dependent").
#[test]
fn only_the_remote_end_is_let_in() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
        for remote in [(REMOTE, 444), (REMOTE_2, 443)] {
            host.world_sends(&Frame::udp(remote, (HOST, PORT)).by_router())?.dropped(DropReason::Filtered);
        }
        host.world_sends(&Frame::udp((REMOTE, 443), (HOST, PORT + 1)).by_router())?.passed(Path::NotOurs);
        let tcp = Frame::tcp((REMOTE, 443), (HOST, PORT)).by_router();
        host.world_sends(&tcp)?.passed(Path::NotOurs);
        Ok(())
    })
}

/// A query goes out as a request and comes back as a reply, nothing else of ICMP belongs to its flow: not even where
/// the identifier is 0, as that of messages without one.
#[test]
fn other_icmp_is_no_part_of_a_query() -> Result {
    with_host(|host| {
        let unreachable = || Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        for id in [0, PORT] {
            let query = Frame::echo_request(A.address, REMOTE, id).sent_by(&A);
            host.container_sends(&A, &query)?.redirected(Path::MasqueradeOut, &translated(&query));
            host.world_sends(&Frame::echo_request(REMOTE, HOST, id).by_router())?.passed(Path::NotOurs);
            host.world_sends(&Frame::icmp(unreachable(), REMOTE, HOST).by_router())?.passed(Path::NotOurs);
            let reply = Frame::echo_reply(A.address, REMOTE, id).sent_by(&A);
            host.container_sends(&A, &reply)?.dropped(DropReason::UnsupportedProtocol);
            let error = Frame::icmp(unreachable(), A.address, REMOTE).sent_by(&A);
            host.container_sends(&A, &error)?.dropped(DropReason::UnrelatedIcmp);
        }
        Ok(())
    })
}

#[test]
fn what_may_not_open_a_flow() -> Result {
    with_host(|host| {
        let (a, remote) = ((A.address, PORT), (REMOTE, 443));
        let cases = [
            // There is no waiting room here.
            (Frame::ip(IpNumber::UDP, a.0, remote.0).fragment(185, false), DropReason::Fragment),
            // It would overwrite the flags of the TCP header in front of it (RFC 1858).
            (Frame::ip(IpNumber::TCP, a.0, remote.0).fragment(1, false), DropReason::Fragment),
            (Frame::ip(IpNumber::GRE, a.0, remote.0), DropReason::UnsupportedProtocol),
            (Frame::ip(IpNumber::SCTP, a.0, remote.0).payload(b"short"), DropReason::Malformed),
            (Frame::tcp(a, remote).control(|tcp| tcp.rst = true), DropReason::NoFlow),
            (Frame::tcp(a, remote).control(|tcp| (tcp.rst, tcp.ack) = (true, true)), DropReason::NoFlow),
        ];
        for (frame, reason) in cases {
            host.container_sends(&A, &frame.sent_by(&A))?.dropped(reason);
        }
        assert!(host.is_empty()?, "a refused packet has left a record");
        Ok(())
    })
}

#[test]
fn the_time_to_live_ends_here() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        for ttl in [1, 0] {
            host.container_sends(&A, &out.clone().ttl(ttl))?.refused(
                DropReason::TimeToLive,
                (11, 0, 0),
                FRONT.gateway,
            );
        }
        let last = out.clone().ttl(2);
        host.container_sends(&A, &last)?.redirected(Path::MasqueradeOut, &translated(&last));
        host.container_sends(&A, &out.ttl(1))?.refused(DropReason::TimeToLive, (11, 0, 0), FRONT.gateway);
        let back = Frame::udp((REMOTE, 443), (HOST, PORT)).by_router().ttl(1);
        host.world_sends(&back)?.refused(DropReason::TimeToLive, (11, 0, 0), HOST);
        Ok(())
    })
}

#[test]
fn networks_without_a_way_out() -> Result {
    with_host(|host| {
        let frame = Frame::syn((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        let cases = [
            (flags::INTERNAL, 0, DropReason::Internal),
            (0, flags::MASQUERADE, DropReason::NoRoute),
            (0, flags::FORWARDING, DropReason::ForwardingDisabled),
        ];
        for (set, clear, reason) in cases {
            host.add_container(&A)?;
            host.change_flags(A.device, clear, set)?;
            host.container_sends(&A, &frame)?.dropped(reason);
        }
        assert!(host.is_empty()?, "a refused packet has left a record");
        Ok(())
    })
}

/// Switching forwarding off stops the flows that there are, both ways (scenario S2); the kernel's switch stops new ones.
#[test]
fn forwarding_may_be_switched_off() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        let back = Frame::udp((REMOTE, 443), (HOST, PORT)).by_router();
        host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
        host.change_flags(A.device, flags::FORWARDING, 0)?;
        host.change_forwarding(&A, flags::FORWARDING, 0)?;
        host.container_sends(&A, &out)?.dropped(DropReason::ForwardingDisabled);
        host.world_sends(&back)?.dropped(DropReason::ForwardingDisabled);

        host.change_forwarding(&A, 0, flags::FORWARDING)?;
        host.world_sends(&back)?.took(Path::MasqueradeIn);

        namespace::set_forwarding(false)?;
        let other = Frame::udp((B.address, PORT + 1), (REMOTE, 443)).sent_by(&B);
        host.container_sends(&B, &other)?.dropped(DropReason::ForwardingDisabled);
        Ok(())
    })
}

#[test]
fn the_hosts_routes_decide() -> Result {
    with_host(|host| {
        let to = |destination| Frame::syn((A.address, PORT), (destination, 443)).sent_by(&A);
        // Loopback is nobody's way out; what is published there is not for containers.
        host.container_sends(&A, &to(Ipv4Addr::LOCALHOST))?.dropped(DropReason::NoRoute);
        namespace::ip("route add unreachable 203.0.113.0/24\n")?;
        host.container_sends(&A, &to(REMOTE_2))?.dropped(DropReason::NoRoute);

        // A device that is not weft's uplink.
        namespace::ip(&format!(
            "addr add 172.16.0.1/24 dev {STRANGER}\nlink set {STRANGER} up\nroute replace 198.51.100.0/24 dev {STRANGER}\n"
        ))?;
        host.container_sends(&A, &to(REMOTE))?.dropped(DropReason::NoRoute);
        assert!(host.is_empty()?, "a refused packet has left a record");

        // An uplink that weft does not know (any more).
        namespace::ip(&format!("route del 198.51.100.0/24 dev {STRANGER}\n"))?;
        host.remove_device(UPLINK)?;
        host.container_sends(&A, &to(REMOTE))?.dropped(DropReason::NoRoute);
        namespace::ip("route del default\n")?;
        host.container_sends(&A, &to(REMOTE))?.dropped(DropReason::NoRoute);
        Ok(())
    })
}

#[test]
fn a_packet_longer_than_the_uplinks_mtu_opens_no_flow() -> Result {
    with_host(|host| {
        let long = Frame::udp((A.address, PORT), (REMOTE, 443)).payload(&[0; 1473]).sent_by(&A);
        // Without DF likewise: weft does not fragment.
        for frame in [&long, &long.clone().fragment(0, false)] {
            host.container_sends(&A, frame)?.refused(DropReason::TooBig, (3, 4, 1500), FRONT.gateway);
        }
        assert!(host.is_empty()?, "a refused packet has left a record");
        let fits = long.payload(&[0; 1472]);
        host.container_sends(&A, &fits)?.redirected(Path::MasqueradeOut, &translated(&fits));
        Ok(())
    })
}

/// Containers of several networks use one pool.
#[test]
fn every_network_has_its_way_out() -> Result {
    with_host(|host| {
        for (container, port) in [(&A, PORT), (&C, PORT + 1)] {
            let out = Frame::syn((container.address, port), (REMOTE, 443)).sent_by(container);
            host.container_sends(container, &out)?.redirected(Path::MasqueradeOut, &translated(&out));
            let back = Frame::tcp((REMOTE, 443), (HOST, port)).by_router();
            let expected = Frame::tcp((REMOTE, 443), (container.address, port)).routed_to(container).hop();
            host.world_sends(&back)?.redirected(Path::MasqueradeIn, &expected);
        }
        Ok(())
    })
}
