//! The external ports of internal sockets: found, claimed, held and given back.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    abi::{Address, DropReason, Index, Mapping, MappingKey, PortSet, Settings, Tuple},
    packet::protocol,
};

use crate::{atomic, helpers, maps, packet::Packet, verdict::Outcome};

/// Ports tried for a socket. Where 95 of 100 are taken, one search in 700 fails, and goes on with ports that are shared.
const ATTEMPTS: u32 = 128;
/// Ports tried for one remote end. Where 99 of 100 are taken, one search in 170 fails.
const OVERLAPPING_ATTEMPTS: u32 = 512;

/// The external port of an internal socket: the one it has, or a new one (RFC 4787 REQ-1, RFC 5382 REQ-1).
#[inline(always)]
pub fn of_socket(
    packet: Packet,
    inside: &Tuple,
    external: &Address,
    settings: &Settings,
    epoch: u32,
    now: u64,
) -> Outcome<u16> {
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    scratch.mapping_key = mapping_key(inside, external);
    if let Some(port) = use_mapping(&scratch.mapping_key, epoch, now) {
        return Ok(port);
    }
    let port = claim_port(packet, inside, external, settings)?;
    scratch.mapping = Mapping { last_used_ns: now, flows: 1, epoch, port, reserved: [0; 6] };
    if maps::add_mapping(&scratch.mapping_key, &scratch.mapping).is_ok() {
        // Expiry may have met the claim before the mapping was there, and taken it for a left-over.
        if maps::index(&scratch.claim).is_none() {
            let _ = maps::claim(&scratch.claim, &scratch.claimant);
        }
        return Ok(port);
    }
    // Another CPU was faster for the same socket, or the table is full: the claim goes back either way.
    maps::remove_index(&scratch.claim);
    use_mapping(&scratch.mapping_key, epoch, now).ok_or(DropReason::FlowTableFull)
}

#[inline(always)]
pub fn use_mapping(key: &MappingKey, epoch: u32, now: u64) -> Option<u16> {
    let mapping = maps::mapping(key)?;
    // SAFETY: a map value; a time written by two CPUs at once is right either way.
    unsafe {
        atomic::add(&raw mut (*mapping).flows, 1);
        (*mapping).last_used_ns = now;
        (*mapping).epoch = epoch;
        Some((*mapping).port)
    }
}

/// A search for an external port: what it looks at, and what it has found.
#[repr(C)]
pub struct Search {
    /// Number of ports in the pool.
    count: u32,
    /// First of them.
    first: u16,
    /// The port that the container uses itself.
    own: u16,
    /// The one found.
    port: u16,
    outcome: u16,
}

const NONE_FOUND: u16 = 0;
const FOUND: u16 = 1;
const TABLE_FULL: u16 = 2;

impl Search {
    /// The port of an attempt: the container's own, then random ones (RFC 6056 section 3.3.1).
    #[inline(always)]
    fn port(&self, attempt: u32) -> u16 {
        if attempt == 0 {
            return self.own;
        }
        // Scaling a random 16-bit number needs no division.
        self.first.wrapping_add((((helpers::random() & 0xffff) * self.count) >> 16) as u16)
    }

    /// SCTP keeps its port also outside the pool: what leaves in fragments can only do so with it.
    #[inline(always)]
    fn is_free(&self, port: u16, protocol: u8) -> bool {
        let in_pool = (port.wrapping_sub(self.first) as u32) < self.count;
        let is_kept = protocol == protocol::SCTP && port == self.own && port != 0;
        (in_pool || is_kept) && !is_reserved(protocol, port)
    }
}

/// Claims a port that nobody has: the container's own if it lies in the pool, else random ones.
#[inline(always)]
fn claim_port(packet: Packet, inside: &Tuple, external: &Address, settings: &Settings) -> Outcome<u16> {
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    scratch.claimant = Index::of(inside.claim());
    scratch.claim = scratch.claimant.inside;
    scratch.claim.local = *external;
    // An ICMP identifier is no port: nobody else on this host uses the number space.
    let (first, last) = match inside.protocol {
        protocol::ICMP | protocol::ICMPV6 => (0, u16::MAX),
        _ => (settings.first_port, settings.last_port),
    };
    scratch.search = Search {
        count: u32::from(last.wrapping_sub(first)) + 1,
        first,
        own: inside.local_port,
        port: 0,
        outcome: NONE_FOUND,
    };
    helpers::repeat(ATTEMPTS, packet.skb, try_claim);
    match scratch.search.outcome {
        FOUND => Ok(scratch.search.port),
        TABLE_FULL => Err(DropReason::FlowTableFull),
        _ => Err(DropReason::PortsExhausted),
    }
}

