//! The kernel's side: nftables rules that mean what the topology says, as Docker without its proxy processes writes them.

use std::fmt::Write as _;

use super::description::{Binding, NetworkKind, Topology, uplink};

/// The rules of one host, which take the place of all it had.
pub fn ruleset(topology: &Topology, host: usize) -> String {
    let networks = || topology.networks.iter().enumerate().filter(move |(_, it)| it.is_on(host));
    let mut filter = String::new();
    let mut masquerade = String::new();
    // Writing to a string does not fail, here and below.
    for (number, network) in networks() {
        let bridge = format!("br{number}");
        if network.kind == NetworkKind::Internal {
            // An internal network has the host, not what the host publishes.
            let _ = writeln!(filter, "iifname {bridge} ct status dnat drop");
        }
        let subnet = topology.subnet(number);
        // The host's own packets for published ports: the container could not answer 127.0.0.1.
        let _ = writeln!(masquerade, "oifname {bridge} fib saddr type local masquerade");
        if network.kind != NetworkKind::Internal {
            let _ = writeln!(masquerade, "ip saddr {subnet} oifname eth0 masquerade");
        }
    }
    filter += "ct status dnat accept\n";
    for (number, network) in networks() {
        let bridge = format!("br{number}");
        // Bridged packets come here too (br_netfilter).
        let members = if network.kind == NetworkKind::Isolated { "drop" } else { "accept" };
        let _ = writeln!(filter, "iifname {bridge} oifname {bridge} {members}");
        if network.kind != NetworkKind::Internal {
            let _ = writeln!(filter, "iifname {bridge} oifname eth0 accept");
        }
    }
    let publications = publications(topology, host, &mut masquerade);
    // From the wire not on the gateways of container networks (gateways-from-outside in docs/differences.md).
    let wire = uplink(host);
    format!(
        "flush ruleset\n\
         table ip nat {{\n\
         chain published {{\n{publications}}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat;\n\
         iifname eth0 ip daddr {wire} jump published\niifname != eth0 fib daddr type local jump published; }}\n\
         chain output {{ type nat hook output priority -100; fib daddr type local jump published; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n{masquerade}}}\n\
         }}\n\
         table ip filter {{\n\
         chain forward {{ type filter hook forward priority filter; policy drop;\n\
         ct state established,related accept\nct state invalid drop\n{filter}}}\n\
         }}"
    )
}

/// What leads where; specific addresses first.
fn publications(topology: &Topology, host: usize, masquerade: &mut String) -> String {
    let mut rules = String::new();
    for any in [false, true] {
        for (slot, container) in topology.present().filter(|(_, container)| container.host == host) {
            let Some(network) = topology.default_network(container) else { continue };
            let address = topology.address(slot, network);
            for publication in container.ports.iter().filter(|it| (it.binding == Binding::Any) == any) {
                let destination = match publication.binding {
                    Binding::Any => String::new(),
                    Binding::Uplink => format!("ip daddr {} ", uplink(host)),
                    Binding::Loopback => "ip daddr 127.0.0.1 ".to_owned(),
                };
                let protocol = publication.protocol.name();
                for port in publication.host_port..publication.host_port + publication.count {
                    let _ = writeln!(
                        rules,
                        "{destination}{protocol} dport {port} dnat to {address}:{}",
                        publication.behind(port)
                    );
                }
            }
            if any && !container.ports.is_empty() {
                // To itself: it would not answer a packet from its own address.
                let _ =
                    writeln!(masquerade, "ip saddr {address} ip daddr {address} ct status dnat masquerade");
            }
        }
    }
    rules
}
