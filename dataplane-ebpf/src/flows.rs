//! Flow records: found by either tuple, kept alive by packets, opened once.

use core::hint::cold_path;

use dataplane_common::{
    abi::{DropReason, Flow, FlowKind, Index, NextHop, Tuple},
    flow::{Direction, State, substitute_port},
    packet::{protocol, tcp_flags},
};

use crate::{
    clock, external_port, helpers, maps,
    parse::{Fragment, Parsed},
    verdict::Outcome,
};

/// Writing the time of each packet would make both ends' CPUs fight for the cache line. A record may have seen a packet so
/// much later than it says.
pub const TOUCH_INTERVAL_NS: u64 = 1_000_000_000;

/// Finds the record of a packet from the container and takes note of the packet.
#[inline(always)]
pub fn find_inside<'a>(inside: &Tuple, parsed: &Parsed, epoch: u32) -> Option<&'a mut Flow> {
    find(inside, parsed, Direction::FromInside, |flow| flow.epoch == epoch)
}

/// Finds the inside tuple and record of a packet from the other end, and takes note of the packet. On the wire a container's
/// address proves nothing: what comes from there is of no flow between containers of this host, and does not end one.
#[inline(always)]
pub fn find_outside<'a>(parsed: &Parsed, from_wire: bool) -> Option<(&'a Tuple, &'a Flow)> {
    // Without ports the tuple says 0, which is a valid identifier of an ICMP query.
    if !parsed.has_ports {
        return None;
    }
    let index = maps::index(&parsed.tuple)?;
    // The container's end may have been opened anew under another outside tuple.
    let flow = find(&index.inside, parsed, Direction::FromOutside, |flow| {
        flow.outside == parsed.tuple
            && !(from_wire && matches!(flow.kind, FlowKind::HAIRPIN | FlowKind::TURN_BACK))
    })?;
    Some((&index.inside, flow))
}

/// The record of an inside tuple, whoever asks: no packet of the flow.
#[inline(always)]
pub fn peek_inside<'a>(inside: &Tuple) -> Option<&'a Flow> {
    let record = maps::flow(inside).or_else(|| maps::unconfirmed_flow(inside))?;
    // SAFETY: as in `find`.
    Some(unsafe { &*record })
}

/// The inside tuple and record of an outside tuple.
#[inline(always)]
pub fn peek_outside<'a>(outside: &Tuple) -> Option<(&'a Tuple, &'a Flow)> {
    let index = maps::index(outside)?;
    let flow = peek_inside(&index.inside)?;
    if flow.outside != *outside {
        return None;
    }
    Some((&index.inside, flow))
}

/// As [`find_outside`], for a packet that has not been to the world: the tuple it would come back with.
#[inline(always)]
pub fn find_turned_back<'a>(outside: &Tuple, parsed: &Parsed) -> Option<(&'a Tuple, &'a Flow)> {
    let index = maps::index(outside)?;
    let flow = find(&index.inside, parsed, Direction::FromOutside, |flow| flow.outside == *outside)?;
    Some((&index.inside, flow))
}

/// A packet that does not belong to the flow leaves it as it is.
#[inline(always)]
fn find<'a>(
    inside: &Tuple,
    parsed: &Parsed,
    direction: Direction,
    belongs: impl Fn(&Flow) -> bool,
) -> Option<&'a mut Flow> {
    if !parsed.has_ports {
        return None;
    }
    if let Some(record) = maps::flow(inside) {
        // SAFETY: a map value; both directions write single fields of it, see `State`.
        let flow = unsafe { &mut *record };
        if !belongs(flow) {
            return None;
        }
        touch(flow, parsed, direction);
        return Some(flow);
    }
    cold_path();
    // SAFETY: as above.
    let flow = unsafe { &mut *maps::unconfirmed_flow(inside)? };
    if !belongs(flow) {
        return None;
    }
    touch(flow, parsed, direction);
    // Whoever is asked whether he is there answers: invented sources would fill the table. An answer comes at once or never.
    let stays = State(flow.state).confirmed() && !parsed.is_remote_query();
    if stays && maps::add_flow(inside, flow).is_ok() {
        // The record in `flows` is found first from now on. Where the table is full the flow stays unconfirmed: it
        // works, but may be evicted.
        maps::remove_unconfirmed_flow(inside);
        // What was removed may be another flow's at once.
        // SAFETY: as above.
        return Some(unsafe { &mut *maps::flow(inside)? });
    }
    Some(flow)
}

/// Takes note of a packet of the flow.
#[inline(always)]
pub fn touch(flow: &mut Flow, parsed: &Parsed, direction: Direction) {
    let state = State(flow.state).after(direction, parsed.tuple.protocol, parsed.tcp_flags);
    if state.0 != flow.state {
        flow.state = state.0;
    } else if parsed.tcp_flags & tcp_flags::RST != 0 {
        // The first RST begins the wait for what goes on after it, those that repeat it do not begin it again (RFC 7857
        // section 7.1).
        return;
    }
    let now = clock::now_ns();
    if now.wrapping_sub(flow.last_seen_ns) > TOUCH_INTERVAL_NS {
        flow.last_seen_ns = now;
    }
}

