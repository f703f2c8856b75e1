//! The standing differences between weft and the kernel: each is wanted, and listed in docs/differences.md.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    comparison::Difference,
    description::{Action, Address, Place, Topology},
};

/// A difference that is wanted.
#[derive(Debug)]
pub struct Rule {
    /// As in the document.
    pub name: &'static str,
    /// Why it is wanted.
    pub reason: &'static str,
    /// Whether it covers a difference.
    pub covers: fn(&Topology, &Action, &Difference) -> bool,
    applied: AtomicU64,
}

/// All rules.
pub static RULES: [Rule; 4] = [
    Rule {
        name: "external-ports",
        reason: "weft chooses a random external port out of a pool that the host's own sockets never use, so that it can \
             keep one mapping for each internal socket (RFC 4787 REQ-1) and is not guessed (RFC 6056); netfilter keeps \
             the container's port where it is free",
        covers: |_, action, it| {
            // Either side may be the one that changes it: netfilter does where two flows of a socket would be one for the
            // server. A client's port outside is nobody's to choose.
            it.fact == "source port" && matches!(action.from(), Place::Container(_))
        },
        applied: AtomicU64::new(0),
    },
    Rule {
        name: "gateways-from-outside",
        reason: "what a container network has as source address, its gateway's included, never leaves by an uplink (the \
             safety net `to_uplink`); the kernel answers for every address that a host has, on every device",
        covers: |_, action, it| {
            let to_gateway = |datagram: Option<usize>| match action {
                Action::Tcp { to, .. } => matches!(to.address, Address::Gateway(_)),
                Action::Udp { to, .. } => to
                    .get(datagram.unwrap_or(0))
                    .is_some_and(|(to, _)| matches!(to.address, Address::Gateway(_))),
                Action::Ping { to, .. } => matches!(to, Address::Gateway(_)),
            };
            action.from() == Place::Client && to_gateway(it.datagram) && lost(it)
        },
        applied: AtomicU64::new(0),
    },
    Rule {
        name: "two-names",
        reason: "a UDP socket of the host is led to the container, and sees in `recvmsg` the last name that it used for it; \
             netfilter keeps one connection for each name",
        covers: |topology, action, it| {
            let (Action::Udp { from: Place::Host(host), to, .. }, Some(datagram)) = (action, it.datagram)
            else {
                return false;
            };
            let server = |index: usize| topology.served_by(*host, to[index].0);
            matches!(it.fact.as_str(), "answer from" | "source port")
                && server(datagram).is_some()
                && (0..to.len()).any(|other| other != datagram && server(other) == server(datagram))
        },
        applied: AtomicU64::new(0),
    },
    Rule {
        name: "host-sockets-in-the-pool",
        reason: "a port of the masquerade pool belongs to the container's flow that had it first, towards its remote end; \
             netfilter changes the port of whoever comes second",
        covers: |_, action, it| {
            matches!(action, Action::Udp { from: Place::Host(_), source: Some(_), .. })
                && (lost(it) || it.fact == "source port")
        },
        applied: AtomicU64::new(0),
    },
];

/// Whether it is what the loss of an answer makes.
fn lost(difference: &Difference) -> bool {
    matches!(difference.weft.as_deref(), None | Some("blocked" | "no answer"))
}

impl Rule {
    /// Takes note that it was needed.
    pub fn count(&self) {
        self.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was needed.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }
}
