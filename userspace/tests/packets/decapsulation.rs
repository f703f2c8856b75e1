//! from_uplink: VXLAN from peers.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, Path, VxlanKey, map, program};
use etherparse::{EtherType, IpNumber};

use crate::{
    Result,
    encapsulation::vxlan_header,
    frames::{Frame, arp, ethernet},
    host::{address, with_host},
    outcome::assert_bytes,
    topology::{A, C, FAR, FAR_MAC, HOST, HOST_2, M, MESH, PEER, REMOTE, UPLINK, VXLAN_PORT},
};

pub fn inner() -> Frame {
    Frame::udp((FAR, 80), (M.address, 4000)).macs(FAR_MAC, M.mac)
}

/// The datagram that brings these bytes as inner frame.
pub fn outer(inner: &[u8]) -> Frame {
    let payload = [vxlan_header(MESH.vni).as_slice(), inner].concat();
    Frame::udp((PEER, 50_000), (HOST, VXLAN_PORT)).without_checksum().payload(&payload).by_router()
}

#[test]
fn the_inner_frame_comes_out() -> Result {
    with_host(|host| {
        let (far, m) = ((FAR, 80), (M.address, 4000));
        for inner in [
            inner(),
            inner().ttl(1),
            inner().payload(&[7; 1422]),
            inner().payload(b"").without_checksum(),
            inner().options(&[1; 4]),
            inner().fragment(0, true),
            inner().dscp_and_ecn(46, 3),
            Frame::syn(far, m),
            Frame::echo_request(FAR, M.address, 3),
            Frame::ip(IpNumber::GRE, FAR, M.address),
            Frame::ip(IpNumber::UDP, FAR, M.address).fragment(10, false),
        ] {
            let inner = inner.macs(FAR_MAC, M.mac);
            let datagram = outer(&inner.bytes());
            host.world_sends(&datagram)?.redirected(Path::Decapsulate, &inner);
            // Marks of the outer header that say nothing, another address of the host, a checksum (RFC 6935 permits to
            // ignore it).
            host.world_sends(&datagram.clone().dscp_and_ecn(34, 2).ttl(1))?
                .redirected(Path::Decapsulate, &inner);
            host.world_sends(&datagram.clone().destination((HOST_2, VXLAN_PORT)))?
                .redirected(Path::Decapsulate, &inner);
            let summed = Frame::udp((PEER, 1), (HOST, VXLAN_PORT)).payload(&datagram.payload).by_router();
            host.world_sends(&summed)?.redirected(Path::Decapsulate, &inner);
        }
        assert!(host.is_empty()?, "decapsulation keeps no state");
        Ok(())
    })
}

/// What the underlay has marked must reach the receiver (RFC 6040 section 4.2); the vxlan device knows how.
#[test]
fn congestion_in_the_underlay_is_not_lost() -> Result {
    with_host(|host| {
        for ecn in 0..4 {
            let datagram = outer(&inner().dscp_and_ecn(0, ecn).bytes()).dscp_and_ecn(0, 3);
            host.world_sends(&datagram)?.passed(Path::SlowPath);
        }
        Ok(())
    })
}

/// Frames padded to the minimum of Ethernet, inside and outside.
#[test]
fn padding_is_no_harm() -> Result {
    with_host(|host| {
        let frame = inner().payload(b"");
        let padded = [frame.bytes(), vec![0; 18]].concat();
        host.world_sends(&outer(&padded))?.redirected_bytes(Path::Decapsulate, &padded);
        let wire = [outer(&frame.bytes()).bytes(), vec![0; 6]].concat();
        host.world_sends_bytes(&wire)?
            .redirected_bytes(Path::Decapsulate, &[frame.bytes(), vec![0; 6]].concat());
        Ok(())
    })
}

#[test]
fn only_peers_of_the_network_may_send() -> Result {
    with_host(|host| {
        let datagram = outer(&inner().bytes());
        let stranger = datagram.clone().source((REMOTE, 50_000));
        host.world_sends(&stranger)?.dropped(DropReason::UnknownPeer);
        // A VNI that is not weft's, whoever sends.
        let foreign = [vxlan_header(MESH.vni + 1).as_slice(), &inner().bytes()].concat();
        host.world_sends(&datagram.clone().payload(&foreign))?.passed(Path::NotOurs);
        host.world_sends(&stranger.payload(&foreign))?.passed(Path::NotOurs);
        // A VNI of weft's that this peer has no part in.
        let key = VxlanKey { vni: MESH.vni + 1, peer: dataplane_common::abi::Address::UNSPECIFIED };
        host.programs.hash(map::VXLAN)?.insert(key, 9_u32, 0)?;
        host.world_sends(&datagram.clone().payload(&foreign))?.dropped(DropReason::UnknownPeer);
        // The peer leaves.
        let key = VxlanKey { vni: MESH.vni, peer: address(PEER) };
        host.programs.hash::<_, u32>(map::VXLAN)?.remove(&key)?;
        host.world_sends(&datagram)?.dropped(DropReason::UnknownPeer);
        Ok(())
    })
}

