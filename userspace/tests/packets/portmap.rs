//! from_uplink: published ports, and what is not weft's business.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, Path, flags, program};
use etherparse::{EtherType, IpNumber};
use weft::model::PortRange;

use crate::{
    Result,
    frames::{Frame, arp, ethernet},
    host::{Host, TCP, UDP, with_host},
    topology::{
        A, B, C, Container, FRONT, HOST, HOST_2, M, REMOTE, REMOTE_2, ROUTER_MAC, STRANGER, UPLINK,
        UPLINK_MAC,
    },
};

const CLIENT: (Ipv4Addr, u16) = (REMOTE, 50_123);

/// A client's UDP packet to a host port is delivered to this container's port, and the answer comes from the host's.
#[track_caller]
fn assert_leads(host: &mut Host, to: (Ipv4Addr, u16), container: &Container, port: u16) -> Result {
    let request = Frame::udp(CLIENT, to).by_router();
    let inside = (container.address, port);
    host.world_sends(&request)?
        .redirected(Path::PortmapIn, &request.clone().destination(inside).routed_to(container).hop());
    let answer = Frame::udp(inside, CLIENT).sent_by(container);
    host.container_sends(container, &answer)?.redirected(Path::PortmapOut, &answer.clone().source(to).hop());
    Ok(())
}

#[test]
fn a_connection_byte_by_byte() -> Result {
    with_host(|host| {
        host.publish(TCP, None, 8080, (&A, 80))?;
        let (outside, inside) = ((HOST, 8080), (A.address, 80));
        type Control = fn(&mut etherparse::TcpHeader);
        let syn: Control = |tcp| tcp.syn = true;
        let syn_ack: Control = |tcp| (tcp.syn, tcp.ack) = (true, true);
        let ack: Control = |tcp| (tcp.psh, tcp.ack) = (true, true);
        let fin: Control = |tcp| (tcp.fin, tcp.ack) = (true, true);
        for (incoming, control, payload) in [
            (true, syn, &b""[..]),
            (false, syn_ack, b""),
            (true, ack, b"GET / HTTP/1.0\r\n\r\n"),
            (false, ack, &[0x55; 1400]),
            (false, fin, b""),
            (true, fin, b""),
            (false, ack, b""),
        ] {
            if incoming {
                let frame = Frame::tcp(CLIENT, outside).control(control).payload(payload).by_router();
                host.world_sends(&frame)?
                    .redirected(Path::PortmapIn, &frame.clone().destination(inside).routed_to(&A).hop());
            } else {
                let frame = Frame::tcp(inside, CLIENT).control(control).payload(payload).sent_by(&A);
                host.container_sends(&A, &frame)?
                    .redirected(Path::PortmapOut, &frame.clone().source(outside).hop());
            }
        }
        assert_eq!((host.confirmed()?.len(), host.unconfirmed()?.len(), host.ports()?.len()), (1, 0, 1));
        Ok(())
    })
}

#[test]
fn udp_without_checksum_options_and_gso() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        for frame in [
            Frame::udp(CLIENT, (HOST, 53)).without_checksum(),
            Frame::udp(CLIENT, (HOST, 53)).options(&[1, 1, 1, 0]),
            Frame::udp(CLIENT, (HOST, 53)).payload(b""),
        ] {
            let frame = frame.by_router();
            let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop();
            host.world_sends(&frame)?.redirected(Path::PortmapIn, &expected);
        }
        let frame = Frame::udp(CLIENT, (HOST, 53)).payload(&[3; 2800]).by_router();
        let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop();
        let input = frame.bytes();
        let outcome = host.programs.run(program::FROM_UPLINK, &input, UPLINK)?.gso(1400, 2).outcome()?;
        let outcome = outcome.on_path(Path::PortmapIn).counts_as(2);
        crate::outcome::assert_bytes(&outcome.frame, &expected.bytes());
        Ok(())
    })
}

