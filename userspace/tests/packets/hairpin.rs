//! from_container to the host itself: published ports through whatever address, and the host's own services.

use std::{collections::HashMap, net::Ipv4Addr};

use dataplane_common::abi::{DropReason, Path, flags};
use etherparse::IpNumber;

use crate::{
    Result,
    frames::{Frame, Socket, arp},
    host::{Host, TCP, UDP, with_host},
    topology::{A, A_AGAIN, B, B_AGAIN, BACK, C, Container, FRONT, HOST, HOST_2, M, MESH, REMOTE},
};

/// A container reaches another through a published port, as `seen` by that one, and is answered by the port it asked.
#[track_caller]
fn assert_leads(
    host: &mut Host,
    client: &Container,
    to: Socket,
    server: (&Container, u16),
    seen: Ipv4Addr,
) -> Result {
    let (container, port) = server;
    let (client_socket, inside) = ((client.address, 40_000), (container.address, port));
    for _ in 0..2 {
        let request = Frame::udp(client_socket, to).sent_by(client);
        let outcome = host.container_sends(client, &request)?.on_path(Path::HairpinIn);
        let seen = (seen, outcome.source_port());
        // A neighbour that also talks directly must not be taken for the same flow.
        assert_eq!(seen.1 != 40_000, client.network.number == container.network.number);
        let expected = request.clone().source(seen).destination(inside).routed_to(container).hop();
        crate::outcome::assert_bytes(&outcome.frame, &expected.bytes());
        let answer = Frame::udp(inside, seen).sent_by(container);
        let expected = answer.clone().source(to).destination(client_socket).routed_to(client).hop();
        host.container_sends(container, &answer)?.redirected(Path::HairpinOut, &expected);
    }
    Ok(())
}

#[test]
fn through_every_address_of_the_host() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 8053, (&C, 53))?;
        // Also the gateway of a network that the client is not in.
        for to in [HOST, HOST_2, FRONT.gateway, BACK.gateway] {
            assert_leads(host, &A, (to, 8053), (&C, 53), A.address)?;
            host.age_flows(std::time::Duration::from_secs(302))?;
            host.expire()?;
        }
        Ok(())
    })
}

/// The server answers its neighbour directly as it believes; weft makes the answer come from the host's port.
#[test]
fn to_a_neighbour() -> Result {
    with_host(|host| {
        host.publish(UDP, Some(HOST), 8053, (&B, 53))?;
        assert_leads(host, &A, (HOST, 8053), (&B, 53), A.address)?;
        // What is no answer stays between neighbours, also between the very same sockets.
        for port in [53, 54] {
            let other = Frame::udp((B.address, port), (A.address, 40_000)).macs(B.mac, A.mac);
            host.container_sends(&B, &other)?.redirected(Path::Bridge, &other);
        }
        Ok(())
    })
}

/// Short connections one after another, from ports side by side: none comes from a port that the server still knows in
/// TIME-WAIT (RFC 9293 section 3.4.2). At both ends of what Linux gives to clients.
#[test]
fn to_a_neighbour_every_port_has_one_of_its_own() -> Result {
    with_host(|host| {
        host.publish(TCP, None, 8080, (&B, 80))?;
        let mut seen = HashMap::new();
        for own in (32_768..33_768).chain(60_500..61_000) {
            let (client, to) = ((A.address, own), (HOST, 8080));
            let syn = Frame::syn(client, to).sent_by(&A);
            let port = host.container_sends(&A, &syn)?.on_path(Path::HairpinIn).source_port();
            assert_ne!(port, own, "as of a neighbour that talks directly");
            assert_eq!(seen.insert(port, own), None, "{own} has port {port}, too");
            let reset = Frame::tcp((B.address, 80), (A.address, port)).control(|tcp| tcp.rst = true);
            host.container_sends(&B, &reset.sent_by(&B))?.took(Path::HairpinOut);
        }
        Ok(())
    })
}

/// To itself it sees its gateway: its stack would refuse a packet from its own address.
#[test]
fn to_itself() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 8053, (&A, 53))?;
        assert_leads(host, &A, (HOST, 8053), (&A, 53), FRONT.gateway)?;
        Ok(())
    })
}

