//! to_container: what the kernel's stack or bridge delivers.

use dataplane_common::abi::{DropReason, Path};
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
