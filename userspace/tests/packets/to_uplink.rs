//! to_uplink: no container's address leaves untranslated.

use std::net::Ipv4Addr;

use dataplane_common::abi::{DropReason, program};
use etherparse::{EtherType, IpNumber};

use crate::{
    Result,
    frames::{Frame, arp, ethernet},
    host::with_host,
    topology::{A, C, FRONT, HOST, HOST_2, M, REMOTE, REMOTE_2, ROUTER_MAC, STRANGER, UPLINK_MAC},
};

fn leaving(source: Ipv4Addr) -> Vec<Vec<u8>> {
    [
        Frame::syn((source, 1000), (REMOTE, 443)),
        Frame::udp((source, 1000), (REMOTE, 443)).options(&[1; 4]),
        Frame::echo_request(source, REMOTE, 1),
        Frame::ip(IpNumber::GRE, source, REMOTE).payload(b""),
        Frame::ip(IpNumber::UDP, source, REMOTE).fragment(50, false),
    ]
    .map(|frame| frame.macs(UPLINK_MAC, ROUTER_MAC).bytes())
    .to_vec()
}

#[test]
fn addresses_of_containers_stay_here() -> Result {
    with_host(|host| {
        let inside = [A.address, C.address, M.address, FRONT.gateway, Ipv4Addr::new(10, 10, 0, 200)];
        for source in inside {
            for frame in leaving(source) {
                host.leave(&frame)?.dropped(DropReason::UntranslatedSource);
                // The record of the uplink itself is not needed.
                host.programs
                    .run(program::TO_UPLINK, &frame, STRANGER)?
                    .outcome()?
                    .dropped(DropReason::UntranslatedSource);
            }
        }
        Ok(())
    })
}

#[test]
fn everything_else_leaves() -> Result {
    with_host(|host| {
        for source in [HOST, HOST_2, REMOTE_2, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 12, 0, 1)] {
            for frame in leaving(source) {
                host.leave(&frame)?.ignored();
            }
        }
        host.leave(&arp(UPLINK_MAC, UPLINK_MAC, A.address, REMOTE))?.ignored();
        for ether_type in [EtherType::IPV6, EtherType(0x88cc)] {
            host.leave(&[ethernet(UPLINK_MAC, ROUTER_MAC, ether_type).as_slice(), &[10; 60]].concat())?
                .ignored();
        }
        Ok(())
    })
}
