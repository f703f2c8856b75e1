//! from_container to a container on another host: VXLAN.

use std::{collections::HashSet, net::Ipv4Addr};

use dataplane_common::abi::{DropReason, Path, Peer, flags, map, program};
use etherparse::IpNumber;

use crate::{
    Result,
    frames::{Frame, arp},
    host::{Host, with_host},
    outcome::assert_bytes,
    topology::{A, FAR, FAR_MAC, HOST, M, MESH, PEER, PEER_NUMBER, VXLAN_PORT},
};

/// RFC 7348 section 5: flags with the I bit, 24 reserved bits, the VNI, 8 reserved bits.
pub fn vxlan_header(vni: u32) -> [u8; 8] {
    let [_, a, b, c] = vni.to_be_bytes();
    [0x08, 0, 0, 0, a, b, c, 0]
}

/// What must leave: the outer Ethernet header is still the container's, the redirect writes it.
fn encapsulated(inner: &Frame, source_port: u16) -> Vec<u8> {
    let payload = [vxlan_header(MESH.vni).as_slice(), &inner.clone().macs(M.mac, FAR_MAC).bytes()].concat();
    let mut outer = Frame::udp((HOST, source_port), (PEER, VXLAN_PORT))
        .macs(inner.source_mac, inner.destination_mac)
        .without_checksum()
        .dscp_and_ecn(0, inner.ip.ecn.value())
        .ttl(64)
        .payload(&payload);
    outer.ip.identification = 0;
    assert!(outer.ip.dont_fragment);
    outer.bytes()
}

/// Sends a frame and compares it with the expected encapsulation; answers the outer source port.
#[track_caller]
fn assert_encapsulated(host: &mut Host, inner: &Frame) -> Result<u16> {
    let outcome = host.container_sends(&M, inner)?.on_path(Path::Encapsulate).counts_as(1);
    let port = outcome.source_port();
    // RFC 6335: the dynamic ports, as RFC 7348 section 5 recommends.
    assert!(port >= 49_152, "{port}");
    assert_eq!(outcome.frame.len(), outcome.input.len() + 50);
    assert_bytes(&outcome.frame, &encapsulated(inner, port));
    Ok(port)
}

#[test]
fn fifty_bytes_exactly() -> Result {
    with_host(|host| {
        let (m, far) = ((M.address, 4000), (FAR, 80));
        for frame in [
            Frame::syn(m, far),
            Frame::udp(m, far).payload(&[8; 1422]),
            Frame::udp(m, far).without_checksum().payload(b""),
            Frame::udp(m, far).ttl(1),
            Frame::udp(m, far).options(&[1; 8]),
            Frame::udp(m, far).fragment(0, true),
            Frame::ip(IpNumber::UDP, m.0, far.0).fragment(10, false),
            Frame::echo_request(m.0, far.0, 3),
            Frame::ip(IpNumber::GRE, m.0, far.0),
        ] {
            // Whatever the sender believes of the destination's MAC address.
            for destination_mac in [FAR_MAC, MESH.gateway_mac] {
                assert_encapsulated(host, &frame.clone().macs(M.mac, destination_mac))?;
            }
        }
        assert!(host.is_empty()?, "encapsulation keeps no state");
        Ok(())
    })
}

/// RFC 6040 section 4.1: congestion marks are copied. The network class of the inner packet is not the underlay's.
#[test]
fn congestion_marks_are_copied() -> Result {
    with_host(|host| {
        for dscp in [0, 46, 63] {
            for ecn in 0..4 {
                let frame = Frame::udp((M.address, 4000), (FAR, 80)).macs(M.mac, FAR_MAC);
                assert_encapsulated(host, &frame.dscp_and_ecn(dscp, ecn))?;
            }
        }
        Ok(())
    })
}

#[test]
fn the_source_port_is_the_flows() -> Result {
    with_host(|host| {
        let frame = |port| Frame::udp((M.address, port), (FAR, 80)).macs(M.mac, FAR_MAC);
        let mut ports = HashSet::new();
        for port in 1000..1100 {
            let first = assert_encapsulated(host, &frame(port))?;
            assert_eq!(assert_encapsulated(host, &frame(port).payload(&[port as u8; 700]))?, first);
            ports.insert(first);
        }
        // Of 16384 ports a hundred flows share few.
        assert!(ports.len() > 90, "a hundred flows have {} ports", ports.len());
        Ok(())
    })
}

#[test]
fn a_peer_that_is_not_known_any_more() -> Result {
    with_host(|host| {
        host.programs.hash::<u32, Peer>(map::PEERS)?.remove(&PEER_NUMBER)?;
        let frame = Frame::udp((M.address, 4000), (FAR, 80)).macs(M.mac, FAR_MAC);
        host.container_sends(&M, &frame)?.dropped(DropReason::UnknownPeer);
        Ok(())
    })
}

#[test]
fn a_peer_behind_no_uplink() -> Result {
    with_host(|host| {
        let mut peers = host.programs.hash::<u32, Peer>(map::PEERS)?;
        let peer = peers.get(&PEER_NUMBER, 0)?;
        peers.insert(PEER_NUMBER, Peer { ifindex: 0, ..peer }, 0)?;
        // The packet has been encapsulated when the redirect is refused.
        let frame = Frame::udp((M.address, 4000), (FAR, 80)).macs(M.mac, FAR_MAC);
        let outcome = host.container_sends(&M, &frame)?;
        assert_eq!(outcome.drop, Some(DropReason::NoRoute));
        Ok(())
    })
}

/// Who is unknown, and broadcast, is the vxlan device's business; so is ARP. Only overlay networks have remotes.
#[test]
fn the_rest_is_the_vxlan_devices() -> Result {
    with_host(|host| {
        let unknown = Frame::udp((M.address, 4000), (Ipv4Addr::new(10, 20, 0, 77), 80)).macs(M.mac, FAR_MAC);
        host.container_sends(&M, &unknown)?.passed(Path::SlowPath);
        let broadcast =
            Frame::udp((M.address, 4000), (Ipv4Addr::new(10, 20, 0, 255), 80)).macs(M.mac, [0xff; 6]);
        host.container_sends(&M, &broadcast)?.passed(Path::SlowPath);
        host.container_sends_bytes(&M, &arp(M.mac, M.mac, M.address, FAR))?.passed(Path::SlowPath);

        let known = Frame::udp((M.address, 4000), (FAR, 80)).macs(M.mac, FAR_MAC);
        host.change_flags(M.device, flags::OVERLAY, 0)?;
        host.container_sends(&M, &known)?.passed(Path::SlowPath);
        // Another network does not have the remotes of this one.
        let foreign = Frame::udp((A.address, 4000), (FAR, 80)).sent_by(&A);
        host.container_sends(&A, &foreign)?.dropped(DropReason::Isolated);
        Ok(())
    })
}

/// The kernel grows GSO packets only of types that a test run cannot give (see the crate's page): it refuses, and the
/// packet is dropped as it came, not sent out half done.
#[test]
fn a_refusal_of_the_kernel_is_a_drop() -> Result {
    with_host(|host| {
        let frame = Frame::tcp((M.address, 4000), (FAR, 80)).macs(M.mac, FAR_MAC).payload(&[1; 2800]).bytes();
        let outcome = host.programs.run(program::FROM_CONTAINER, &frame, M.device)?.gso(1400, 2).outcome()?;
        assert_eq!(outcome.drop, Some(DropReason::HelperFailed));
        assert_bytes(&outcome.frame, &outcome.input);
        assert_eq!(outcome.counted.packets, 2);
        Ok(())
    })
}
