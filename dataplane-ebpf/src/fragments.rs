//! Datagrams in pieces: only the first fragment has ports, so what it says is remembered for the later ones.
//!
//! A fragment that comes before the first of its datagram is sent to the waiting room, a device whose queue gives it
//! back to where it came from a little later. That is bounded in memory by the queue, and in time by the number of
//! turns; there is no reassembly, and nothing of a later fragment is ever written but its IP header.

use dataplane_common::abi::{DropReason, FragmentKey, Fragments, Path};

use crate::{
    helpers, maps,
    packet::Packet,
    parse::{Fragment, Parsed, Side},
    verdict::{Outcome, Verdict},
};

/// How long the ports of a datagram are believed. Identifications come again, after 65,536 datagrams at the latest.
const VALID_NS: u64 = 2_000_000_000;
/// Turns that a fragment waits. The waiting room gives back at least one in 0.24 ms (a packet of 1,500 bytes at
/// 50 Mbit/s), so that is 60 ms, and longer the more wait.
const MOST_TURNS: u32 = 255;
/// Marks a packet that comes back from the waiting room; the turns are in the lowest byte. The field is
/// `skb->priority`, which nothing sets on a packet that has just come in.
const RETURNED: u32 = 0x5746_0000;

/// Completes what was parsed: ports for a later fragment. `Some`: the packet's way ends here for now.
#[inline(always)]
pub fn complete(packet: &Packet, parsed: &mut Parsed) -> Outcome<Option<Verdict>> {
    if parsed.fragment() == Fragment::Whole {
        return Ok(None);
    }
    match recall(*packet, parsed) {
        GO_ON => Ok(None),
        HOPELESS => Err(DropReason::Fragment),
        turns => wait(packet, turns),
    }
}

/// A later fragment whose datagram is not known may wait for so many turns in all. Two values mean something else.
const GO_ON: u32 = 0;
const HOPELESS: u32 = u32::MAX;

#[inline(never)]
fn recall(packet: Packet, parsed: &mut Parsed) -> u32 {
    let packet = &packet;
    let local = parsed.local();
    let key = FragmentKey {
        source: if local == Side::Source { parsed.tuple.local } else { parsed.tuple.remote },
        destination: if local == Side::Source { parsed.tuple.remote } else { parsed.tuple.local },
        identification: parsed.identification,
        protocol: parsed.tuple.protocol,
        reserved: [0; 3],
    };
    let now = helpers::now_ns();
    let known = maps::fragments(&key).filter(|known| now.wrapping_sub(known.seen_ns) < VALID_NS);
    if parsed.fragment() == Fragment::First {
        if let Some(known) = known
            && known.local_port == parsed.tuple.local_port
            && known.remote_port == parsed.tuple.remote_port
        {
            // The same fragment once more: its siblings have the identification that the first copy was given.
            parsed.new_identification = known.identification;
        } else if parsed.has_ports {
            let fragments = Fragments {
                seen_ns: now,
                local_port: parsed.tuple.local_port,
                remote_port: parsed.tuple.remote_port,
                identification: helpers::random() & 0xffff,
            };
            parsed.new_identification = fragments.identification;
            maps::add_fragments(&key, &fragments);
        }
        return GO_ON;
    }
    let turns = turns(packet);
    match known {
        Some(first) => {
            parsed.tuple.local_port = first.local_port;
            parsed.tuple.remote_port = first.remote_port;
            parsed.new_identification = first.identification;
            parsed.has_ports = true;
            set_turns(packet, 0, 0);
            GO_ON
        }
        None if turns < MOST_TURNS => turns + 1,
        None => HOPELESS,
    }
}

/// To the waiting room.
#[inline(always)]
fn wait(packet: &Packet, turns: u32) -> Outcome<Option<Verdict>> {
    let room = maps::settings().map_or(0, |settings| settings.waiting_room);
    if room == 0 {
        return Err(DropReason::Fragment);
    }
    set_turns(packet, packet.device(), RETURNED | turns);
    Ok(Some(Verdict::Redirect(Path::FragmentWaits, helpers::redirect(room, 0))))
}

/// From the waiting room back to the device that the packet came in by.
#[inline(always)]
pub fn give_back(packet: &Packet) -> Outcome<Verdict> {
    let device = packet.mark();
    if turns(packet) == 0 || maps::device(device).is_none() {
        return Err(DropReason::UnknownDevice);
    }
    Ok(Verdict::Silent(helpers::redirect(device, helpers::REDIRECT_INGRESS)))
}

#[inline(always)]
fn turns(packet: &Packet) -> u32 {
    let priority = packet.priority();
    if priority & 0xffff_ff00 == RETURNED { priority & 0xff } else { 0 }
}

/// The two fields that a packet keeps on its way through the waiting room.
#[inline(always)]
fn set_turns(packet: &Packet, device: u32, turns: u32) {
    // SAFETY: both may be written by this program type.
    unsafe {
        (*packet.skb).mark = device;
        (*packet.skb).priority = turns;
    }
}