#[test]
fn a_connection_byte_by_byte() -> Result {
    with_host(|host| {
        host.publish(TCP, None, 8080, (&C, 80))?;
        let (client, to, server) = ((A.address, 40_000), (HOST, 8080), (C.address, 80));
        let syn = Frame::syn(client, to).sent_by(&A);
        host.container_sends(&A, &syn)?
            .redirected(Path::HairpinIn, &syn.clone().destination(server).routed_to(&C).hop());
        let syn_ack = Frame::syn(server, client).control(|tcp| tcp.ack = true).sent_by(&C);
        host.container_sends(&C, &syn_ack)?
            .redirected(Path::HairpinOut, &syn_ack.clone().source(to).routed_to(&A).hop());
        assert_eq!(
            (host.confirmed()?.len(), host.unconfirmed()?.len()),
            (0, 1),
            "the client may be invented"
        );
        let ack = Frame::tcp(client, to).control(|tcp| tcp.ack = true).sent_by(&A);
        host.container_sends(&A, &ack)?
            .redirected(Path::HairpinIn, &ack.clone().destination(server).routed_to(&C).hop());
        assert_eq!((host.confirmed()?.len(), host.unconfirmed()?.len()), (1, 0));
        let reset = Frame::tcp(client, to).control(|tcp| tcp.rst = true).sent_by(&A);
        host.container_sends(&A, &reset)?
            .redirected(Path::HairpinIn, &reset.clone().destination(server).routed_to(&C).hop());
        Ok(())
    })
}

/// A switch for traffic between the world and containers does not stop containers of one host.
#[test]
fn without_forwarding() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 8053, (&C, 53))?;
        for container in [&A, &C] {
            host.change_flags(container.device, flags::FORWARDING, 0)?;
        }
        assert_leads(host, &A, (HOST, 8053), (&C, 53), A.address)
    })
}

#[test]
fn the_host_itself() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.publish(UDP, Some(Ipv4Addr::LOCALHOST), 54, (&C, 53))?;
        for to in [FRONT.gateway, HOST, HOST_2, BACK.gateway] {
            for frame in [
                Frame::syn((A.address, 40_000), (to, 53)),
                Frame::udp((A.address, 40_000), (to, 54)),
                Frame::echo_request(A.address, to, 1),
                Frame::echo_reply(A.address, to, 1),
                Frame::ip(IpNumber::GRE, A.address, to),
                Frame::ip(IpNumber::UDP, A.address, to).fragment(100, false),
                Frame::udp((A.address, 40_000), (to, 54)).ttl(1),
            ] {
                host.container_sends(&A, &frame.sent_by(&A))?.passed(Path::Host);
            }
        }
        assert!(host.is_empty()?);
        Ok(())
    })
}

#[test]
fn an_internal_network_has_the_host_but_not_what_it_publishes() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.change_flags(A.device, 0, flags::INTERNAL)?;
        for to in [FRONT.gateway, HOST] {
            let published = Frame::udp((A.address, 40_000), (to, 53)).sent_by(&A);
            host.container_sends(&A, &published)?.dropped(DropReason::Internal);
            let own = Frame::udp((A.address, 40_000), (to, 54)).sent_by(&A);
            host.container_sends(&A, &own)?.passed(Path::Host);
        }
        Ok(())
    })
}

/// What was allowed ends where it is allowed no more.
#[test]
fn a_client_that_becomes_internal_is_cut_off() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        let request = Frame::udp((A.address, 40_000), (HOST, 53)).sent_by(&A);
        host.container_sends(&A, &request)?.took(Path::HairpinIn);
        let answer = Frame::udp((C.address, 53), (A.address, 40_000)).sent_by(&C);
        host.container_sends(&C, &answer)?.took(Path::HairpinOut);
        host.change_flags(A.device, 0, flags::INTERNAL)?;
        host.change_endpoint(&A, |endpoint| endpoint.flags |= flags::INTERNAL)?;
        host.expire()?;
        host.container_sends(&C, &answer)?.dropped(DropReason::Isolated);
        host.container_sends(&A, &request)?.dropped(DropReason::Internal);
        Ok(())
    })
}

#[test]
fn what_a_published_port_refuses() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.publish(TCP, None, 80, (&C, 80))?;
        let udp = Frame::udp((A.address, 40_000), (HOST, 53)).sent_by(&A);
        let reset = Frame::tcp((A.address, 40_000), (HOST, 80)).control(|tcp| tcp.rst = true).sent_by(&A);
        host.container_sends(&A, &reset)?.dropped(DropReason::NoFlow);
        host.container_sends(&A, &udp.clone().ttl(1))?.refused(
            DropReason::TimeToLive,
            (11, 0, 0),
            FRONT.gateway,
        );
        host.remove_endpoint(&C)?;
        host.container_sends(&A, &Frame::udp((A.address, 40_001), (HOST, 53)).sent_by(&A))?
            .dropped(DropReason::NoEndpoint);
        Ok(())
    })
}

#[test]
fn an_answer_to_a_client_that_has_gone() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.container_sends(&A, &Frame::udp((A.address, 40_000), (HOST, 53)).sent_by(&A))?
            .took(Path::HairpinIn);
        host.remove_endpoint(&A)?;
        let answer = Frame::udp((C.address, 53), (A.address, 40_000)).sent_by(&C);
        host.container_sends(&C, &answer)?.dropped(DropReason::StaleFlow);
        Ok(())
    })
}