#[test]
fn the_more_specific_publication_wins() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 1053))?;
        host.publish(UDP, Some(HOST_2), 53, (&B, 2053))?;
        assert_leads(host, (HOST, 53), &A, 1053)?;
        assert_leads(host, (HOST_2, 53), &B, 2053)?;
        // A single port of a wildcard range on one address, and one in the range.
        host.publish_range(UDP, None, PortRange { first: 1000, last: 1999 }, (&A, 1000))?;
        host.publish(UDP, None, 1500, (&C, 1))?;
        host.publish_range(UDP, Some(HOST_2), PortRange { first: 1000, last: 1999 }, (&B, 3000))?;
        assert_leads(host, (HOST, 1499), &A, 1499)?;
        assert_leads(host, (HOST, 1500), &C, 1)?;
        assert_leads(host, (HOST_2, 1500), &B, 3500)?;
        Ok(())
    })
}

#[test]
fn ranges_keep_the_offset() -> Result {
    with_host(|host| {
        host.publish_range(UDP, None, PortRange { first: 10_001, last: 10_998 }, (&A, 60_001))?;
        for offset in [0, 1, 2, 511, 512, 996, 997] {
            assert_leads(host, (HOST, 10_001 + offset), &A, 60_001 + offset)?;
        }
        for port in [10_000, 10_999] {
            host.world_sends(&Frame::udp(CLIENT, (HOST, port)).by_router())?.passed(Path::NotOurs);
        }
        // TCP is another protocol.
        host.world_sends(&Frame::syn(CLIENT, (HOST, 10_500)).by_router())?.passed(Path::NotOurs);
        Ok(())
    })
}

/// Several host ports may lead to one container port; each answer comes from the port that was asked.
#[test]
fn several_ports_of_one_container() -> Result {
    with_host(|host| {
        for (port, container_port) in [(81, 80), (82, 80), (83, 81)] {
            host.publish(UDP, None, port, (&A, container_port))?;
        }
        for (client_port, port, container_port) in [(1, 81, 80), (2, 82, 80), (3, 83, 81), (1, 83, 81)] {
            let client = (REMOTE_2, client_port);
            let request = Frame::udp(client, (HOST, port)).by_router();
            let inside = (A.address, container_port);
            host.world_sends(&request)?
                .redirected(Path::PortmapIn, &request.clone().destination(inside).routed_to(&A).hop());
        }
        for (client_port, port, container_port) in [(1, 81, 80), (2, 82, 80), (3, 83, 81), (1, 83, 81)] {
            let answer = Frame::udp((A.address, container_port), (REMOTE_2, client_port)).sent_by(&A);
            host.container_sends(&A, &answer)?
                .redirected(Path::PortmapOut, &answer.clone().source((HOST, port)).hop());
        }
        Ok(())
    })
}

#[test]
fn what_a_published_port_refuses() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        host.publish(TCP, None, 80, (&A, 80))?;
        let udp = Frame::udp(CLIENT, (HOST, 53)).by_router();
        let tcp = Frame::tcp(CLIENT, (HOST, 80)).by_router();
        host.world_sends(&tcp.control(|tcp| tcp.rst = true))?.dropped(DropReason::NoFlow);
        host.world_sends(&udp.clone().ttl(1))?.refused(DropReason::TimeToLive, (11, 0, 0), HOST);
        host.change_forwarding(&A, flags::FORWARDING, 0)?;
        host.world_sends(&udp)?.dropped(DropReason::ForwardingDisabled);
        host.change_forwarding(&A, 0, flags::FORWARDING)?;
        host.remove_endpoint(&A)?;
        host.world_sends(&Frame::udp((REMOTE_2, 1), (HOST, 53)).by_router())?.dropped(DropReason::NoEndpoint);
        Ok(())
    })
}

/// Publishing is for one address of the host, and loopback is not on the wire.
#[test]
fn a_port_is_published_where_it_says() -> Result {
    with_host(|host| {
        host.publish(UDP, Some(Ipv4Addr::LOCALHOST), 53, (&A, 53))?;
        host.publish(UDP, Some(HOST_2), 54, (&A, 53))?;
        for destination in [(HOST, 53), (HOST_2, 53), (Ipv4Addr::LOCALHOST, 53), (HOST, 54)] {
            host.world_sends(&Frame::udp(CLIENT, destination).by_router())?.passed(Path::NotOurs);
        }
        host.publish(UDP, None, 55, (&A, 53))?;
        // Published on all addresses of the host: these are none.
        for destination in [REMOTE_2, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST] {
            host.world_sends(&Frame::udp(CLIENT, (destination, 55)).by_router())?.passed(Path::NotOurs);
        }
        Ok(())
    })
}

