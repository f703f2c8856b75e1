//! from_container: who the sender may be, and what EtherTypes and devices there are.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, Path, flags};
use etherparse::EtherType;

use crate::{
    Result,
    frames::{Frame, arp, ethernet},
    host::with_host,
    topology::{A, B, FRONT, HOST, REMOTE},
};

#[test]
fn a_device_without_record_is_closed() -> Result {
    with_host(|host| {
        host.remove_device(A.device)?;
        let frame = Frame::udp((A.address, 1000), (B.address, 53)).sent_by(&A);
        host.container_sends(&A, &frame)?.dropped(DropReason::UnknownDevice);
        host.container_sends_bytes(&A, &arp(A.mac, A.mac, A.address, FRONT.gateway))?
            .dropped(DropReason::UnknownDevice);
        Ok(())
    })
}

#[test]
fn nobody_speaks_with_anothers_mac_or_address() -> Result {
    with_host(|host| {
        for destination in [B.address, FRONT.gateway, HOST, REMOTE, Ipv4Addr::BROADCAST] {
            let own = Frame::udp((A.address, 30_000), (destination, 53)).sent_by(&A);
            host.container_sends(&A, &own.clone().macs(B.mac, FRONT.gateway_mac))?
                .dropped(DropReason::SpoofedMac);
            host.container_sends(&A, &own.clone().source((B.address, 30_000)))?
                .dropped(DropReason::SpoofedAddress);
            host.container_sends(&A, &own.source((Ipv4Addr::UNSPECIFIED, 68)))?
                .dropped(DropReason::SpoofedAddress);
        }
        assert!(host.is_empty()?, "a spoofed packet has left a record");
        Ok(())
    })
}

#[test]
fn nobody_answers_arp_for_another() -> Result {
    with_host(|host| {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let cases = [
            // Frame's source, sender MAC, sender address.
            (arp(A.mac, A.mac, A.address, B.address), None),
            // RFC 5227: probe and announcement.
            (arp(A.mac, A.mac, nobody, A.address), None),
            (arp(A.mac, A.mac, A.address, A.address), None),
            (arp(B.mac, A.mac, A.address, B.address), Some(DropReason::SpoofedMac)),
            (arp(A.mac, B.mac, A.address, B.address), Some(DropReason::SpoofedMac)),
            (arp(A.mac, A.mac, B.address, B.address), Some(DropReason::SpoofedAddress)),
            (arp(A.mac, A.mac, FRONT.gateway, B.address), Some(DropReason::SpoofedAddress)),
        ];
        for (frame, drop) in cases {
            let outcome = host.container_sends_bytes(&A, &frame)?;
            match drop {
                None => outcome.passed(Path::SlowPath),
                Some(reason) => outcome.dropped(reason),
            }
        }
        Ok(())
    })
}

#[test]
fn only_ipv4_and_arp_are_carried() -> Result {
    with_host(|host| {
        for ether_type in [EtherType::IPV6, EtherType::VLAN_TAGGED_FRAME, EtherType(0x88cc), EtherType(0)] {
            let frame = [ethernet(A.mac, B.mac, ether_type).as_slice(), &[0; 60]].concat();
            host.container_sends_bytes(&A, &frame)?.dropped(DropReason::UnsupportedProtocol);
        }
        Ok(())
    })
}

#[test]
fn broadcast_and_multicast_are_the_bridges() -> Result {
    with_host(|host| {
        let subnet = Ipv4Addr::new(10, 10, 0, 255);
        for destination in
            [Ipv4Addr::BROADCAST, subnet, Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(239, 255, 255, 250)]
        {
            let frame = Frame::udp((A.address, 5353), (destination, 5353)).macs(A.mac, [0xff; 6]);
            host.container_sends(&A, &frame)?.passed(Path::SlowPath);
        }
        // Another network's broadcast address is one of its addresses.
        let other = Frame::udp((A.address, 5353), (Ipv4Addr::new(10, 11, 0, 255), 5353)).sent_by(&A);
        host.container_sends(&A, &other)?.dropped(DropReason::Isolated);
        host.change_flags(A.device, flags::FORWARDING, 0)?;
        host.container_sends(&A, &other)?.dropped(DropReason::Isolated);
        Ok(())
    })
}