/// The client's address has another holder: neither does it get the answers of the earlier one, nor do its packets go on
/// in the earlier one's flow.
#[test]
fn a_client_that_was_replaced() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        let request = Frame::udp((A.address, 40_000), (HOST, 53)).sent_by(&A);
        let answer = Frame::udp((C.address, 53), (A.address, 40_000)).sent_by(&C);
        host.container_sends(&A, &request)?.took(Path::HairpinIn);
        host.container_sends(&C, &answer)?.took(Path::HairpinOut);
        host.add_container(&Container { epoch: 999, ..A_AGAIN })?;
        host.container_sends(&C, &answer)?.dropped(DropReason::StaleFlow);
        host.container_sends(&A, &request)?.took(Path::HairpinIn);
        assert_eq!(host.unconfirmed()?.len(), 1, "it is a new flow");
        host.container_sends(&C, &answer)?.took(Path::HairpinOut);
        host.add_container(&Container { epoch: 1000, ..A_AGAIN })?;
        assert_eq!(host.expire()?, 1);
        assert!(host.is_empty()?);
        Ok(())
    })
}

/// The container is in the client's network as well, and answers its neighbour by that one, from the address that its
/// port is published with. From another container that is a lie.
#[test]
fn an_answer_by_a_shared_network() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        let (asked, client) = ((HOST, 53), (A.address, 40_000));
        host.container_sends(&A, &Frame::udp(client, asked).sent_by(&A))?.took(Path::HairpinIn);
        let answer = Frame::udp((C.address, 53), client).sent_by(&B);
        host.container_sends(&B, &answer)?.dropped(DropReason::SpoofedAddress);
        host.add_container(&Container { container: C.container, ..B_AGAIN })?;
        let expected = answer.clone().source(asked).destination(client).routed_to(&A).hop();
        host.container_sends(&B, &answer)?.redirected(Path::HairpinOut, &expected);
        // In pieces, too.
        let mut first = answer.clone().payload(&[1; 128]).fragment(0, true);
        first.ip.identification = 9;
        let outcome = host.container_sends(&B, &first)?.on_path(Path::HairpinOut);
        let mut rest = Frame::ip(IpNumber::UDP, C.address, A.address).fragment(17, false).sent_by(&B);
        rest.ip.identification = 9;
        let mut expected = rest.clone().routed_to(&A).hop();
        expected.ip.source = HOST.octets();
        expected.ip.identification = u16::from_be_bytes([outcome.frame[18], outcome.frame[19]]);
        host.container_sends(&B, &rest)?.redirected(Path::HairpinOut, &expected);
        // It asks for its neighbour with that address, but does not answer for it.
        let mut request = arp(B.mac, B.mac, C.address, A.address);
        host.container_sends_bytes(&B, &request)?.passed(Path::SlowPath);
        request[21] = 2;
        host.container_sends_bytes(&B, &request)?.dropped(DropReason::SpoofedAddress);
        let strangers = arp(B.mac, B.mac, M.address, A.address);
        host.container_sends_bytes(&B, &strangers)?.dropped(DropReason::SpoofedAddress);
        // No other port of that address, and no flow that another network's client has.
        let other = Frame::udp((C.address, 54), client).sent_by(&B);
        host.container_sends(&B, &other)?.dropped(DropReason::SpoofedAddress);
        host.add_container(&Container { container: C.container, network: &MESH, ..B_AGAIN })?;
        host.container_sends(&B, &answer)?.dropped(DropReason::SpoofedAddress);
        Ok(())
    })
}

/// On the wire a container's address proves nothing, and must not end the flow either.
#[test]
fn a_hairpin_flow_is_not_entered_from_the_wire() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.container_sends(&A, &Frame::udp((A.address, 40_000), (HOST, 53)).sent_by(&A))?
            .took(Path::HairpinIn);
        host.age_flows(std::time::Duration::from_secs(200))?;
        let before = host.unconfirmed()?;
        host.world_sends(&Frame::udp((A.address, 40_000), (HOST, 53)).by_router())?
            .dropped(DropReason::SpoofedAddress);
        assert_eq!(host.unconfirmed()?, before, "it is not touched");
        host.container_sends(&C, &Frame::udp((C.address, 53), (A.address, 40_000)).sent_by(&C))?
            .took(Path::HairpinOut);
        Ok(())
    })
}

/// A port published on the host is the world's business, too: what goes out to the world is not led back.
#[test]
fn the_same_port_elsewhere_is_not_ours() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        let frame = Frame::udp((A.address, 25_000), (REMOTE, 53)).sent_by(&A);
        host.container_sends(&A, &frame)?
            .redirected(Path::MasqueradeOut, &frame.clone().source((HOST, 25_000)).hop());
        Ok(())
    })
}
