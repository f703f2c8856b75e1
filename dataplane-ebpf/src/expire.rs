//! Removal of flow records, the only place that does it in bulk.
//!
//! The controller runs this program once a second. It walks the index, so that it finds records, claims and whatever a
//! lost record left behind in one pass; nothing is decided in userspace, where the answer would be old when it comes.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use dataplane_common::{
    abi::{DeviceRole, Flow, FlowKind, Index, Settings, Tuple, flags, program},
    flow::State,
};

use crate::{atomic, external_port, flows, helpers, maps, packet::Packet, routed};

/// What a walk is told, and what it counts.
#[repr(C)]
struct Walk {
    /// How long a port is held after its last flow.
    hold_ns: u64,
    /// Index entries that were removed.
    removed: u64,
}

/// Answers how many index entries were removed. The controller's mark says that a table was full since the last run: then
/// no port is held. What held ports take is room for new flows, and the hold time only a courtesy (RFC 6888 REQ-8 C).
#[inline(always)]
pub fn run(packet: &Packet) -> i32 {
    let Some(settings) = maps::settings() else { return 0 };
    let hold_ns = if packet.mark() == program::EXPIRE_HELD_PORTS { 0 } else { settings.port_hold_ns };
    let mut walk = Walk { hold_ns, removed: 0 };
    // SAFETY: the callback has the signature the kernel asks for, and its context outlives the call.
    unsafe {
        bpf_for_each_map_elem(maps::ports_map(), visit as *mut c_void, (&raw mut walk).cast(), 0);
    }
    walk.removed as i32
}

/// One index entry. Answers 0: go on.
unsafe extern "C" fn visit(
    _map: *mut c_void,
    key: *const Tuple,
    value: *const Index,
    walk: *mut Walk,
) -> u64 {
    // SAFETY: the kernel hands valid pointers to this callback. Copied, since removing frees them.
    let (outside, index) = unsafe { (*key, *value) };
    let inside = index.inside;
    let Some(settings) = maps::settings() else { return 1 };
    let gone = if outside.is_claim() {
        // SAFETY: what `run` has given.
        claim_ended(&outside, &inside, unsafe { (*walk).hold_ns })
    } else if outside.is_address_claim() {
        address_claim_ended(&outside, &inside)
    } else {
        flow_ended(&outside, &index, settings)
    };
    if gone {
        // SAFETY: as above.
        unsafe { (*walk).removed += 1 };
    }
    0
}

/// A claim ends when no flow has used its mapping for the hold time.
#[inline(always)]
fn claim_ended(outside: &Tuple, inside: &Tuple, hold_ns: u64) -> bool {
    let key = external_port::mapping_key(inside, &outside.local);
    let Some(mapping) = maps::mapping(&key) else { return maps::remove_index(outside) };
    // SAFETY: a map value.
    let (last_used, flows, port) = unsafe { ((*mapping).last_used_ns, (*mapping).flows, (*mapping).port) };
    if port != outside.local_port {
        return maps::remove_index(outside);
    }
    if flows != 0 || helpers::now_ns().wrapping_sub(last_used) < hold_ns {
        return false;
    }
    maps::remove_mapping(&key);
    maps::remove_index(outside)
}

/// What a socket was allowed to hear ends with its last flow.
#[inline(always)]
fn address_claim_ended(outside: &Tuple, inside: &Tuple) -> bool {
    let mapping = maps::mapping(&external_port::mapping_key(inside, &outside.local));
    // SAFETY: a map value.
    let in_use = mapping.is_some_and(|mapping| unsafe { (*mapping).flows } != 0);
    !in_use && maps::remove_index(outside)
}

/// A flow ends when it has been silent too long, or when its container, host address or publication has gone.
#[inline(always)]
fn flow_ended(outside: &Tuple, index: &Index, settings: &Settings) -> bool {
    let inside = &index.inside;
    let (record, confirmed) = match maps::flow(inside) {
        Some(record) => (record, true),
        None => match maps::unconfirmed_flow(inside) {
            Some(record) => (record, false),
            None => {
                // The record was evicted from `unconfirmed`.
                return flows::remove_index(outside, index);
            }
        },
    };
    // SAFETY: a map value.
    let flow = unsafe { &*record };
    if flow.outside != *outside {
        // The container's end has been opened anew under another external tuple.
        return flows::remove_index(outside, index);
    }
    let seen = flow.last_seen_ns;
    let timeout = State(flow.state).timeout_ns(inside.protocol, settings) + flows::TOUCH_INTERVAL_NS;
    if helpers::now_ns().wrapping_sub(seen) < timeout && !orphaned(inside, flow) {
        return false;
    }
    // A packet may be using the record at this very moment: only if none has come since `seen` may it go.
    // SAFETY: a map value, and the field is aligned.
    if !unsafe { atomic::replace(&raw mut (*record).last_seen_ns, seen, 0) } {
        return false;
    }
    // The index goes first, see `flows::forget`.
    let removed = flows::remove_index(outside, index);
    if confirmed {
        maps::remove_flow(inside)
    } else {
        maps::remove_unconfirmed_flow(inside)
    };
    removed
}

/// Whether the flow has lost what it stands on.
#[inline(always)]
fn orphaned(inside: &Tuple, flow: &Flow) -> bool {
    let policy = match maps::endpoint(flow.network, &inside.local) {
        Some(endpoint) if endpoint.epoch == flow.epoch => endpoint.flags,
        _ => return true,
    };
    // Through a device that is no uplink any more nothing is sent or heard.
    let is_uplink = |ifindex| maps::device(ifindex).is_some_and(|device| device.role == DeviceRole::UPLINK);
    if !matches!(flow.kind, FlowKind::HAIRPIN | FlowKind::TURN_BACK) && !is_uplink(flow.uplink) {
        return true;
    }
    let is_v6 = !inside.local.is_v4();
    // Where others know the container by its own address both tuples have that.
    let by_own_address = flow.outside.local == inside.local;
    if by_own_address && !flags::knows_members(policy, is_v6) {
        return true;
    }
    if !by_own_address && !maps::is_host_address(&flow.outside.local) {
        return true;
    }
    if flow.kind == FlowKind::ROUTED {
        return policy & flags::INTERNAL != 0 || !flags::routes(policy, is_v6);
    }
    if FlowKind::is_masqueraded(flow.kind) {
        return !flags::masquerades(policy, is_v6);
    }
    if flow.kind == FlowKind::HAIRPIN
        && maps::endpoint(flow.remote_network, &flow.outside.remote)
            .is_none_or(|client| client.epoch != flow.remote_epoch || client.flags & flags::INTERNAL != 0)
    {
        return true;
    }
    if by_own_address && routed::is_open(policy, inside.protocol, is_v6) {
        return false;
    }
    let (protocol, local, port) = (inside.protocol, &flow.outside.local, flow.outside.local_port);
    let publication = if by_own_address {
        maps::publication_of(protocol, local, port)
    } else {
        maps::publication(protocol, local, port)
    };
    match publication {
        Some(publication) => {
            publication.address != inside.local
                || publication.container_port(flow.outside.local_port) != inside.local_port
        }
        None => true,
    }
}