#[test]
fn the_rest_is_not_ours() -> Result {
    with_host(|host| {
        host.publish(TCP, None, 80, (&A, 80))?;
        for frame in [
            Frame::syn(CLIENT, (HOST, 22)),
            Frame::udp(CLIENT, (HOST, 80)),
            Frame::echo_request(REMOTE, HOST, 80),
            Frame::echo_reply(REMOTE, HOST, 80),
            Frame::ip(IpNumber::GRE, REMOTE, HOST),
            Frame::ip(IpNumber::TCP, REMOTE, HOST).fragment(100, false),
            Frame::syn(CLIENT, (REMOTE_2, 80)),
        ] {
            host.world_sends(&frame.by_router())?.passed(Path::NotOurs);
        }
        host.world_sends_bytes(&arp(ROUTER_MAC, ROUTER_MAC, REMOTE, HOST))?.passed(Path::NotOurs);
        for ether_type in [EtherType::IPV6, EtherType(0x88cc), EtherType::VLAN_TAGGED_FRAME] {
            let frame = [ethernet(ROUTER_MAC, UPLINK_MAC, ether_type).as_slice(), &[0x60; 46]].concat();
            host.world_sends_bytes(&frame)?.passed(Path::NotOurs);
        }
        // A device that is weft's uplink no longer.
        for frame in
            [Frame::syn(CLIENT, (HOST, 80)), Frame::ip(IpNumber::UDP, REMOTE, HOST).fragment(100, false)]
        {
            let mut frame = frame.by_router();
            frame.destination_mac = [0xff; 6];
            host.programs.run(program::FROM_UPLINK, &frame.bytes(), STRANGER)?.outcome()?.ignored();
        }
        assert!(host.is_empty()?);
        Ok(())
    })
}

/// Nobody reaches a container past its published ports.
#[test]
fn container_addresses_are_not_routed_to() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        for destination in
            [A.address, C.address, M.address, Ipv4Addr::new(10, 10, 0, 99), Ipv4Addr::new(10, 10, 0, 255)]
        {
            for frame in [
                Frame::syn(CLIENT, (destination, 53)),
                Frame::udp(CLIENT, (destination, 53)),
                Frame::echo_request(REMOTE, destination, 1),
                Frame::ip(IpNumber::GRE, REMOTE, destination),
                Frame::udp(CLIENT, (destination, 53)).fragment(0, true),
            ] {
                host.world_sends(&frame.by_router())?.dropped(DropReason::DirectRouting);
            }
        }
        // The gateway is an address of the host, but no answer of that name leaves.
        host.world_sends(&Frame::syn(CLIENT, (FRONT.gateway, 22)).by_router())?.passed(Path::NotOurs);
        host.world_sends(&Frame::udp(CLIENT, (FRONT.gateway, 53)).by_router())?
            .dropped(DropReason::DirectRouting);
        Ok(())
    })
}

/// One socket of a client uses two published ports of the same container's port: the container must be able to tell the
/// two flows apart, so the later one gets another port.
#[test]
fn two_published_ports_that_lead_to_one() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        host.publish(UDP, Some(HOST), 54, (&A, 53))?;
        host.publish(UDP, Some(HOST_2), 54, (&A, 53))?;
        let mut ports = Vec::new();
        for _ in 0..2 {
            ports.clear();
            for to in [(HOST, 53), (HOST, 54), (HOST_2, 54)] {
                let request = Frame::udp(CLIENT, to).by_router();
                let outcome = host.world_sends(&request)?.on_path(Path::PortmapIn);
                let seen = (CLIENT.0, outcome.source_port());
                let inside = (A.address, 53);
                let expected = request.source(seen).destination(inside).routed_to(&A).hop();
                crate::outcome::assert_bytes(&outcome.frame, &expected.bytes());
                let answer = Frame::udp(inside, seen).sent_by(&A);
                host.container_sends(&A, &answer)?
                    .redirected(Path::PortmapOut, &answer.clone().source(to).destination(CLIENT).hop());
                ports.push(seen.1);
            }
        }
        assert_eq!(ports[0], CLIENT.1, "the first keeps its port");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3, "the others have ports of their own");
        assert_eq!(host.confirmed()?.len(), 3);
        Ok(())
    })
}

