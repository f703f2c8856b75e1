//! Which devices lead to the world.

use std::net::{IpAddr, Ipv4Addr};

use super::{facts::UplinkFact, kernel::Kernel, problem::Problem};
use crate::{model::HostSettings, netdev::Link};

/// The configured uplinks, or the device of the default route. What is missing is a problem, not an error: a cable
/// may be plugged in later.
pub fn find(settings: &HostSettings, kernel: &Kernel, problems: &mut Vec<Problem>) -> Vec<UplinkFact> {
    if settings.uplinks.is_empty() {
        let default = kernel
            .routes
            .iter()
            .filter(|route| route.is_default() && route.destination.is_ipv4())
            .min_by_key(|route| route.metric);
        let link = default.and_then(|route| kernel.links().iter().find(|link| link.ifindex == route.ifindex));
        if link.is_none() {
            problems.push(Problem::new(
                "uplinks",
                "there is no default route and x-weft.uplinks names no device: containers reach this host only",
            ));
        }
        return link.map(|link| fact(link, kernel, problems)).into_iter().collect();
    }
    let mut uplinks = Vec::new();
    for name in &settings.uplinks {
        match kernel.link(name) {
            Some(link) => uplinks.push(fact(link, kernel, problems)),
            None => problems.push(Problem::new(
                format!("uplink {name}"),
                "there is no such device; weft uses it as soon as there is",
            )),
        }
    }
    uplinks
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
