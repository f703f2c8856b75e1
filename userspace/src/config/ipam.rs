//! `ipam` of a network: subnets, gateways, and what is not to be leased.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{
    error::{Position, Report, quote},
    schema, values,
};
use crate::model::{
    Family, PerFamily, Subnet,
    range::{default_gateway, overlap},
};

/// Reads the subnets of a network, at most one for each family that it has.
pub(super) fn read(
    ipam: Option<&schema::Ipam>,
    enabled: [bool; 2],
    report: &mut Report,
) -> PerFamily<(Subnet, Position)> {
    let mut subnets = PerFamily::default();
    let Some(ipam) = ipam else { return subnets };
    if let Some(driver) = &ipam.driver
        && driver.value != "default"
    {
        report.add(driver.at, format!("{}: the only driver is default", quote(&driver.value)));
    }
    for config in ipam.config.iter().flatten() {
        let Some(subnet) = &config.value.subnet else {
            report.add(config.at, "the subnet is missing: add 'subnet: 10.10.0.0/24'");
            continue;
        };
        let Some(range) = values::range(subnet, report) else { continue };
        let family = Family::of(range.ip());
        let reason = match family {
            Family::V4 if !enabled[0] => {
                Some("an IPv4 subnet in a network with 'enable_ipv4: false': remove one".to_owned())
            }
            Family::V6 if !enabled[1] => {
                Some("an IPv6 subnet: add 'enable_ipv6: true' to the network".to_owned())
            }
            Family::V4 if subnets.v4.is_some() => Some("a second IPv4 subnet: a network has one".to_owned()),
            Family::V6 if subnets.v6.is_some() => Some("a second IPv6 subnet: a network has one".to_owned()),
            _ => unusable(range),
        };
        if let Some(reason) = reason {
            report.add(subnet.at, reason);
            continue;
        }
        subnets.set(family, Some((read_subnet(&config.value, range, report), subnet.at)));
    }
    subnets
}

/// Why containers cannot live in this range.
fn unusable(range: IpNetwork) -> Option<String> {
    // Beyond it nothing is left beside network, gateway and broadcast address.
    let longest = if range.is_ipv4() { 30 } else { 126 };
    if range.prefix() > longest {
        return Some(format!("{range} has no room for a gateway and a container: at most /{longest}"));
    }
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let v6 = |first| IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0));
    let reserved = [
        (v4(0, 0, 0, 0), 8, "addresses of 'this network' (RFC 791)"),
        (v4(127, 0, 0, 0), 8, "loopback addresses"),
        (v4(224, 0, 0, 0), 4, "multicast addresses"),
        (v4(240, 0, 0, 0), 4, "reserved addresses (RFC 1112)"),
        (v6(0), 8, "reserved addresses (RFC 4291)"),
        (v6(0xfe80), 10, "link-local addresses"),
        (v6(0xff00), 8, "multicast addresses"),
    ];
    let advice = if range.is_ipv4() {
        "take a private range (RFC 1918)"
    } else {
        "take a unique local range, as in fd00:10::/64 (RFC 4193)"
    };
    reserved.into_iter().find_map(|(first, prefix, what)| {
        let reserved = IpNetwork::new(first, prefix).ok()?;
        overlap(reserved, range).then(|| format!("{range} contains {what}: {advice}"))
    })
}

fn read_subnet(config: &schema::IpamConfig, range: IpNetwork, report: &mut Report) -> Subnet {
    let family = Family::of(range.ip());
    let gateway = config.gateway.as_ref().and_then(|gateway| {
        let address = values::address(gateway, family, report)?;
        host_address_in(range, address, "the gateway", gateway.at, report).then_some(address)
    });
    let lease_range = config.ip_range.as_ref().and_then(|text| {
        let part = values::range(text, report)?;
        if !range.contains(part.network()) || part.prefix() < range.prefix() {
            report.add(text.at, format!("the ip_range {part} is outside the subnet {range}"));
        }
        Some(part)
    });
    let own = gateway.unwrap_or_else(|| default_gateway(range));
    let mut reserved = Vec::new();
    for (name, text) in config.aux_addresses.iter().flat_map(|addresses| &addresses.0) {
        let what = format!("the auxiliary address {}", quote(&name.value));
        let Some(address) = values::address(text, family, report) else { continue };
        if host_address_in(range, address, &what, text.at, report) && address == own {
            report.add(text.at, format!("{what} is the gateway's address {address}"));
        }
        reserved.push(address);
    }
    Subnet { range, gateway, lease_range, reserved }
}

/// Whether `address` can be held by something in `range`; notes why not.
pub(super) fn host_address_in(
    range: IpNetwork,
    address: IpAddr,
    what: &str,
    at: Position,
    report: &mut Report,
) -> bool {
    let reason = if !range.contains(address) {
        format!("{what} {address} is outside the subnet {range}")
    } else if address == range.network() {
        // Of IPv6 it is the anycast address of the subnet's routers (RFC 4291 section 2.6.1).
        format!("{what} {address} is the network address of {range}")
    } else if range.is_ipv4() && address == range.broadcast() {
        format!("{what} {address} is the broadcast address of {range}")
    } else {
        return true;
    };
    report.add(at, reason);
    false
}
