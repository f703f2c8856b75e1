//! Flow records for people.

use dataplane_common::{
    abi::{Flow, FlowKind, Tuple},
    flow::State,
};
use nix::time::{ClockId, clock_gettime};

use super::FlowView;
use crate::dataplane::Flows;

const NANOSECONDS: u64 = 1_000_000_000;

/// All flows, confirmed ones first, each half ordered by its ends.
pub fn flows(flows: &Flows) -> Vec<FlowView> {
    // The programs' clock; without it everything would only look old.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * NANOSECONDS + time.tv_nsec() as u64);
    let mut views: Vec<FlowView> =
        flows.confirmed.iter().map(|(inside, flow)| view(inside, flow, true, now)).collect();
    // A record may be in both while it is confirmed.
    let unconfirmed = flows.unconfirmed.iter().filter(|(inside, _)| !flows.confirmed.contains_key(inside));
    views.extend(unconfirmed.map(|(inside, flow)| view(inside, flow, false, now)));
    views.sort_by(|a, b| {
        let key = |view: &FlowView| {
            (view.state == "unconfirmed", view.container_address, view.container_port, view.remote_address)
        };
        key(a).cmp(&key(b)).then(a.remote_port.cmp(&b.remote_port))
    });
    views
}

fn view(inside: &Tuple, flow: &Flow, confirmed: bool, now: u64) -> FlowView {
    let state = match (confirmed, State(flow.state).closed()) {
        (false, _) => "unconfirmed",
        (true, false) => "established",
        (true, true) => "closing",
    };
    let kind = match flow.kind {
        FlowKind::MASQUERADE => "masquerade",
        FlowKind::PORTMAP => "portmap",
        FlowKind::HAIRPIN => "hairpin",
        FlowKind::TURN_BACK => "turn_back",
        FlowKind::ROUTED => "routed",
        _ => "unknown",
    };
    let protocol = match i32::from(inside.protocol) {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        libc::IPPROTO_ICMP => "icmp".to_owned(),
        libc::IPPROTO_ICMPV6 => "icmpv6".to_owned(),
        libc::IPPROTO_SCTP => "sctp".to_owned(),
        number => number.to_string(),
    };
    FlowView {
        protocol,
        kind: kind.to_owned(),
        state: state.to_owned(),
        container_address: inside.local.into(),
        container_port: inside.local_port,
        remote_address: inside.remote.into(),
        remote_port: inside.remote_port,
        external_address: flow.outside.local.into(),
        external_port: flow.outside.local_port,
        network: flow.network,
        idle_seconds: now.saturating_sub(flow.last_seen_ns) / NANOSECONDS,
        age_seconds: now.saturating_sub(flow.created_ns) / NANOSECONDS,
    }
}
