//! The waiting room: where fragments are that came before the first of their datagram (`dataplane-ebpf/src/fragments.rs`).

use super::{kernel::Kernel, names, problem::Problem};
use crate::{
    dataplane::{Dataplane, TcProgram},
    netdev::{self, DelaySpec, Netlink},
};

/// 100 Mbit/s, in bytes. With [`MINIMUM_PACKET`] that is a packet in 0.12 ms at most: what waits looks again for the
/// first of its datagram that often, and costs no more than that however much waits.
const RATE: u32 = 12_500_000;
/// So that a flood of short fragments does not take more turns than one of long ones.
const MINIMUM_PACKET: u16 = 1_500;
/// Longer than any packet of a device with an MTU of at most 65,535 bytes.
const BURST: u32 = 66_000;
/// What may wait: some 170 full packets, so that a turn takes 20 ms at most and each has three before its time is up.
const LIMIT: u32 = 256 * 1024;

fn spec() -> DelaySpec {
    DelaySpec {
        entrance: names::WAITING_ROOM.to_owned(),
        exit: names::WAITING_ROOM_EXIT.to_owned(),
        alias: names::waiting_room_alias(),
        rate: RATE,
        minimum_packet: MINIMUM_PACKET,
        burst: BURST,
        limit: LIMIT,
    }
}

/// Has the waiting room there, with its queue and its program if `full` or if it had to be made; answers its index.
/// Without it weft goes on: fragments then have to come in order.
pub async fn ensure(
    netlink: &Netlink,
    kernel: &mut Kernel,
    dataplane: &Dataplane,
    full: bool,
    problems: &mut Vec<Problem>,
) -> Option<u32> {
    let mut problem = |reason: String| {
        let reason =
            format!("{reason}; fragments that come before the first of their datagram are not waited for");
        problems.push(Problem::of_itself("waiting room", reason));
        None
    };
    let made = match make(netlink, kernel, full).await {
        Ok(made) => made,
        Err(error) => return problem(error.to_string()),
    };
    let (entrance, exit) =
        (kernel.link(names::WAITING_ROOM)?.ifindex, kernel.link(names::WAITING_ROOM_EXIT)?.ifindex);
    if made
        && let Err(error) = dataplane.ensure_tc(names::WAITING_ROOM_EXIT, exit, TcProgram::FromWaitingRoom)
    {
        return problem(error.to_string());
    }
    Some(entrance)
}

/// Whether anything had to be looked at.
async fn make(netlink: &Netlink, kernel: &mut Kernel, full: bool) -> netdev::Result<bool> {
    let spec = spec();
    let ends = (kernel.link(&spec.entrance), kernel.link(&spec.exit));
    if let (Some(entrance), Some(exit)) = ends
        && !full
        && spec.is_satisfied_by(entrance, exit)
    {
        return Ok(false);
    }
    netlink.ensure_delay(&spec).await?;
    for name in [&spec.entrance, &spec.exit] {
        kernel.read_device(netlink, name).await?;
    }
    Ok(true)
}