/// Whether a packet may open a flow. A TCP connection whose record was lost may go on: netfilter is as lenient
/// (`nf_conntrack_tcp_loose`), and the far end's RST ends what is really dead.
#[inline(always)]
pub fn may_open(parsed: &Parsed) -> Outcome<()> {
    if parsed.is_icmp_error {
        return Err(DropReason::UnrelatedIcmp);
    }
    if !parsed.has_ports {
        return Err(DropReason::UnsupportedProtocol);
    }
    if parsed.fragment() == Fragment::Later {
        // Its first fragment was refused, or the flow has ended since.
        return Err(DropReason::Fragment);
    }
    if parsed.tuple.protocol == protocol::TCP && parsed.tcp_flags & tcp_flags::RST != 0 {
        return Err(DropReason::NoFlow);
    }
    if parsed.tuple.remote.is_unspecified() {
        // Its flow would look like a claim.
        return Err(DropReason::SpoofedAddress);
    }
    // Before anything is entered: a packet that ends here leaves nothing behind.
    if parsed.hop_limit <= 1 {
        return Err(DropReason::TimeToLive);
    }
    Ok(())
}

/// As [`may_open`], for what a container sends: an answer to a query that nobody has made opens nothing.
#[inline(always)]
pub fn may_open_from_inside(parsed: &Parsed) -> Outcome<()> {
    if parsed.is_remote_query() {
        return Err(DropReason::UnsupportedProtocol);
    }
    may_open(parsed)
}

/// Sees to it that the container can tell this flow from all others: a client may use one port of its own for two
/// published ports that lead to the same one. The later flow then gets another port, as with netfilter.
#[inline(always)]
pub fn distinguish(inside: &mut Tuple, flow: &Flow) -> Outcome<()> {
    let mut attempt = 0;
    while attempt < 8 {
        if !is_taken(inside, flow) {
            return Ok(());
        }
        inside.remote_port = substitute_port::at_random(helpers::random());
        attempt += 1;
    }
    Err(DropReason::PortsExhausted)
}

/// Whether another flow that still runs has this tuple.
#[inline(always)]
fn is_taken(inside: &Tuple, flow: &Flow) -> bool {
    let Some(other) = peek_inside(inside) else { return false };
    other.epoch == flow.epoch && other.outside != flow.outside && !State(other.state).closed()
}

/// Begins a record: what is not set here differs with the one who opens the flow.
#[inline(always)]
pub fn begin(flow: &mut Flow, kind: u8, uplink: u32) {
    let now = helpers::now_ns();
    flow.last_seen_ns = now;
    flow.created_ns = now;
    flow.uplink = uplink;
    flow.remote_network = 0;
    flow.remote_epoch = 0;
    flow.kind = kind;
    flow.reserved = [0; 2];
    flow.next_hop = NextHop::UNKNOWN;
}

/// Enters a new flow. The record comes first, so that whoever sees the index entry finds the record.
///
/// Answers whether the index entry is new; an old one has been counted with its mapping already.
#[inline(always)]
pub fn open(inside: &Tuple, flow: &Flow, index: &Index) -> Outcome<bool> {
    // The record of an earlier container or connection would be found first, and be stale forever.
    maps::remove_flow(inside);
    if maps::add_unconfirmed_flow(inside, flow).is_err() {
        return Err(DropReason::FlowTableFull);
    }
    if maps::claim(&flow.outside, index).is_ok() {
        return Ok(true);
    }
    let Some(existing) = maps::index(&flow.outside) else {
        maps::remove_unconfirmed_flow(inside);
        return Err(DropReason::FlowTableFull);
    };
    if existing.inside == *inside {
        // Left by a record that was evicted, or made by another CPU for the same flow just now.
        if existing.uses_mapping == index.uses_mapping {
            return Ok(false);
        }
    } else if peek_inside(&existing.inside).is_some_and(|other| other.outside == flow.outside) {
        maps::remove_unconfirmed_flow(inside);
        return Err(DropReason::PortsExhausted);
    }
    // It leads nowhere any more: the record was evicted, or is another flow's by now.
    let nowhere = *existing;
    remove_index(&flow.outside, &nowhere);
    if maps::claim(&flow.outside, index).is_err() {
        maps::remove_unconfirmed_flow(inside);
        return Err(DropReason::FlowTableFull);
    }
    Ok(true)
}

/// Removes a flow whose container has gone, so that its tuples are free for the next packet.
#[inline(always)]
pub fn forget(outside: &Tuple) {
    let (Some(index), Some(scratch)) = (maps::index(outside), maps::scratch()) else { return };
    scratch.index = *index;
    // The index goes first: one without a record heals by the next packet, a record without an index would be found
    // by the container's packets only, and never expire.
    remove_index(outside, &scratch.index);
    if !maps::remove_flow(&scratch.index.inside) {
        maps::remove_unconfirmed_flow(&scratch.index.inside);
    }
}

/// Removes an index entry, and takes its flow out of the mapping that counts it. Answers whether it was there. `index` is a
/// copy: the map's may be another flow's as soon as it is removed.
#[inline(always)]
pub fn remove_index(outside: &Tuple, index: &Index) -> bool {
    let removed = maps::remove_index(outside);
    if removed && index.uses_mapping != 0 {
        external_port::release_mapping(outside, &index.inside);
    }
    removed
}
