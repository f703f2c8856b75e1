//! Which devices lead to the world.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{facts::UplinkFact, kernel::Kernel, problem::Problem};
use crate::{model::HostSettings, netdev::Link};

/// The configured uplinks, or the devices of the default routes. What is missing is a problem, not an error: a cable
/// may be plugged in later.
pub fn find(
    settings: &HostSettings,
    kernel: &Kernel,
    earlier: &[UplinkFact],
    problems: &mut Vec<Problem>,
) -> Vec<UplinkFact> {
    if settings.uplinks.is_empty() {
        return of_default_routes(kernel, earlier, problems);
    }
    let mut uplinks = Vec::new();
    for name in &settings.uplinks {
        match kernel.link(name) {
            Some(link) => uplinks.extend(usable(link, problems).map(|link| fact(link, kernel, problems))),
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
    kernel: &Kernel,
    earlier: &[UplinkFact],
    problems: &mut Vec<Problem>,
) -> Vec<UplinkFact> {
    let mut defaults: Vec<_> =
        kernel.routes.iter().filter(|route| route.is_default() && route.destination.is_ipv4()).collect();
    defaults.sort_by_key(|route| route.metric);
    if defaults.is_empty() {
        problems.push(Problem::new(
            "uplinks",
            "there is no default route and x-weft.uplinks names no device: containers reach only what the host's \
             other routes lead to",
        ));
    }
    let kept = earlier.iter().map(|uplink| uplink.ifindex).filter(|ifindex| {
        let link = kernel.links().iter().find(|link| link.ifindex == *ifindex);
        link.is_some() && primary_address(*ifindex, kernel).is_some()
    });
    let mut uplinks: Vec<UplinkFact> = Vec::new();
    let mut seen = HashSet::new();
    for ifindex in defaults.iter().map(|route| route.ifindex).chain(kept) {
        if let Some(link) = kernel.links().iter().find(|link| link.ifindex == ifindex)
            && seen.insert(ifindex)
            && let Some(link) = usable(link, problems)
        {
            uplinks.push(fact(link, kernel, problems));
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

fn fact(link: &Link, kernel: &Kernel, problems: &mut Vec<Problem>) -> UplinkFact {
    let address = primary_address(link.ifindex, kernel);
    if address.is_none() {
        problems.push(Problem::new(
            format!("uplink {}", link.name),
            "it has no IPv4 address: nothing can be masqueraded there",
        ));
    }
    UplinkFact {
        name: link.name.clone(),
        ifindex: link.ifindex,
        mtu: link.mtu,
        mac: link.mac_address,
        address,
    }
}

fn primary_address(ifindex: u32, kernel: &Kernel) -> Option<Ipv4Addr> {
    kernel
        .addresses
        .iter()
        .filter(|address| address.ifindex == ifindex && address.global && !address.secondary)
        .find_map(|address| match address.address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
}
