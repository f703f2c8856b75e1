//! Counters of a namespace's own kernel stack: what the receiver of a packet thought of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::namespace::Namespace;

/// Statistics of one interface, as `ip -s link` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Interface {
    /// Received.
    pub rx: Direction,
    /// Sent.
    pub tx: Direction,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Direction {
    /// Packets; one GSO segment counts once.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Errors.
    pub errors: u64,
    /// Drops.
    pub dropped: u64,
}

impl Namespace {
    /// The kernel's SNMP counters of both families by name: `Tcp.InCsumErrors`, `TcpExt.TCPDSACKRecv`, `Udp.InDatagrams`,
    /// `Udp6InCsumErrors`.
    pub fn snmp(&self) -> Result<BTreeMap<String, u64>> {
        // Under nsenter /proc/net is the reader's own (/proc/self/net), unlike /sys/class/net.
        let text =
            self.check("cat /proc/net/snmp /proc/net/netstat; cat /proc/net/snmp6 2>/dev/null || true")?;
        let mut counters = BTreeMap::new();
        let mut names: Option<(&str, Vec<&str>)> = None;
        for line in text.lines() {
            let Some((group, rest)) = line.split_once(": ") else {
                // snmp6 has one counter on a line.
                if let Some((name, value)) = line.split_once(char::is_whitespace) {
                    counters.insert(name.to_owned(), value.trim().parse()?);
                }
                continue;
            };
            match names.take() {
                Some((named, columns)) if named == group => {
                    for (column, value) in columns.iter().zip(rest.split_whitespace()) {
                        // Tcp.MaxConn is -1; nothing else is negative.
                        counters.insert(format!("{group}.{column}"), value.parse().unwrap_or(0));
                    }
                }
                _ => names = Some((group, rest.split_whitespace().collect())),
            }
        }
        Ok(counters)
    }

    /// Packets that this namespace received with a wrong checksum, of every protocol.
    pub fn checksum_errors(&self) -> Result<u64> {
        let counters = self.snmp()?;
        Ok(counters.iter().filter(|(name, _)| name.ends_with("InCsumErrors")).map(|(_, value)| value).sum())
    }

    /// Statistics of an interface.
    pub fn interface(&self, device: &str) -> Result<Interface> {
        let mut links = self.ip_json(&format!("-statistics link show dev {device}"))?;
        let statistics = links
            .get_mut(0)
            .and_then(|link| link.get_mut("stats64"))
            .with_context(|| format!("no statistics of {device} in {}", self.name()))?;
        Ok(serde_json::from_value(statistics.take())?)
    }
}
