//! The sender that cuts datagrams itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{Lab, Namespace, Process};

const SCRIPT: &str = include_str!("fragments.py");

/// Orders of the six fragments of 8,000 bytes. What waits arrives behind the first, and the one that completes a datagram is
/// there once: another copy behind it would begin a datagram that never ends, and the next one to get its identification would
/// be completed with it (RFC 4963 section 3).
pub const ORDERS: [&str; 6] = ["012345", "543210", "123450", "351024", "5544332210", "0554321"];

/// Datagrams of one exchange, in pairs.
pub const COUNT: u32 = 10;

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

    /// Every datagram comes through and its answer comes back, either cut in each order. `ports`: where the client sends,
    /// and where the server listens.
    pub fn exchange(&self, from: &Namespace, to: &Namespace, address: &str, ports: (u16, u16)) -> Result<()> {
        for order in ORDERS {
            let server = self.answer(to, ports.1, order)?;
            let answered = self.ask(from, address, ports.0, order, COUNT)?;
            ensure!(
                answered == 2 * COUNT,
                "{address}:{} in order {order}: {answered} of {}",
                ports.0,
                2 * COUNT
            );
            drop(server);
        }
        Ok(())
    }

    fn number(&self, from: &Namespace, words: &str) -> Result<u32> {
        let output = from.run_for(&self.command(words), Duration::from_secs(60))?;
        ensure!(output.ok(), "{words}: {}", output.stderr);
        Ok(output.stdout.trim().parse()?)
    }
}
