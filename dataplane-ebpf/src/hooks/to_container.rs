//! What the host's stack sends to containers, at their network's bridge. Fast paths never come here, and neither does what
//! the bridge forwards from one of its own ports to another.

use dataplane_common::{
    abi::{DeviceRole, DropReason, Path, flags},
    packet::Ethernet,
};

use crate::{
    maps,
    packet::{Headers, Packet},
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    let device = maps::device(packet.device()).ok_or(DropReason::UnknownDevice)?;
    packet.read::<Ethernet>(0)?;
    let origin = packet.came_in_by();
    if device.flags & flags::ISOLATED != 0 {
        return Err(DropReason::Isolated);
    }
    if origin == 0 {
        return Ok(Verdict::Pass(Path::Host));
    }
    // What came in from this very network goes back into it. Anything else was routed here from outside, past every
    // published port. Members that may not talk to one another do not by way of the host either: it forwards between
    // link-local addresses if it is given the frame.
    match maps::device(origin) {
        Some(from)
            if matches!(from.role, DeviceRole::CONTAINER | DeviceRole::BRIDGE)
                && from.network == device.network
                && from.flags & flags::INTER_CONTAINER == 0 =>
        {
            Err(DropReason::InterContainerDisabled)
        }
        Some(from) if from.role != DeviceRole::UPLINK && from.network == device.network => {
            Ok(Verdict::Pass(Path::SlowPath))
        }
        Some(from) if from.role == DeviceRole::CONTAINER => Err(DropReason::Isolated),
        _ => Err(DropReason::DirectRouting),
    }
}
