//! Which devices lead to the world.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
};

use super::{
    facts::{UplinkFact, XdpFact},
    kernel::Kernel,
    problem::Problem,
    resolved::ResolvedState,
};
use crate::{
    model::{Family, PerFamily},
    netdev::Link,
};

/// The configured uplinks, or the devices of the default routes. What is missing is a problem, not an error: a cable
/// may be plugged in later.
pub fn find(
    state: &ResolvedState,
    kernel: &Kernel,
    earlier: &[UplinkFact],
    problems: &mut Vec<Problem>,
) -> Vec<UplinkFact> {
    if state.host.uplinks.is_empty() {
        return of_default_routes(state, kernel, earlier, problems);
    }
    let mut uplinks = Vec::new();
    for name in &state.host.uplinks {
        match kernel.link(name) {
            Some(link) => {
                uplinks
                    .extend(usable(link, problems).map(|link| fact(link, state, earlier, kernel, problems)));
            }
            None => problems.push(Problem::new(
                format!("uplink {name}"),
                "there is no such device; weft uses it as soon as there is",
            )),
        }
    }
    uplinks
}

/// The devices of all default routes, the preferred first, and those that were uplinks until now. A renewed lease takes
/// the default route away for a moment, and a VPN brings a better one: neither may end the connections that run through
/// a device which is still there and has an address.
fn of_default_routes(
    state: &ResolvedState,
    kernel: &Kernel,
    earlier: &[UplinkFact],
    problems: &mut Vec<Problem>,
) -> Vec<UplinkFact> {
    let mut defaults: Vec<_> = kernel
        .routes
        .iter()
        .filter(|route| route.is_default() && is_needed(Family::of(route.destination.ip()), state))
        .collect();
    defaults.sort_by_key(|route| (route.destination.is_ipv6(), route.metric));
    if defaults.is_empty() {
        problems.push(Problem::new(
            "uplinks",
            "there is no default route and x-weft.uplinks names no device: containers reach only what the host's \
             other routes lead to",
        ));
    }
    let kept = earlier.iter().map(|uplink| uplink.ifindex).filter(|ifindex| {
        let link = kernel.links().iter().find(|link| link.ifindex == *ifindex);
        link.is_some() && addresses(*ifindex, earlier, kernel).iter().next().is_some()
    });
    let mut uplinks: Vec<UplinkFact> = Vec::new();
    let mut seen = HashSet::new();
    for ifindex in defaults.iter().map(|route| route.ifindex).chain(kept) {
        if let Some(link) = kernel.links().iter().find(|link| link.ifindex == ifindex)
            && seen.insert(ifindex)
            && let Some(link) = usable(link, problems)
        {
            uplinks.push(fact(link, state, earlier, kernel, problems));
        }
    }
    uplinks
}

/// The programs read and write Ethernet headers: what a tun, WireGuard or ppp device gives them would be taken for
/// something else.
fn usable<'link>(link: &'link Link, problems: &mut Vec<Problem>) -> Option<&'link Link> {
    if link.is_ethernet() {
        return Some(link);
    }
    problems.push(Problem::new(
        format!("uplink {}", link.name),
        format!(
            "it is no Ethernet device ({}): weft cannot serve it, and containers reach nothing through it. Name the \
             Ethernet devices in x-weft.uplinks",
            link.layer
        ),
    ));
    None
}

/// The address that the host's tunnels begin at: the one in the files, or else an uplink's. Peers have one family.
pub fn tunnel_address(state: &ResolvedState, uplinks: &[UplinkFact]) -> Option<IpAddr> {
    let of_uplinks = |family: Family| uplinks.iter().find_map(|uplink| uplink.addresses.of(family).copied());
    state.host.vtep.or_else(|| match state.peers.keys().next() {
        Some(peer) => of_uplinks(Family::of(*peer)),
        None => Family::BOTH.into_iter().find_map(of_uplinks),
    })
}

/// Whether an uplink is to have this family: a network has it. Where none has any, IPv4 is what one expects.
fn is_needed(family: Family, state: &ResolvedState) -> bool {
    state.has(family) || family == Family::V4 && !state.has(Family::V6)
}

fn fact(
    link: &Link,
    state: &ResolvedState,
    earlier: &[UplinkFact],
    kernel: &Kernel,
    problems: &mut Vec<Problem>,
) -> UplinkFact {
    let addresses = addresses(link.ifindex, earlier, kernel);
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "global IPv6")] {
        if is_needed(family, state) && addresses.of(family).is_none() {
            problems.push(Problem::new(
                format!("uplink {}", link.name),
                format!("it has no {name} address: nothing can be masqueraded there"),
            ));
        }
    }
    UplinkFact {
        name: link.name.clone(),
        ifindex: link.ifindex,
        mtu: link.mtu,
        mac: link.mac_address,
        addresses,
        xdp: XdpFact::default(),
    }
}

/// What masqueraded traffic leaves with.
fn addresses(ifindex: u32, earlier: &[UplinkFact], kernel: &Kernel) -> PerFamily<IpAddr> {
    let usable = |family: Family| {
        let of_device = kernel.addresses.iter().filter(move |address| address.ifindex == ifindex);
        of_device
            .filter(|address| {
                address.global && !address.secondary && !address.deprecated && !address.tentative
            })
            .map(|address| address.address.ip())
            .filter(move |address| Family::of(*address) == family)
    };
    // An interface has many IPv6 addresses, and the kernel lists them in no lasting order: the one in use stays, and
    // those of the world come before unique local ones.
    let before =
        earlier.iter().find(|uplink| uplink.ifindex == ifindex).and_then(|uplink| uplink.addresses.v6);
    let rank = |address: &IpAddr| match address {
        IpAddr::V6(v6) => (Some(*address) != before, v6.is_unique_local(), *v6),
        IpAddr::V4(_) => (false, false, Ipv6Addr::UNSPECIFIED),
    };
    PerFamily { v4: usable(Family::V4).next(), v6: usable(Family::V6).min_by_key(rank) }
}
