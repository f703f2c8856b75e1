//! The sender that cuts datagrams itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{Lab, Namespace, Process};

const SCRIPT: &str = include_str!("fragments.py");

/// Orders of the six fragments of 8,000 bytes.
pub const ORDERS: [&str; 6] = ["012345", "543210", "123450", "351024", "55443322110", "0543211"];

/// `fragments.py` in a lab.
pub struct Fragments {
    script: String,
}

impl Fragments {
    pub fn new(lab: &Lab) -> Result<Self> {
        let script = lab.directory().join("fragments.py");
        std::fs::write(&script, SCRIPT)?;
        Ok(Self { script: script.display().to_string() })
    }

    pub fn command(&self, words: &str) -> String {
        format!("exec python3 {} {words}", self.script)
    }

    /// A server that answers with what it gets, cut in this order.
    pub fn answer(&self, place: &Namespace, port: u16, order: &str) -> Result<Process> {
        let mut server = place.spawn(&self.command(&format!("answer {port} {order}")))?;
        server.wait_line("ready", Duration::from_secs(10))?;
        Ok(server)
    }

    /// How many of twice `count` datagrams came back.
    pub fn ask(&self, from: &Namespace, address: &str, port: u16, order: &str, count: u32) -> Result<u32> {
        self.number(from, &format!("ask {address} {port} {order} {count}"))
    }

    /// How many echo requests were answered.
    pub fn ping(&self, from: &Namespace, address: &str, order: &str, count: u32) -> Result<u32> {
        self.number(from, &format!("ping {address} {order} {count}"))
    }

    fn number(&self, from: &Namespace, words: &str) -> Result<u32> {
        let output = from.run_for(&self.command(words), Duration::from_secs(60))?;
        ensure!(output.ok(), "{words}: {}", output.stderr);
        Ok(output.stdout.trim().parse()?)
    }
}