#[test]
fn what_is_not_for_a_known_container_is_the_vxlan_devices() -> Result {
    with_host(|host| {
        let frames = [
            inner().destination((Ipv4Addr::new(10, 20, 0, 77), 4000)).bytes(),
            inner().destination((Ipv4Addr::new(10, 20, 0, 255), 4000)).macs(FAR_MAC, [0xff; 6]).bytes(),
            // The right address with another MAC address, and the other way round.
            inner().macs(FAR_MAC, [2, 0, 0, 0, 0, 9]).bytes(),
            inner().destination((FAR, 4000)).bytes(),
            // A container of another network.
            inner().destination((A.address, 4000)).macs(FAR_MAC, A.mac).bytes(),
            inner().destination((C.address, 4000)).macs(FAR_MAC, C.mac).bytes(),
            arp(FAR_MAC, FAR_MAC, FAR, M.address),
            [ethernet(FAR_MAC, M.mac, EtherType::IPV6).as_slice(), &[0; 60]].concat(),
        ];
        for frame in frames {
            host.world_sends(&outer(&frame))?.passed(Path::SlowPath);
        }
        Ok(())
    })
}

/// A header without the I flag, and every way of being short: RFC 7348 section 5, and what follows from the lengths.
#[test]
fn bad_encapsulation() -> Result {
    with_host(|host| {
        let datagram = outer(&inner().bytes());
        for flags in [0x00, 0xf7] {
            let mut payload = datagram.payload.clone();
            payload[0] = flags;
            host.world_sends(&datagram.clone().payload(&payload))?.dropped(DropReason::BadEncapsulation);
        }
        // The datagram is short, and says so.
        for length in 0..datagram.payload.len() {
            let cut = datagram.clone().payload(&datagram.payload[..length]);
            host.world_sends(&cut)?.dropped(DropReason::BadEncapsulation);
        }
        // The UDP length is not that of what is there.
        let udp_length = datagram.payload.len() as u16 + 8;
        for (lie, reason) in [
            (udp_length + 1, true),
            (u16::MAX, true),
            (udp_length - 1, true),
            (8, true),
            (0, true),
            (udp_length, false),
        ] {
            let mut wire = datagram.bytes();
            wire[38..40].copy_from_slice(&lie.to_be_bytes());
            let outcome = host.world_sends_bytes(&wire)?;
            if reason {
                outcome.dropped(DropReason::BadEncapsulation);
            } else {
                outcome.redirected(Path::Decapsulate, &inner());
            }
        }
        // The inner length is more than there is.
        for more in [1, 60_000] {
            let mut wire = datagram.bytes();
            let length = u16::from_be_bytes([wire[66], wire[67]]) + more;
            wire[66..68].copy_from_slice(&length.to_be_bytes());
            host.world_sends_bytes(&wire)?.dropped(DropReason::BadEncapsulation);
        }
        Ok(())
    })
}

#[test]
fn datagrams_that_are_no_plain_vxlan() -> Result {
    with_host(|host| {
        let datagram = outer(&inner().bytes());
        // Passed on, the stack would reassemble them for the vxlan device, which does not know the peers.
        for frame in [datagram.clone().fragment(0, true), datagram.clone().options(&[1; 4])] {
            host.world_sends(&frame)?.dropped(DropReason::BadEncapsulation);
        }
        // Nor does it ask who sends to everybody.
        for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 255)] {
            host.world_sends(&datagram.clone().destination((to, VXLAN_PORT)))?
                .dropped(DropReason::BadEncapsulation);
        }
        for frame in [
            Frame::ip(IpNumber::UDP, PEER, HOST).fragment(10, false).by_router(),
            datagram.clone().destination((HOST, VXLAN_PORT + 1)),
            datagram.clone().destination((REMOTE, VXLAN_PORT)),
            Frame::tcp((PEER, 50_000), (HOST, VXLAN_PORT)).payload(&datagram.payload).by_router(),
        ] {
            host.world_sends(&frame)?.passed(Path::NotOurs);
        }
        // A host without overlay networks has no tunnel port.
        host.change_device(UPLINK, |device| device.vxlan_port = 0)?;
        host.world_sends(&datagram)?.passed(Path::NotOurs);
        Ok(())
    })
}

/// UDP segments go to the vxlan device; TCP's are taken out here. The kernel refuses that in a test run (see the
/// crate's page), which shows that it was tried.
#[test]
fn segments() -> Result {
    with_host(|host| {
        let udp = outer(&inner().payload(&[1; 2800]).bytes()).bytes();
        let run = host.programs.run(program::FROM_UPLINK, &udp, UPLINK)?.gso(1400, 2);
        let outcome = run.outcome()?;
        assert_eq!((outcome.path, outcome.counted.packets), (Some(Path::SlowPath), 2));
        assert_bytes(&outcome.frame, &outcome.input);

        let tcp = Frame::tcp((FAR, 80), (M.address, 4000)).payload(&[1; 2800]).macs(FAR_MAC, M.mac);
        let tcp = outer(&tcp.bytes()).bytes();
        let outcome = host.programs.run(program::FROM_UPLINK, &tcp, UPLINK)?.gso(1400, 2).outcome()?;
        assert_eq!((outcome.drop, outcome.counted.packets), (Some(DropReason::HelperFailed), 2));
        assert_bytes(&outcome.frame, &outcome.input);
        Ok(())
    })
}
