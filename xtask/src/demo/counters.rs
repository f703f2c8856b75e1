//! Which eBPF path a probe took: `weft status -o json` before and after it.

use std::collections::BTreeMap;

use ::tests::Daemon;
use anyhow::{Context, Result};
use serde_json::Value;

/// Packets by path, named `a:bridge`; drops by reason, named `a:drop(reason)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads the counters of these daemons, named by host.
    pub fn read(daemons: &[(&str, &Daemon)]) -> Result<Self> {
        let mut all = Self::default();
        for (host, daemon) in daemons {
            all.add(host, &daemon.json(&["status"])?)
                .with_context(|| format!("weft status in host {host}"))?;
        }
        Ok(all)
    }

    fn add(&mut self, host: &str, status: &Value) -> Result<()> {
        let mut insert = |name: String, value: &Value| {
            let packets = value["packets"].as_u64().with_context(|| format!("no packets in {value}"))?;
            self.0.insert(name, packets);
            Ok::<(), anyhow::Error>(())
        };
        for (path, value) in status["counters"].as_object().context("no field `counters`")? {
            insert(format!("{host}:{path}"), value)?;
        }
        for (reason, value) in status["drops"].as_object().context("no field `drops`")? {
            insert(format!("{host}:drop({reason})"), value)?;
        }
        Ok(())
    }

    /// The counters that are higher than `before`.
    pub fn moved_since(&self, before: &Self) -> Vec<String> {
        let higher = |name: &str, packets: u64| packets > before.0.get(name).copied().unwrap_or(0);
        self.0
            .iter()
            .filter(|(name, packets)| higher(name, **packets))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// Whether one of the counters that moved is the required one; `a:drop` stands for any reason.
pub fn contains(moved: &[String], required: &str) -> bool {
    moved.iter().any(|name| name == required || name.split('(').next() == Some(required))
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::json;

    use super::*;

    fn counters(bridge: u64, spoofed: u64) -> Result<Counters> {
        let mut counters = Counters::default();
        let status = json!({
            "counters": { "bridge": { "packets": bridge, "bytes": 0 }, "host": { "packets": 1, "bytes": 1 } },
            "drops": { "spoofed_source": { "packets": spoofed } },
        });
        counters.add("a", &status)?;
        Ok(counters)
    }

    #[test]
    fn only_what_moved_is_named() -> Result<()> {
        assert_eq!(counters(3, 0)?.moved_since(&counters(3, 0)?), Vec::<String>::new());
        let moved = counters(5, 1)?.moved_since(&counters(3, 0)?);
        assert_eq!(moved, ["a:bridge", "a:drop(spoofed_source)"]);
        assert!(contains(&moved, "a:bridge") && contains(&moved, "a:drop"));
        assert!(!contains(&moved, "b:drop") && !contains(&moved, "a:host"));
        Ok(())
    }

    #[test]
    fn a_status_without_counters_is_an_error() {
        assert!(Counters::default().add("a", &json!({ "counters": {} })).is_err());
        assert!(Counters::default().add("a", &json!({ "counters": { "bridge": 1 }, "drops": {} })).is_err());
    }
}
