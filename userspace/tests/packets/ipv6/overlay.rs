//! VXLAN with IPv6 inside, outside, and both.

use std::net::Ipv6Addr;

use dataplane_common::abi::{DropReason, EndpointKey, Path, Peer, Remote, map};
use etherparse::{Icmpv6Type, IpNumber};

use super::{
    arrives, became,
    bridge::PADDING,
    frame::{Frame, HOP_BY_HOP},
    sends, source_port,
    topology::{FAR, FAR_MAC, HOST, M, PEER, gateway, key, with_host},
};
use crate::{
    Result,
    encapsulation::vxlan_header,
    frames,
    host::Host,
    outcome::assert_bytes,
    topology::{self, MESH, VXLAN_PORT},
};

/// Somebody in the world.
const NOBODY_S: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
/// Congestion mark of RFC 3168.
const MARK: u8 = 2;

/// The datagram between the hosts that carries these bytes; its checksum is absent (RFC 6935).
fn tunnelled(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), class: u8, inner: &[u8]) -> Vec<u8> {
    let payload = [vxlan_header(MESH.vni).as_slice(), inner].concat();
    let mut outer = Frame::udp(from, to).macs(M.mac(), M.gateway_mac()).payload(&payload);
    outer.ip.traffic_class = class;
    outer.ip.flow_label = Default::default();
    let mut bytes = outer.bytes();
    bytes[60..62].copy_from_slice(&[0, 0]);
    bytes
}

fn inner_frames(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16)) -> Vec<Frame> {
    vec![
        Frame::syn(from, to),
        Frame::udp(from, to).payload(&[8; 1382]),
        Frame::udp(from, to).payload(b""),
        Frame::udp(from, to).hop_limit(1),
        Frame::udp(from, to).extension(HOP_BY_HOP, &PADDING),
        Frame::udp(from, to).fragment(0, true, 4),
        Frame::raw(IpNumber::UDP, from.0, to.0).fragment(10, false, 4),
        Frame::echo_request(from.0, to.0, 3),
        Frame::raw(IpNumber::GRE, from.0, to.0),
    ]
}

#[test]
fn seventy_bytes_exactly() -> Result {
    with_host(|host| {
        for mut frame in inner_frames((M.address, 4000), (FAR, 80)) {
            frame.ip.traffic_class |= MARK;
            let outcome =
                sends(host, &M, &frame.clone().sent_by(&M))?.on_path(Path::Encapsulate).counts_as(1);
            let port = source_port(&outcome);
            assert!(port >= 49_152, "{port}");
            assert_eq!(outcome.frame.len(), outcome.input.len() + 70);
            let inner = frame.macs(M.mac(), FAR_MAC).bytes();
            assert_bytes(&outcome.frame, &tunnelled((HOST, port), (PEER, VXLAN_PORT), MARK, &inner));
        }
        assert!(host.is_empty()?, "encapsulation keeps no state");
        // 1,500 bytes of the uplink leave 1,430.
        let long = Frame::udp((M.address, 4000), (FAR, 80)).payload(&[8; 1383]).sent_by(&M);
        sends(host, &M, &long)?.refused_v6(DropReason::TooBig, (2, 0, 1430), gateway(3));
        Ok(())
    })
}

/// Makes the peer that is reached by IPv4 the place of the IPv6 container, and the other way round.
fn swap_peers(host: &mut Host) -> Result {
    let (v4, v6) = (crate::host::address(topology::FAR), key(FAR));
    let remote = |address| EndpointKey { network: MESH.number, address };
    let mut remotes = host.programs.hash::<EndpointKey, Remote>(map::REMOTES)?;
    let (by_v4, by_v6) = (remotes.get(&remote(v4), 0)?, remotes.get(&remote(v6), 0)?);
    remotes.insert(remote(v4), Remote { mac: by_v4.mac, ..by_v6 }, 0)?;
    Ok(remotes.insert(remote(v6), Remote { mac: by_v6.mac, ..by_v4 }, 0)?)
}

#[test]
fn either_family_in_the_other() -> Result {
    with_host(|host| {
        swap_peers(host)?;
        let inner = frames::Frame::udp((M.container.address, 4000), (topology::FAR, 80)).payload(&[1; 1402]);
        let outcome = host
            .container_sends(M.container, &inner.clone().sent_by(M.container))?
            .on_path(Path::Encapsulate);
        let port = source_port(&outcome);
        let carried = inner.clone().macs(M.mac(), topology::FAR_MAC).bytes();
        assert_bytes(&outcome.frame, &tunnelled((HOST, port), (PEER, VXLAN_PORT), 0, &carried));
        let long = inner.payload(&[1; 1403]).sent_by(M.container);
        host.container_sends(M.container, &long)?.refused(DropReason::TooBig, (3, 4, 1430), MESH.gateway);

        let inner = Frame::udp((M.address, 4000), (FAR, 80));
        let outcome = sends(host, &M, &inner.clone().sent_by(&M))?.on_path(Path::Encapsulate);
        assert_eq!(outcome.frame.len(), outcome.input.len() + 50);
        assert_eq!(outcome.frame[12..14], [0x08, 0x00]);
        assert_bytes(&outcome.frame[50..], &inner.macs(M.mac(), FAR_MAC).bytes());
        Ok(())
    })
}

fn arriving(from: Ipv6Addr, inner: &[u8]) -> Vec<u8> {
    by_router(tunnelled((from, 50_000), (HOST, VXLAN_PORT), 0, inner))
}

fn by_router(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&topology::UPLINK_MAC);
    frame[6..12].copy_from_slice(&topology::ROUTER_MAC);
    frame
}

