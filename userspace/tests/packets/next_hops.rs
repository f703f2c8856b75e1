//! The next hop that a flow's packets leave to: asked for by one packet, and known to those after it.

use dataplane_common::abi::Path;

use crate::{
    Result,
    frames::Frame,
    host::{Host, UDP, with_host},
    ipv6::{self, frame::Frame as Frame6, routed, topology as v6},
    topology::{A, FAR, FAR_MAC, HOST, M, PEER_MAC, REMOTE, REMOTE_2, ROUTER_MAC},
};

const KNOWN: Option<[u8; 6]> = Some(ROUTER_MAC);

fn leaves(host: &mut Host, frame: &Frame, path: Path) -> Result<Option<[u8; 6]>> {
    Ok(host.container_sends(&A, frame)?.on_path(path).next_hop)
}

fn leaves_v6(host: &mut Host, frame: &Frame6, path: Path) -> Result<Option<[u8; 6]>> {
    Ok(ipv6::sends(host, &v6::A, frame)?.on_path(path).next_hop)
}

/// The first packet opens the flow, the second asks.
#[test]
fn masquerade() -> Result {
    with_host(|host| {
        let frame = || Frame::udp((A.address, 25_000), (REMOTE, 53)).sent_by(&A);
        for next_hop in [None, None, KNOWN, KNOWN] {
            assert_eq!(leaves(host, &frame(), Path::MasqueradeOut)?, next_hop);
        }
        // Rules may send another DSCP elsewhere; a congestion mark is nothing to them.
        let marked = |dscp, ecn| frame().dscp_and_ecn(dscp, ecn);
        for (dscp, ecn, next_hop) in [(0, 3, KNOWN), (8, 0, None), (8, 1, KNOWN), (0, 0, None), (0, 0, KNOWN)]
        {
            assert_eq!(leaves(host, &marked(dscp, ecn), Path::MasqueradeOut)?, next_hop, "{dscp} {ecn}");
        }
        // Every flow has its own.
        let other = Frame::udp((A.address, 25_000), (REMOTE_2, 53)).sent_by(&A);
        assert_eq!(leaves(host, &other, Path::MasqueradeOut)?, None);
        // An answer confirms the flow: its record moves.
        let answer = Frame::udp((REMOTE, 53), (HOST, 25_000)).by_router();
        host.world_sends(&answer)?.took(Path::MasqueradeIn);
        assert_eq!(leaves(host, &frame(), Path::MasqueradeOut)?, KNOWN);
        Ok(())
    })
}

#[test]
fn published_port() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        host.world_sends(&Frame::udp((REMOTE, 9), (HOST, 53)).by_router())?.took(Path::PortmapIn);
        let answer = Frame::udp((A.address, 5353), (REMOTE, 9)).sent_by(&A);
        for next_hop in [None, KNOWN, KNOWN] {
            assert_eq!(leaves(host, &answer, Path::PortmapOut)?, next_hop);
        }
        Ok(())
    })
}

#[test]
fn over_ipv6() -> Result {
    v6::with_host(|host| {
        let frame = || Frame6::udp((v6::A.address, 25_000), (v6::REMOTE, 53)).sent_by(&v6::A);
        for next_hop in [None, None, KNOWN, KNOWN] {
            assert_eq!(leaves_v6(host, &frame(), Path::MasqueradeOut)?, next_hop);
        }
        let mut other = frame();
        other.ip.traffic_class = 8 << 2;
        for next_hop in [None, KNOWN] {
            assert_eq!(leaves_v6(host, &other, Path::MasqueradeOut)?, next_hop);
        }
        Ok(())
    })
}

#[test]
fn routed_networks() -> Result {
    v6::with_host(|host| {
        routed::mode(host, routed::ROUTED)?;
        let frame = Frame6::udp((v6::A.address, 25_000), (v6::REMOTE, 53)).sent_by(&v6::A);
        for next_hop in [None, None, KNOWN, KNOWN] {
            assert_eq!(leaves_v6(host, &frame, Path::RoutedOut)?, next_hop);
        }
        Ok(())
    })
}

/// One for a peer, whatever is inside.
#[test]
fn of_a_peer() -> Result {
    with_host(|host| {
        for (port, next_hop) in [(1, None), (2, Some(PEER_MAC)), (2, Some(PEER_MAC))] {
            let frame = Frame::udp((M.address, port), (FAR, 80)).macs(M.mac, FAR_MAC);
            assert_eq!(host.container_sends(&M, &frame)?.on_path(Path::Encapsulate).next_hop, next_hop);
        }
        Ok(())
    })
}
