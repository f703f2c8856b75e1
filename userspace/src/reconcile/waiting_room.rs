//! The waiting room: where fragments are that came before the first of their datagram (`dataplane-ebpf/src/fragments.rs`).

use super::{kernel::Kernel, names, problem::Problem};
use crate::{
    dataplane::{Dataplane, TcProgram},
    netdev::{DelaySpec, Netlink},
};

/// 100 Mbit/s, in bytes. With [`MINIMUM_PACKET`] that is a packet in 0.12 ms at most: what waits looks again for the
/// first of its datagram that often, and costs no more than that however much waits.
const RATE: u32 = 12_500_000;
/// So that a flood of short fragments does not take more turns than one of long ones.
const MINIMUM_PACKET: u16 = 1_500;
/// Longer than any packet of a device with an MTU of at most 65,535 bytes.
const BURST: u32 = 66_000;
/// Packets that may wait, so that a turn takes 20 ms at most and each has three before its time is up.
const LIMIT: u32 = 170;

/// The waiting room as the last round left it.
#[derive(Debug, Default)]
pub enum WaitingRoom {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// In place; the index of its entrance.
    Ready(u32),
    /// Not to be had, and why. Only a full round tries again: what it makes and removes would be the events that ask for
    /// the next round.
    Missing(String),
}

impl WaitingRoom {
    /// The device that fragments are sent to.
    pub fn entrance(&self) -> Option<u32> {
        match self {
            Self::Ready(ifindex) => Some(*ifindex),
            _ => None,
        }
    }
}

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

/// Has the waiting room there, with its queue and its program if `full` or if they were not. Without it weft goes on:
/// fragments then have to come in order.
pub async fn ensure(
    before: &WaitingRoom,
    netlink: &Netlink,
    kernel: &mut Kernel,
    dataplane: &Dataplane,
    full: bool,
    problems: &mut Vec<Problem>,
) -> WaitingRoom {
    let room = match before {
        WaitingRoom::Missing(reason) if !full => WaitingRoom::Missing(reason.clone()),
        _ => {
            let everything = full || before.entrance().is_none();
            match make(netlink, kernel, dataplane, everything).await {
                Ok(entrance) => WaitingRoom::Ready(entrance),
                Err(reason) => WaitingRoom::Missing(reason),
            }
        }
    };
    if let WaitingRoom::Missing(reason) = &room {
        let reason =
            format!("{reason}; fragments that come before the first of their datagram are not waited for");
        problems.push(Problem::of_itself("waiting room", reason));
    }
    room
}

/// The index of the entrance.
async fn make(
    netlink: &Netlink,
    kernel: &mut Kernel,
    dataplane: &Dataplane,
    everything: bool,
) -> Result<u32, String> {
    let spec = spec();
    if let (Some(entrance), Some(exit)) = (kernel.link(&spec.entrance), kernel.link(&spec.exit))
        && !everything
        && spec.is_satisfied_by(entrance, exit)
    {
        return Ok(entrance.ifindex);
    }
    let made = netlink.ensure_delay(&spec).await;
    for name in [&spec.entrance, &spec.exit] {
        kernel.read_device(netlink, name).await.map_err(|error| error.to_string())?;
    }
    made.map_err(|error| error.to_string())?;
    let (Some(entrance), Some(exit)) = (kernel.link(&spec.entrance), kernel.link(&spec.exit)) else {
        return Err("its devices have been removed again meanwhile".to_owned());
    };
    dataplane
        .ensure_tc(&spec.exit, exit.ifindex, TcProgram::FromWaitingRoom)
        .map_err(|error| error.to_string())?;
    Ok(entrance.ifindex)
}