#[test]
fn the_inner_frame_comes_out() -> Result {
    with_host(|host| {
        for frame in inner_frames((FAR, 80), (M.address, 4000)) {
            let inner = frame.macs(FAR_MAC, M.mac());
            let outcome = host.world_sends_bytes(&arriving(PEER, &inner.bytes()))?;
            became(outcome, Path::Decapsulate, &inner);
        }
        // Shorter than the header in front of it.
        let short = frames::Frame::udp((topology::FAR, 80), (M.container.address, 1)).payload(b"");
        let short = short.macs(topology::FAR_MAC, M.mac());
        host.world_sends_bytes(&arriving(PEER, &short.bytes()))?.redirected(Path::Decapsulate, &short);
        // IPv6 by the peer that is reached by IPv4.
        let inner = Frame::udp((FAR, 80), (M.address, 4000)).macs(FAR_MAC, M.mac());
        let payload = [vxlan_header(MESH.vni).as_slice(), &inner.bytes()].concat();
        let outer = frames::Frame::udp((topology::PEER, 50_000), (topology::HOST, VXLAN_PORT))
            .payload(&payload)
            .by_router();
        became(host.world_sends(&outer)?, Path::Decapsulate, &inner);
        assert!(host.is_empty()?, "decapsulation keeps no state");
        Ok(())
    })
}

#[test]
fn what_is_not_let_in() -> Result {
    with_host(|host| {
        let inner = Frame::udp((FAR, 80), (M.address, 4000)).macs(FAR_MAC, M.mac()).bytes();
        let stranger = "2001:db8::66".parse()?;
        host.world_sends_bytes(&arriving(stranger, &inner))?.dropped(DropReason::UnknownPeer);
        let good = arriving(PEER, &inner);
        // Extension headers and fragments (RFC 7348 section 4.3).
        let payload = [vxlan_header(MESH.vni).as_slice(), &inner].concat();
        let outer = Frame::udp((PEER, 50_000), (HOST, VXLAN_PORT)).payload(&payload).by_router();
        arrives(host, &outer.clone().extension(HOP_BY_HOP, &PADDING))?.dropped(DropReason::BadEncapsulation);
        arrives(host, &outer.clone().fragment(0, true, 1))?.dropped(DropReason::BadEncapsulation);
        // What the vxlan device would take from whomever: link-local, multicast, anycast, and behind many headers.
        for to in ["ff02::1".parse()?, "fe80::1:2".parse()?, NOBODY_S] {
            let outer = Frame::udp((stranger, 50_000), (to, VXLAN_PORT)).payload(&payload).by_router();
            let outcome = arrives(host, &outer)?;
            match to == NOBODY_S {
                true => outcome.passed(Path::NotOurs),
                false => outcome.dropped(DropReason::BadEncapsulation),
            };
        }
        let mut hidden = Frame::udp((stranger, 50_000), (HOST, VXLAN_PORT)).payload(&payload).by_router();
        for _ in 0..5 {
            hidden = hidden.extension(HOP_BY_HOP, &PADDING);
        }
        arrives(host, &hidden)?.dropped(DropReason::UnsupportedProtocol);
        // No VNI, and lengths that reach too far: UDP's, and the inner packet's.
        for (at, value) in [(62, 0), (58, 0xff), (70 + 14 + 4, 0x7f)] {
            let mut wrong = good.clone();
            wrong[at] = value;
            host.world_sends_bytes(&wrong)?.dropped(DropReason::BadEncapsulation);
        }
        // A foreign VNI is somebody else's.
        let mut foreign = good.clone();
        foreign[66] = 9;
        host.world_sends_bytes(&foreign)?.passed(Path::NotOurs);
        // What met congestion, and what is for the bridge.
        let marked = by_router(tunnelled((PEER, 50_000), (HOST, VXLAN_PORT), 3, &inner));
        host.world_sends_bytes(&marked)?.passed(Path::SlowPath);
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let multicast =
            Frame::icmp(Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] }, FAR, all_nodes)
                .payload(&M.address.octets())
                .macs(FAR_MAC, [0x33, 0x33, 0, 0, 0, 1]);
        host.world_sends_bytes(&arriving(PEER, &multicast.bytes()))?.passed(Path::SlowPath);
        Ok(())
    })
}

/// A container does not speak VXLAN to this host or a peer, by IPv6 as little as by IPv4.
#[test]
fn containers_do_not_reach_the_tunnel() -> Result {
    with_host(|host| {
        host.change_device(M.container.device, |device| device.vxlan_port = VXLAN_PORT)?;
        for to in [HOST, PEER] {
            let frame = Frame::udp((M.address, 1), (to, VXLAN_PORT)).sent_by(&M);
            sends(host, &M, &frame)?.dropped(DropReason::Isolated);
        }
        for (to, mac) in [("ff02::1", [0x33, 0x33, 0, 0, 0, 1]), ("fe80::1:2", M.gateway_mac())] {
            let frame = Frame::udp((M.address, 1), (to.parse()?, VXLAN_PORT)).macs(M.mac(), mac);
            sends(host, &M, &frame)?.dropped(DropReason::Isolated);
        }
        // A peer whose MTU is not known is sent everything.
        let mut peers = host.programs.hash::<u32, Peer>(map::PEERS)?;
        let peer = peers.get(&8, 0)?;
        peers.insert(8, Peer { mtu: 0, ..peer }, 0)?;
        let long = Frame::udp((M.address, 4000), (FAR, 80)).payload(&[8; 2000]).sent_by(&M);
        sends(host, &M, &long)?.took(Path::Encapsulate);
        Ok(())
    })
}
