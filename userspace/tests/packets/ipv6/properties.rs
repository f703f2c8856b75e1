//! Properties over many packets of one flow: whatever the ports, lengths, extension headers and hop limits are, each packet
//! is exactly what etherparse makes of the translated addresses, and the way back leads back.

use std::{cell::RefCell, fmt::Debug, net::Ipv6Addr};

use dataplane_common::abi::{EndpointKey, Path, Remote, map};
use etherparse::{
    Icmpv6Type,
    icmpv6::{DestUnreachableCode, TimeExceededCode},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::{
    arrives, became,
    frame::{DESTINATION_OPTIONS, Frame, HOP_BY_HOP, ROUTING, Socket},
    routed::{ROUTED, UNPROTECTED, mode},
    sends,
    topology::{A, B, C, FAR, FAR_MAC, HOST, M, PEER_NUMBER, REMOTE_2, key, publish, with_host},
};
use crate::{
    Result, frames,
    host::{Host, TCP, UDP},
    outcome::Outcome,
    topology::{self, MESH},
};

const CASES: u32 = 400;
/// Where ports lie in a frame without extension headers.
const PORTS: usize = 54;

/// What a packet of a flow is, whoever its ends are.
#[derive(Debug, Clone)]
struct Shape {
    kind: Kind,
    port: u16,
    remote: Socket,
    there: Half,
    back: Half,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

/// One direction.
#[derive(Debug, Clone)]
struct Half {
    payload: Vec<u8>,
    hops: u8,
    extensions: Vec<(u8, Vec<u8>)>,
}

fn half() -> impl Strategy<Value = Half> {
    let number = prop::sample::select(vec![HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS]);
    // A Pad option fills what is left (RFC 8200 section 4.2).
    let extension = (number, 0_u8..3).prop_map(|(number, units)| {
        let mut content = vec![0; 8 + 8 * usize::from(units)];
        (content[1], content[2], content[3]) = (units, 1, 4 + 8 * units);
        (number, content)
    });
    let extensions = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(extension, 1..=4)];
    (prop::collection::vec(any::<u8>(), 0..1200), 2_u8.., extensions)
        .prop_map(|(payload, hops, extensions)| Half { payload, hops, extensions })
}

fn shape() -> impl Strategy<Value = Shape> {
    shape_of(vec![Kind::Tcp, Kind::Udp, Kind::Echo])
}

/// What a published port is for.
fn shape_with_ports() -> impl Strategy<Value = Shape> {
    shape_of(vec![Kind::Tcp, Kind::Udp])
}

fn shape_of(kinds: Vec<Kind>) -> impl Strategy<Value = Shape> {
    let kind = prop::sample::select(kinds);
    // Global addresses (2000::/3) that are no neighbours of the host.
    let remote = any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(0x3 << 124 | bits >> 4));
    (kind, 1_u16.., remote, 1_u16.., half(), half()).prop_map(
        |(kind, port, address, remote_port, there, back)| Shape {
            kind,
            port,
            remote: (address, remote_port),
            there,
            back,
        },
    )
}

impl Half {
    fn apply(&self, mut frame: Frame) -> Frame {
        frame.extensions.clone_from(&self.extensions);
        frame.payload(&self.payload).hop_limit(self.hops)
    }
}

impl Shape {
    /// From the one end to the other. An echo has the first one's port as identifier.
    fn request(&self, from: Socket, to: Socket) -> Frame {
        self.there.apply(match self.kind {
            Kind::Tcp => Frame::syn(from, to),
            Kind::Udp => Frame::udp(from, to),
            Kind::Echo => Frame::echo_request(from.0, to.0, from.1),
        })
    }

    /// From the other end back.
    fn reply(&self, from: Socket, to: Socket) -> Frame {
        self.back.apply(match self.kind {
            Kind::Tcp => Frame::syn_ack(from, to),
            Kind::Udp => Frame::udp(from, to),
            Kind::Echo => Frame::echo_reply(from.0, to.0, to.1),
        })
    }

    /// The port or identifier that a packet left with.
    fn port_of(&self, outcome: &Outcome) -> u16 {
        let extensions: usize = self.there.extensions.iter().map(|(_, content)| content.len()).sum();
        let at = PORTS + extensions + if self.kind == Kind::Echo { 4 } else { 0 };
        u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]])
    }
}

