//! from_container: members of one network.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, Path, flags, program};
use etherparse::{Icmpv4Type, IpNumber, icmpv4::DestUnreachableHeader};

use crate::{
    Result,
    frames::Frame,
    host::with_host,
    topology::{A, B, C, FRONT},
};

/// Whatever IPv4 carries: the frame is the container's own, but for the destination MAC address, which is the right one
/// even where the sender's ARP cache is not. Nothing else changes, not even the TTL.
#[test]
fn a_frame_for_a_member_is_delivered() -> Result {
    with_host(|host| {
        let (a, b) = ((A.address, 4000), (B.address, 80));
        let frames = [
            Frame::syn(a, b),
            Frame::tcp(a, b).control(|tcp| tcp.rst = true),
            Frame::udp(a, b),
            Frame::udp(a, b).without_checksum(),
            Frame::udp(a, b).options(&[1, 1, 1, 0]),
            Frame::udp(a, b).dscp_and_ecn(46, 3),
            Frame::udp(a, b).ttl(1),
            Frame::udp(a, b).fragment(0, true),
            Frame::ip(IpNumber::UDP, a.0, b.0).fragment(100, false),
            Frame::echo_request(a.0, b.0, 1),
            Frame::echo_reply(a.0, b.0, 1),
            Frame::icmp(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port), a.0, b.0),
            Frame::ip(IpNumber::GRE, a.0, b.0),
            Frame::ip(IpNumber::SCTP, a.0, b.0).payload(&[0; 12]),
            Frame::udp(a, b).payload(&[7; 3000]),
        ];
        for frame in frames {
            for destination_mac in [B.mac, FRONT.gateway_mac, [2, 0, 0, 0, 0, 9]] {
                let frame = frame.clone().macs(A.mac, destination_mac);
                let expected = frame.clone().macs(A.mac, B.mac);
                host.container_sends(&A, &frame)?.redirected(Path::Bridge, &expected);
            }
        }
        assert!(host.is_empty()?, "bridging keeps no state");
        Ok(())
    })
}

#[test]
fn a_gso_packet_counts_as_its_segments() -> Result {
    with_host(|host| {
        let frame = Frame::tcp((A.address, 4000), (B.address, 80)).payload(&[1; 3000]).macs(A.mac, B.mac);
        let (input, expected) = (frame.bytes(), frame.bytes());
        for (size, segments, packets) in [(1448, 3, 3), (1000, 0, 4)] {
            let run = host.programs.run(program::FROM_CONTAINER, &input, A.device)?.gso(size, segments);
            let outcome = run.outcome()?.on_path(Path::Bridge).counts_as(packets);
            crate::outcome::assert_bytes(&outcome.frame, &expected);
        }
        Ok(())
    })
}

#[test]
fn inter_container_communication_may_be_off() -> Result {
    with_host(|host| {
        host.change_flags(A.device, flags::INTER_CONTAINER, 0)?;
        let frame = Frame::syn((A.address, 4000), (B.address, 80)).macs(A.mac, B.mac);
        host.container_sends(&A, &frame)?.dropped(DropReason::InterContainerDisabled);
        host.container_sends(&A, &Frame::echo_request(A.address, B.address, 1).macs(A.mac, B.mac))?
            .dropped(DropReason::InterContainerDisabled);
        // Not past the bridge either: it would flood what it does not know.
        for unknown in [Ipv4Addr::new(10, 10, 0, 99), Ipv4Addr::new(10, 10, 0, 255), Ipv4Addr::BROADCAST] {
            let frame = Frame::syn((A.address, 4000), (unknown, 80)).macs(A.mac, B.mac);
            host.container_sends(&A, &frame)?.dropped(DropReason::InterContainerDisabled);
        }
        Ok(())
    })
}

#[test]
fn an_unknown_member_is_the_bridges_business() -> Result {
    with_host(|host| {
        let frame = Frame::syn((A.address, 4000), (B.address, 80)).macs(A.mac, B.mac);
        host.remove_endpoint(&B)?;
        host.container_sends(&A, &frame)?.passed(Path::SlowPath);
        host.add_container(&B)?;
        host.container_sends(&A, &frame)?.redirected(Path::Bridge, &frame);
        Ok(())
    })
}

#[test]
fn other_networks_are_isolated() -> Result {
    with_host(|host| {
        let destinations = [C.address, Ipv4Addr::new(10, 11, 0, 77), Ipv4Addr::new(10, 20, 0, 5)];
        for destination in destinations {
            for (flags, reason) in [(0, DropReason::Isolated), (flags::INTERNAL, DropReason::Internal)] {
                host.add_container(&A)?;
                host.change_flags(A.device, 0, flags)?;
                for frame in [
                    Frame::syn((A.address, 4000), (destination, 80)),
                    Frame::udp((A.address, 4000), (destination, 80)),
                    Frame::echo_request(A.address, destination, 5),
                    Frame::ip(IpNumber::GRE, A.address, destination),
                ] {
                    host.container_sends(&A, &frame.sent_by(&A))?.dropped(reason);
                }
            }
        }
        Ok(())
    })
}
