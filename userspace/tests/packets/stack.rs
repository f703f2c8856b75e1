//! to_container: what the kernel's stack or bridge delivers.

use std::net::Ipv4Addr;

use dataplane_common::abi::{Address, DropReason, Path, flags};
use etherparse::EtherType;

use crate::{
    Result,
    frames::{Frame, arp, ethernet},
    host::with_host,
    topology::{A, B, BACK, C, FRONT, HOST, M, MESH, REMOTE, STRANGER, UPLINK, VXLAN},
};

/// By the device that it came in by; the kind of packet does not matter.
#[test]
fn where_it_came_from_decides() -> Result {
    with_host(|host| {
        let frames = [
            Frame::syn((REMOTE, 1), (A.address, 80)).routed_to(&A).bytes(),
            Frame::echo_reply(HOST, A.address, 1).routed_to(&A).bytes(),
            arp(B.mac, B.mac, B.address, A.address),
            [ethernet(B.mac, [0xff; 6], EtherType::IPV6).as_slice(), &[0; 60]].concat(),
            vec![0; 14],
        ];
        for frame in &frames {
            // The host itself.
            host.delivery(&A, frame)?.outcome()?.passed(Path::Host);
            for member in [B.device, FRONT.bridge, A.device] {
                host.delivery(&A, frame)?.came_in_by(member)?.outcome()?.passed(Path::SlowPath);
            }
            host.delivery(&M, frame)?.came_in_by(VXLAN)?.outcome()?.passed(Path::SlowPath);
            for foreign in [C.device, M.device] {
                host.delivery(&A, frame)?.came_in_by(foreign)?.outcome()?.dropped(DropReason::Isolated);
            }
            for outside in [UPLINK, STRANGER, BACK.bridge, MESH.bridge, VXLAN] {
                host.delivery(&A, frame)?.came_in_by(outside)?.outcome()?.dropped(DropReason::DirectRouting);
            }
        }
        Ok(())
    })
}

/// Members that may not talk to one another do not by way of the host, which forwards between link-local addresses.
#[test]
fn the_host_is_no_way_around_isolation() -> Result {
    with_host(|host| {
        for device in [A.device, B.device, FRONT.bridge] {
            host.change_flags(device, flags::INTER_CONTAINER, 0)?;
        }
        let frame = [ethernet(FRONT.gateway_mac, A.mac, EtherType::IPV6).as_slice(), &[0; 60]].concat();
        // What a bridge hands up has come in by the bridge (`skb_iif`).
        for device in [B.device, FRONT.bridge] {
            host.delivery(&A, &frame)?
                .came_in_by(device)?
                .outcome()?
                .dropped(DropReason::InterContainerDisabled);
        }
        host.delivery(&A, &frame)?.outcome()?.passed(Path::Host);
        Ok(())
    })
}

/// A container without an IPv4 address does not speak IPv4, not even as nobody.
#[test]
fn a_family_without_address_is_not_spoken() -> Result {
    with_host(|host| {
        host.change_device(A.device, |device| device.address = Address::UNSPECIFIED)?;
        let frame = Frame::udp((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67)).macs(A.mac, [0xff; 6]);
        host.container_sends(&A, &frame)?.dropped(DropReason::UnsupportedProtocol);
        let request = arp(A.mac, A.mac, Ipv4Addr::UNSPECIFIED, FRONT.gateway);
        host.container_sends_bytes(&A, &request)?.dropped(DropReason::UnsupportedProtocol);
        Ok(())
    })
}

#[test]
fn a_device_without_record_is_closed() -> Result {
    with_host(|host| {
        host.remove_device(A.device)?;
        let frame = Frame::syn((HOST, 1), (A.address, 80)).routed_to(&A).bytes();
        host.delivery(&A, &frame)?.outcome()?.dropped(DropReason::UnknownDevice);
        host.delivery(&A, &frame)?.came_in_by(B.device)?.outcome()?.dropped(DropReason::UnknownDevice);
        Ok(())
    })
}

/// A sender whose record has gone is a stranger.
#[test]
fn a_sender_without_record_is_outside() -> Result {
    with_host(|host| {
        host.remove_device(B.device)?;
        let frame = Frame::syn((B.address, 1), (A.address, 80)).macs(B.mac, A.mac).bytes();
        host.delivery(&A, &frame)?.came_in_by(B.device)?.outcome()?.dropped(DropReason::DirectRouting);
        Ok(())
    })
}