/// Tries a property on one host, whose flows of all cases are there together.
fn holds<S>(
    strategy: &S,
    prepare: impl FnOnce(&mut Host) -> Result + Send,
    property: impl Fn(&mut Host, S::Value) -> Result + Sync,
) -> Result
where
    S: Strategy + Sync,
    S::Value: Debug,
{
    with_host(|host| {
        // Each case is a socket of its own: the pool is as large as can be, and ports are kept where they are free.
        host.change_settings(|settings| (settings.first_port, settings.last_port) = (1, u16::MAX))?;
        prepare(host)?;
        let host = RefCell::new(host);
        let mut runner =
            TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(strategy, |value| {
            property(&mut host.borrow_mut(), value).map_err(|error| TestCaseError::fail(error.to_string()))
        });
        outcome.map_err(|error| error.to_string().into())
    })
}

#[test]
fn masquerade_and_back() -> Result {
    holds(
        &shape(),
        |_| Ok(()),
        |host, shape| {
            let inside = (A.address, shape.port);
            let request = shape.request(inside, shape.remote).sent_by(&A);
            let outcome = sends(host, &A, &request)?.on_path(Path::MasqueradeOut);
            let external = (HOST, shape.port_of(&outcome));
            became(outcome, Path::MasqueradeOut, &request.source(external).hop());
            let arriving = shape.reply(shape.remote, external).by_router();
            let expected = shape.reply(shape.remote, inside).routed_to(&A).hop();
            became(arrives(host, &arriving)?, Path::MasqueradeIn, &expected);
            Ok(())
        },
    )
}

/// Whoever tells about a packet, and however much of it is quoted: the container sees its own packet in the error.
#[test]
fn errors_about_masqueraded_packets() -> Result {
    let kinds = vec![
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Prohibited),
        Icmpv6Type::PacketTooBig { mtu: 1280 },
        Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
    ];
    let strategy = (shape(), prop::sample::select(kinds), 48_usize..1280, any::<bool>());
    holds(
        &strategy,
        |_| Ok(()),
        |host, (mut shape, kind, length, by_remote)| {
            // What is behind extension headers is not looked for in a quotation.
            shape.there.extensions.clear();
            let inside = (A.address, shape.port);
            let request = shape.request(inside, shape.remote).sent_by(&A);
            let outcome = sends(host, &A, &request)?.on_path(Path::MasqueradeOut);
            let teller = if by_remote { shape.remote.0 } else { REMOTE_2 };
            let error = |quoted: &[u8], to| {
                let quoted = &quoted[14..quoted.len().min(14 + length)];
                shape.back.apply(Frame::icmp(kind, teller, to)).payload(quoted)
            };
            let arriving = error(&outcome.frame, HOST).by_router();
            let expected = error(&request.hop().bytes(), A.address).routed_to(&A).hop();
            became(arrives(host, &arriving)?, Path::IcmpError, &expected);
            Ok(())
        },
    )
}

/// Port 80 of `A`, at port 8080 of the host.
fn publish_both(host: &mut Host) -> Result {
    publish(host, TCP, 8080, (&A, 80))?;
    publish(host, UDP, 8080, (&A, 80))
}

#[test]
fn published_ports_and_back() -> Result {
    holds(&shape_with_ports(), publish_both, |host, shape| {
        let (client, outside, inside) = (shape.remote, (HOST, 8080), (A.address, 80));
        let arriving = shape.request(client, outside).by_router();
        let expected = shape.request(client, inside).routed_to(&A).hop();
        became(arrives(host, &arriving)?, Path::PortmapIn, &expected);
        let answer = shape.reply(inside, client).sent_by(&A);
        became(sends(host, &A, &answer)?, Path::PortmapOut, &answer.clone().source(outside).hop());
        Ok(())
    })
}

/// From another network the client keeps its port; a neighbour gets another one.
#[test]
fn hairpin_and_back() -> Result {
    holds(&(shape_with_ports(), any::<bool>()), publish_both, |host, (shape, is_neighbour)| {
        let member = if is_neighbour { &B } else { &C };
        let (client, outside, inside) = ((member.address, shape.port), (HOST, 8080), (A.address, 80));
        let request = shape.request(client, outside).sent_by(member);
        let outcome = sends(host, member, &request)?.on_path(Path::HairpinIn);
        let seen = (member.address, shape.port_of(&outcome));
        assert!(is_neighbour || seen == client, "{seen:?}");
        became(outcome, Path::HairpinIn, &shape.request(seen, inside).routed_to(&A).hop());
        let answer = shape.reply(inside, seen).sent_by(&A);
        let expected = shape.reply(outside, client).routed_to(member).hop();
        became(sends(host, &A, &answer)?, Path::HairpinOut, &expected);
        Ok(())
    })
}

