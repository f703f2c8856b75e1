//! The standing differences between weft and the kernel: each is wanted, and listed in docs/differences.md.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    comparison::Difference,
    description::{Action, Address, Binding, NetworkKind, Place, Protocol, Topology},
    family::Family,
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
pub static RULES: [Rule; 6] = [
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
            let (Action::Udp { from: Place::Host(host), family, source, to }, Some(datagram)) =
                (action, it.datagram)
            else {
                return false;
            };
            let server = |index: usize| topology.served_by(*host, *family, to[index].0);
            let name = |index: usize| to[index].0;
            let other_name = |index| name(index) != name(datagram) && server(index) == server(datagram);
            let is_double = |one: usize| {
                let same = |other| name(other) != name(one) && server(other) == server(one);
                server(one).is_some() && (0..to.len()).any(same)
            };
            // An earlier socket of this port, or an earlier datagram, may have used the other name, and the port that
            // netfilter then gave away is in the way of this one.
            let of_earlier = (source.is_some() || (0..to.len()).any(is_double))
                && it.fact == "source port"
                && it.weft.as_deref() == Some("kept");
            matches!(it.fact.as_str(), "answer from" | "source port")
                && server(datagram).is_some()
                && (of_earlier || (0..to.len()).any(other_name))
        },
        applied: AtomicU64::new(0),
    },
    Rule {
        name: "host-sockets-in-the-pool",
        reason: "a port of the masquerade pool belongs to the container's flow that had it first, towards its remote end; \
             netfilter changes the port of whoever comes second",
        covers: |topology, action, it| {
            let (Action::Udp { from: Place::Host(host), source: Some(_), to, .. }, Some(datagram)) =
                (action, it.datagram)
            else {
                return false;
            };
            is_outside(topology, *host, to[datagram].0.address) && (lost(it) || it.fact == "source port")
        },
        applied: AtomicU64::new(0),
    },
    Rule {
        name: "loopback-by-ipv6",
        reason: "what is published on the loopback address is led there by the socket hooks in either family; the kernel \
             translates no packet from ::1, whose answers would have to come in by a bridge (RFC 4291 section 2.5.3)",
        covers: |topology, action, it| {
            let Place::Host(host) = action.from() else { return false };
            let (protocol, to) = match action {
                Action::Tcp { to, .. } => (Protocol::Tcp, Some(to)),
                Action::Udp { to, .. } => (Protocol::Udp, to.get(it.datagram.unwrap_or(0)).map(|(to, _)| to)),
                Action::Ping { .. } => return false,
            };
            // What has no IPv6 address is reached, too.
            let is_published = |port| {
                let of = |family| topology.publication(host, Binding::Loopback, family, protocol, port);
                Family::ALL.into_iter().any(|family| of(family).is_some())
            };
            let to = to.filter(|to| to.address == Address::Loopback && is_published(to.port));
            action.family() == Family::V6 && to.is_some() && !is_served(it.kernel.as_deref())
        },
        applied: AtomicU64::new(0),
    },
    Rule {
        name: "fragments-longer-than-the-overlay",
        reason: "fragments from outside that are longer than the MTU of a container's interface come in all the same; the \
             kernel answers the first with packet too big (RFC 8200 section 5), also to whom it lets nothing in, and the \
             sender tries again",
        covers: |topology, action, it| {
            let has_overlay = topology.networks.iter().any(|network| network.kind == NetworkKind::Overlay);
            let (to, size) = match action {
                Action::Udp { to, .. } => match it.datagram.and_then(|datagram| to.get(datagram)) {
                    Some((to, size)) => (to.address, *size),
                    None => return false,
                },
                Action::Ping { to, size, .. } => (*to, *size),
                Action::Tcp { .. } => return false,
            };
            let kernel = it.kernel.as_deref();
            // What weft lets in to a container's own address that it should not is no matter of length.
            let is_direct = matches!(to, Address::Container(..));
            let is_told = is_direct
                && action.from() == Place::Client
                && kernel == Some(TOO_LONG)
                && it.weft.as_deref() == Some("no answer");
            has_overlay
                && action.family() == Family::V6
                && size > 1400
                && (is_told || !is_direct && !is_served(kernel) && is_served(it.weft.as_deref()))
        },
        applied: AtomicU64::new(0),
    },
];

/// What a socket says that has heard of a "packet too big".
const TOO_LONG: &str = "Message too long (os error 90)";

/// Whether containers of this host reach the address by masquerade.
fn is_outside(topology: &Topology, host: usize, address: Address) -> bool {
    match address {
        Address::Client => true,
        Address::Uplink(other) => other != host,
        Address::Gateway(network) => !topology.networks[network].is_on(host),
        Address::Loopback | Address::Container(..) => false,
    }
}

/// Whether a fact of an action is there only where somebody was reached.
fn is_served(fact: Option<&str>) -> bool {
    !matches!(fact, None | Some("blocked" | "no answer" | "refused" | TOO_LONG))
}

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