/// One attempt at a claim. Answers 1 to end the search.
unsafe extern "C" fn try_claim(attempt: u32, skb: *const *mut __sk_buff) -> u64 {
    let Some(scratch) = maps::scratch() else { return 1 };
    let port = scratch.search.port(attempt);
    if !scratch.search.is_free(port, scratch.claim.protocol) {
        return 0;
    }
    scratch.claim.local_port = port;
    scratch.search.outcome = match maps::claim(&scratch.claim, &scratch.claimant) {
        // SAFETY: what `repeat` was given.
        Ok(()) if is_bound(unsafe { *skb }, port) => {
            maps::remove_index(&scratch.claim);
            return 0;
        }
        Ok(()) => FOUND,
        Err(maps::EXISTS) => return 0,
        Err(_) => TABLE_FULL,
    };
    scratch.search.port = port;
    1
}

/// A port for this remote end only, when no socket can have one for itself any more: many flows then share a port, each
/// to another remote end (port overlapping, RFC 7857 section 3).
#[inline(always)]
pub fn overlapping(packet: Packet, inside: &Tuple, external: &Address) -> Outcome<u16> {
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    if protocol::is_icmp(inside.protocol) {
        return Err(DropReason::PortsExhausted);
    }
    scratch.claim = *inside;
    scratch.claim.local = *external;
    scratch.search.outcome = NONE_FOUND;
    helpers::repeat(OVERLAPPING_ATTEMPTS, packet.skb, try_overlap);
    match scratch.search.outcome {
        FOUND => Ok(scratch.search.port),
        _ => Err(DropReason::PortsExhausted),
    }
}

/// One attempt at a port that has no flow to this remote end. The claim is made when the flow is entered.
unsafe extern "C" fn try_overlap(attempt: u32, skb: *const *mut __sk_buff) -> u64 {
    let Some(scratch) = maps::scratch() else { return 1 };
    let port = scratch.search.port(attempt);
    scratch.claim.local_port = port;
    if !scratch.search.is_free(port, scratch.claim.protocol)
        || maps::index(&scratch.claim).is_some()
        // SAFETY: what `repeat` was given.
        || is_bound(unsafe { *skb }, port)
    {
        return 0;
    }
    scratch.search.port = port;
    scratch.search.outcome = FOUND;
    1
}

/// Whether a socket of the host has the port since the controller last looked, see [`PortSet::RESERVED_TCP`].
#[inline(always)]
fn is_bound(skb: *mut __sk_buff, port: u16) -> bool {
    let Some(scratch) = maps::scratch() else { return true };
    scratch.flow.outside.local_port = port;
    helpers::has_socket(skb.cast(), &scratch.flow.outside)
}

#[inline(always)]
fn is_reserved(protocol: u8, port: u16) -> bool {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            maps::port_set_contains(PortSet::reserved(protocol), port)
        }
        _ => false,
    }
}

/// The key of the mapping that a socket has at this address of the host.
#[inline(always)]
pub fn mapping_key(inside: &Tuple, external: &Address) -> MappingKey {
    MappingKey {
        internal: inside.local,
        external: *external,
        port: inside.local_port,
        protocol: inside.protocol,
        reserved: 0,
    }
}

/// One flow less uses the mapping; its hold time begins with the last.
#[inline(always)]
pub fn release_mapping(outside: &Tuple, inside: &Tuple) {
    let Some(mapping) = maps::mapping(&mapping_key(inside, &outside.local)) else { return };
    // SAFETY: a map value.
    unsafe {
        if (*mapping).port != outside.local_port || (*mapping).flows == 0 {
            return;
        }
        (*mapping).last_used_ns = helpers::now_ns();
        atomic::add(&raw mut (*mapping).flows, u32::MAX);
    }
}