/// A routed network's containers leave and are answered with their own addresses.
#[test]
fn routed_and_back() -> Result {
    holds(
        &shape(),
        |host| mode(host, ROUTED),
        |host, shape| {
            let inside = (A.address, shape.port);
            let request = shape.request(inside, shape.remote).sent_by(&A);
            became(sends(host, &A, &request)?, Path::RoutedOut, &request.clone().hop());
            let arriving = shape.reply(shape.remote, inside).by_router();
            became(arrives(host, &arriving)?, Path::RoutedIn, &arriving.clone().routed_to(&A).hop());
            Ok(())
        },
    )
}

/// Every port of an unprotected network is open to whoever has a route.
#[test]
fn unprotected_and_back() -> Result {
    holds(
        &shape(),
        |host| mode(host, UNPROTECTED),
        |host, shape| {
            let inside = (A.address, shape.port);
            let arriving = shape.request(shape.remote, inside).by_router();
            became(arrives(host, &arriving)?, Path::PortmapIn, &arriving.clone().routed_to(&A).hop());
            let answer = shape.reply(inside, shape.remote).sent_by(&A);
            became(sends(host, &A, &answer)?, Path::PortmapOut, &answer.clone().hop());
            Ok(())
        },
    )
}

/// Makes a peer the place of both containers of the other hosts.
fn lead_to(host: &mut Host, peer: u32) -> Result {
    for address in [crate::host::address(topology::FAR), key(FAR)] {
        let far = EndpointKey { network: MESH.number, address };
        let mut remotes = host.programs.hash::<EndpointKey, Remote>(map::REMOTES)?;
        let remote = remotes.get(&far, 0)?;
        remotes.insert(far, Remote { peer, ..remote }, 0)?;
    }
    Ok(())
}

/// Either family through a tunnel of either family: what comes out at the other end is what went in.
#[test]
fn through_the_tunnel_and_back() -> Result {
    holds(
        &(shape(), any::<bool>(), any::<bool>()),
        |_| Ok(()),
        |host, (shape, by_v6, inner_v6)| {
            let peer = if by_v6 { PEER_NUMBER } else { topology::PEER_NUMBER };
            lead_to(host, peer)?;
            let (there, expected) = if inner_v6 {
                let frame = shape.request((M.address, shape.port), (FAR, shape.remote.1));
                (frame.clone().sent_by(&M).bytes(), frame.macs(M.mac(), FAR_MAC).bytes())
            } else {
                let inside = (M.container.address, shape.port);
                let frame =
                    frames::Frame::udp(inside, (topology::FAR, shape.remote.1)).payload(&shape.there.payload);
                let carried = frame.clone().macs(M.mac(), topology::FAR_MAC).bytes();
                (frame.sent_by(M.container).bytes(), carried)
            };
            let outcome = host.container_sends_bytes(M.container, &there)?.on_path(Path::Encapsulate);
            let added = if by_v6 { 70 } else { 50 };
            assert_eq!(outcome.frame[added..], expected[..]);
            // The other end has the same program, so its packet differs in who is who only.
            let mut inner = expected;
            inner[6..12].copy_from_slice(if inner_v6 { &FAR_MAC } else { &topology::FAR_MAC });
            inner[..6].copy_from_slice(&M.mac());
            let (addresses, half) = if inner_v6 { (22..54, 16) } else { (26..34, 4) };
            inner[addresses].rotate_left(half);
            let mut outer = [&outcome.frame[..added], &inner[..]].concat();
            outer[..6].copy_from_slice(&topology::UPLINK_MAC);
            outer[6..12].copy_from_slice(&topology::ROUTER_MAC);
            let (addresses, half) = if by_v6 { (22..54, 16) } else { (26..34, 4) };
            outer[addresses].rotate_left(half);
            host.world_sends_bytes(&outer)?.redirected_bytes(Path::Decapsulate, &inner);
            Ok(())
        },
    )
}
