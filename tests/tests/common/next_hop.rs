//! Next hops that weft remembers, and a neighbour that gets another MAC address.

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Daemon, Host};

/// Nobody's before.
pub const OTHER_MAC: &str = "02:00:00:00:aa:99";

/// MAC addresses that flows leave to.
pub fn of_flows(host: &Host, daemon: &Daemon) -> Result<Vec<String>> {
    destinations(host, daemon, "flows", "/formatted/value/next_hop")
}

/// MAC addresses that packets leave to by a tunnel.
pub fn of_peers(host: &Host, daemon: &Daemon) -> Result<Vec<String>> {
    let all = destinations(host, daemon, "peer_next_hops", "/formatted/value")?;
    // An array has every index.
    Ok(all.into_iter().filter(|mac| mac != "00:00:00:00:00:00").collect())
}

fn destinations(host: &Host, daemon: &Daemon, map: &str, next_hop: &str) -> Result<Vec<String>> {
    let octets = |entry: &Value| -> Option<String> {
        let octets = entry.pointer(next_hop)?["destination"]["octets"].as_array()?;
        let octets: Option<Vec<u64>> = octets.iter().map(Value::as_u64).collect();
        Some(octets?.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":"))
    };
    let entries = super::entries(host, daemon, map)?;
    entries.iter().map(|entry| octets(entry).with_context(|| format!("no next hop in {entry}"))).collect()
}

/// Of the uplink.
pub fn mac(host: &Host) -> Result<String> {
    let links: Value = serde_json::from_str(&host.ip("-j link show dev eth0")?)?;
    Ok(links[0]["address"].as_str().context("no address")?.to_owned())
}

/// It gets another MAC address, and tells its link.
pub fn change_mac(host: &Host) -> Result<()> {
    host.check("sysctl -qw net.ipv4.conf.eth0.arp_notify=1 net.ipv6.conf.eth0.ndisc_notify=1")?;
    host.ip(&format!("link set dev eth0 address {OTHER_MAC}"))?;
    Ok(())
}