/// A client's connection has ended, and what the container knew it by is another's of the same client by now: the client may
/// connect from the same port again.
#[test]
fn a_connection_whose_place_was_taken_comes_back() -> Result {
    with_host(|host| {
        host.publish(TCP, None, 80, (&A, 80))?;
        host.publish(TCP, None, 81, (&A, 80))?;
        let [first, second] = [80, 81].map(|port| (HOST, port));
        let connect = |host: &mut Host, to| -> Result<u16> {
            let outcome = host.world_sends(&Frame::syn(CLIENT, to).by_router())?.on_path(Path::PortmapIn);
            Ok(outcome.source_port())
        };
        assert_eq!(connect(host, first)?, CLIENT.1);
        let finish = |tcp: &mut etherparse::TcpHeader| (tcp.fin, tcp.ack) = (true, true);
        let answer = |control: fn(&mut etherparse::TcpHeader)| {
            Frame::tcp((A.address, 80), CLIENT).control(control).sent_by(&A)
        };
        host.container_sends(&A, &answer(|tcp| (tcp.syn, tcp.ack) = (true, true)))?.took(Path::PortmapOut);
        host.container_sends(&A, &answer(finish))?.took(Path::PortmapOut);
        let end = Frame::tcp(CLIENT, first).control(finish).by_router();
        host.world_sends(&end)?.took(Path::PortmapIn);
        assert_eq!(connect(host, second)?, CLIENT.1, "the first has ended");
        assert_ne!(connect(host, first)?, CLIENT.1, "the second has not");
        Ok(())
    })
}

/// A connection that the host had before its port was published is not led into the container.
#[test]
fn a_connection_of_the_host_goes_on() -> Result {
    with_host(|host| {
        let listener = std::net::TcpListener::bind((HOST_2, 0))?;
        let (far, near) = (listener.local_addr()?, std::net::TcpStream::connect(listener.local_addr()?)?);
        let port = near.local_addr()?.port();
        let peer = match far {
            std::net::SocketAddr::V4(far) => (*far.ip(), far.port()),
            std::net::SocketAddr::V6(_) => return Err("an IPv4 listener".into()),
        };
        let local = match near.local_addr()? {
            std::net::SocketAddr::V4(near) => *near.ip(),
            std::net::SocketAddr::V6(_) => return Err("an IPv4 connection".into()),
        };
        // The other end must look like one of the world's.
        host.remove_address(HOST_2)?;
        host.publish(TCP, None, port, (&A, 80))?;
        host.world_sends(&Frame::tcp(peer, (local, port)).by_router())?.passed(Path::NotOurs);
        // Another client's segment of a connection whose record was lost.
        host.world_sends(&Frame::tcp(CLIENT, (local, port)).by_router())?.took(Path::PortmapIn);
        drop(near);
        Ok(())
    })
}

/// A port of an IPv4 container is not published over IPv6: the host answers there.
#[test]
fn the_other_family_is_the_hosts() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        let v6: std::net::Ipv6Addr = "2001:db8::1".parse()?;
        host.add_address_v6(v6, UPLINK)?;
        let client: std::net::Ipv6Addr = "2001:db8::99".parse()?;
        let packet = etherparse::PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC)
            .ipv6(client.octets(), v6.octets(), 64)
            .udp(40_000, 53);
        let mut bytes = Vec::new();
        packet.write(&mut bytes, b"question")?;
        host.world_sends_bytes(&bytes)?.passed(Path::NotOurs);
        assert!(host.is_empty()?);
        Ok(())
    })
}
