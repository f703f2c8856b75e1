//! Datagrams in pieces: only the first fragment has ports, so what it says is remembered for the later ones.
//!
//! A fragment that comes before the first of its datagram is sent to the waiting room, a device whose queue gives it
//! back to where it came from a little later, again and again until the first has come or the time is up. That is
//! bounded in memory by the queue, in work by its rate, and in time; there is no reassembly, and nothing of a later
//! fragment is ever written but its IP header.

use core::hint::cold_path;

use dataplane_common::{
    abi::{Address, DropReason, FragmentKey, Fragments, Path},
    packet::protocol,
};

use crate::{
    helpers, maps,
    packet::Packet,
    parse::{Fragment, Parsed, Side},
    verdict::{Outcome, Verdict},
};

/// How long the ports of a datagram are believed. Identifications come again, after 65,536 datagrams at the latest.
const VALID_NS: u64 = 2_000_000_000;
/// How long a fragment waits for the first, in units of 2^[`UNIT_SHIFT`] ns: 67 ms. Senders that give
/// the last fragment first need less than one millisecond, paths of different lengths some more.
const WAIT_UNITS: u32 = 64;
/// A unit is 1.05 ms.
const UNIT_SHIFT: u32 = 20;
/// Marks a packet that waits; the rest of the 16 bits is the time until which, in units.
const WAITS: u32 = 0x8000;
const TIME_MASK: u32 = WAITS - 1;

/// Completes what was parsed: ports for a later fragment. `Some`: the packet's way ends here for now.
#[inline(always)]
pub fn complete(packet: &Packet, parsed: &mut Parsed) -> Outcome<Option<Verdict>> {
    if parsed.fragment() == Fragment::Whole || !is_translated(parsed.tuple.protocol) {
        return Ok(None);
    }
    cold_path();
    match recall(*packet, parsed) {
        GO_ON => Ok(None),
        HOPELESS => Err(DropReason::Fragment),
        until => wait(packet, until),
    }
}

/// Whether first fragments of this protocol may have ports. No other protocol is in a flow.
#[inline(always)]
fn is_translated(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6)
}

/// The fragment's way goes on: as one of a known datagram or as a first.
const GO_ON: u32 = 0;
/// It has waited long enough.
const HOPELESS: u32 = u32::MAX;

/// [`GO_ON`], [`HOPELESS`], or what to write into `tc_index` of a fragment that waits.
#[inline(never)]
fn recall(packet: Packet, parsed: &mut Parsed) -> u32 {
    let packet = &packet;
    let local = parsed.local();
    let mut key = FragmentKey {
        source: if local == Side::Source { parsed.tuple.local } else { parsed.tuple.remote },
        destination: if local == Side::Source { parsed.tuple.remote } else { parsed.tuple.local },
        identification: parsed.identification,
        protocol: parsed.tuple.protocol,
        kind: FragmentKey::DATAGRAM,
        reserved: [0; 2],
    };
    let now = helpers::now_ns();
    let known = maps::fragments(&key).filter(|known| now.wrapping_sub(known.seen_ns) < VALID_NS);
    if parsed.fragment() == Fragment::First {
        if let Some(known) = known
            && known.local_port == parsed.tuple.local_port
            && known.remote_port == parsed.tuple.remote_port
            && known.has_ports == u16::from(parsed.has_ports)
        {
            // The same fragment once more: its siblings have the identification that the first copy was given.
            parsed.new_identification = u32::from(known.identification);
        } else {
            let fragments = Fragments {
                seen_ns: now,
                local_port: parsed.tuple.local_port,
                remote_port: parsed.tuple.remote_port,
                identification: if local == Side::Source && !parsed.is_v6 {
                    new_identification(&mut key, now)
                } else {
                    0
                },
                has_ports: u16::from(parsed.has_ports),
            };
            parsed.new_identification = u32::from(fragments.identification);
            maps::add_fragments(&key, &fragments);
        }
        return GO_ON;
    }
    let waits = waiting(packet);
    if let Some(first) = known {
        parsed.tuple.local_port = first.local_port;
        parsed.tuple.remote_port = first.remote_port;
        parsed.new_identification = u32::from(first.identification);
        parsed.has_ports = first.has_ports != 0;
        if waits.is_some() {
            note(packet, 0, 0);
        }
        return GO_ON;
    }
    let unit = (now >> UNIT_SHIFT) as u32;
    match waits {
        None => WAITS | (unit.wrapping_add(WAIT_UNITS) & TIME_MASK),
        Some(until) if until.wrapping_sub(unit).wrapping_sub(1) & TIME_MASK < WAIT_UNITS => WAITS | until,
        Some(_) => {
            note(packet, 0, 0);
            HOPELESS
        }
    }
}

/// The identification that a datagram leaves with: one that nobody can guess (RFC 7739), and that no other has had to this
/// destination while its entry lasts. By chance alone one of 65,536 would be completed with pieces of the one before it, for
/// which its receiver waits up to half a minute (RFC 6864 section 4.3, RFC 4963). `key` is as it was afterwards.
#[inline(always)]
fn new_identification(key: &mut FragmentKey, now: u64) -> u16 {
    let (source, identification) = (key.source, key.identification);
    key.source = Address::UNSPECIFIED;
    key.kind = FragmentKey::IDENTIFICATION;
    let (mut attempt, mut new) = (0, 0);
    // With 4,000 of them remembered, four attempts meet one each once in 65,536 datagrams.
    while attempt < 4 {
        new = helpers::random() as u16;
        key.identification = u32::from(new);
        if maps::take_identification(key, now) {
            break;
        }
        attempt += 1;
    }
    key.source = source;
    key.identification = identification;
    key.kind = FragmentKey::DATAGRAM;
    new
}

/// To the waiting room.
#[inline(always)]
fn wait(packet: &Packet, until: u32) -> Outcome<Option<Verdict>> {
    let room = maps::settings().map_or(0, |settings| settings.waiting_room);
    if room == 0 {
        return Err(DropReason::Fragment);
    }
    let again = waiting(packet).is_some();
    note(packet, packet.device(), until);
    let action = helpers::redirect(room, 0);
    // Counted once, however often it comes back.
    Ok(Some(if again { Verdict::Silent(action) } else { Verdict::Redirect(Path::FragmentWaits, action) }))
}

/// From the waiting room back to the device that the packet came in by.
#[inline(always)]
pub fn give_back(packet: &Packet) -> Outcome<Verdict> {
    let device = packet.mark();
    if packet.tc_index() & WAITS == 0 || maps::device(device).is_none() {
        return Err(DropReason::UnknownDevice);
    }
    Ok(Verdict::Silent(helpers::redirect(device, helpers::REDIRECT_INGRESS)))
}

/// The time until which a packet waits that has been in the waiting room.
///
/// A container can write `tc_index` with a program of its own; the mark it cannot, for the kernel clears that on the way
/// between two namespaces (skb_scrub_packet).
#[inline(always)]
fn waiting(packet: &Packet) -> Option<u32> {
    let index = packet.tc_index();
    (packet.mark() == packet.device() && index & WAITS != 0).then_some(index & TIME_MASK)
}

/// Writes what a packet carries through the waiting room. These two fields outlast a veth in one namespace; of the
/// others that a program may write, `priority` does not (____dev_forward_skb), nor does `cb`.
#[inline(always)]
fn note(packet: &Packet, device: u32, until: u32) {
    // SAFETY: both may be written by this program type.
    unsafe {
        (*packet.skb).mark = device;
        (*packet.skb).tc_index = until;
    }
}
