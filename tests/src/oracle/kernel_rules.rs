//! The kernel's side: nftables rules that mean what the topology says, as Docker without its proxy processes writes them.

use std::{fmt::Write as _, net::SocketAddr};

use super::{
    description::{Binding, NetworkKind, Topology},
    family::{Family, uplink},
};

/// The rules of one host, which take the place of all it had.
pub fn ruleset(topology: &Topology, host: usize) -> String {
    let tables = Family::ALL.map(|family| tables(topology, host, family));
    format!("flush ruleset\n{}", tables.concat())
}

/// The name of a family in nftables, which its header fields have as well.
fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn tables(topology: &Topology, host: usize, family: Family) -> String {
    let ip = name(family);
    let networks = || {
        topology.networks.iter().enumerate().filter(move |(_, it)| it.is_on(host) && it.families.has(family))
    };
    let mut filter = String::new();
    let mut masquerade = String::new();
    // Writing to a string does not fail, here and below.
    for (number, network) in networks() {
        let bridge = format!("br{number}");
        if network.kind == NetworkKind::Internal {
            // An internal network has the host, not what the host publishes.
            let _ = writeln!(filter, "iifname {bridge} ct status dnat drop");
        }
        let subnet = topology.subnet(number, family);
        // The host's own packets for published ports: the container could not answer 127.0.0.1.
        let _ = writeln!(masquerade, "oifname {bridge} fib saddr type local masquerade");
        if network.kind != NetworkKind::Internal {
            let _ = writeln!(masquerade, "{ip} saddr {subnet} oifname eth0 masquerade");
        }
    }
    filter += "ct status dnat accept\n";
    for (number, network) in networks() {
        let bridge = format!("br{number}");
        // Bridged packets come here too (br_netfilter). Neighbours have to find one another even where they may not talk:
        // what goes through a published port is answered directly, and translated on the bridge. ARP does not come here.
        if network.kind == NetworkKind::Isolated && family == Family::V6 {
            let _ = writeln!(
                filter,
                "iifname {bridge} oifname {bridge} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept"
            );
        }
        let members = if network.kind == NetworkKind::Isolated { "drop" } else { "accept" };
        let _ = writeln!(filter, "iifname {bridge} oifname {bridge} {members}");
        if network.kind != NetworkKind::Internal {
            let _ = writeln!(filter, "iifname {bridge} oifname eth0 accept");
        }
    }
    let publications = publications(topology, host, family, &mut masquerade);
    // From the wire not on the gateways of container networks (gateways-from-outside in docs/differences.md).
    let wire = uplink(host, family);
    format!(
        "table {ip} nat {{\n\
         chain published {{\n{publications}}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat;\n\
         iifname eth0 {ip} daddr {wire} jump published\niifname != eth0 fib daddr type local jump published; }}\n\
         chain output {{ type nat hook output priority -100; fib daddr type local jump published; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n{masquerade}}}\n\
         }}\n\
         table {ip} filter {{\n\
         chain forward {{ type filter hook forward priority filter; policy drop;\n\
         ct state established,related accept\nct state invalid drop\n{filter}}}\n\
         }}\n"
    )
}

/// What leads where; specific addresses first.
fn publications(topology: &Topology, host: usize, family: Family, masquerade: &mut String) -> String {
    let ip = name(family);
    let mut rules = String::new();
    for any in [false, true] {
        for (slot, container) in topology.present().filter(|(_, container)| container.host == host) {
            let Some(address) = topology.published_address(slot, family) else { continue };
            let of_family = container.ports.iter().filter(|it| it.families().any(|it| it == family));
            for publication in of_family.filter(|it| (it.binding == Binding::Any) == any) {
                let destination = match publication.binding {
                    Binding::Any => String::new(),
                    Binding::Uplink => format!("{ip} daddr {} ", uplink(host, family)),
                    Binding::Loopback => format!("{ip} daddr {} ", family.loopback()),
                };
                let protocol = publication.protocol.name();
                for port in publication.host_port..publication.host_port + publication.count {
                    let behind = SocketAddr::new(address, publication.behind(port));
                    let _ = writeln!(rules, "{destination}{protocol} dport {port} dnat to {behind}");
                }
            }
            if any && !container.ports.is_empty() {
                // To itself: it would not answer a packet from its own address.
                let _ = writeln!(
                    masquerade,
                    "{ip} saddr {address} {ip} daddr {address} ct status dnat masquerade"
                );
            }
        }
    }
    rules
}
