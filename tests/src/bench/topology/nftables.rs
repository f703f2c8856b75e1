//! The same translation as with iptables, as one writes it in nftables: a map of ports in place of a rule for each.

use super::{TCP_PORTS, UDP_PORTS, WEB};

/// The ruleset, for `nft -f`.
pub(super) fn rules() -> String {
    let map = |ports: &[u16]| {
        let elements = ports.iter().map(|port| format!("{port} : {WEB} . {port}"));
        elements.collect::<Vec<_>>().join(", ")
    };
    let (tcp, udp) = (map(&TCP_PORTS), map(&UDP_PORTS));
    format!(
        r#"table ip bench {{
    map tcp_ports {{ type inet_service : ipv4_addr . inet_service; elements = {{ {tcp} }} }}
    map udp_ports {{ type inet_service : ipv4_addr . inet_service; elements = {{ {udp} }} }}
    chain published {{
        dnat ip to tcp dport map @tcp_ports
        dnat ip to udp dport map @udp_ports
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat
        fib daddr type local jump published
    }}
    chain output {{
        type nat hook output priority -100
        ip daddr != 127.0.0.0/8 fib daddr type local jump published
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr 10.10.0.0/24 oifname != "bridge0" masquerade
        ip saddr 10.10.0.0/24 oifname "bridge0" ct status dnat masquerade
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
        ct state established,related accept
        ct status dnat accept
        iifname "bridge0" accept
    }}
}}
"#
    )
}
