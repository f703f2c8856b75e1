//! One range of 10,000 published ports.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Cost, mebibytes, probe::Probe, spread};
use crate::{Daemon, Lab, bench::statistics::Spread};

/// The first of them.
const FIRST: u16 = 20_000;
/// The last of them.
const LAST: u16 = 29_999;
/// The bars.
const TIME_BAR_MS: f64 = 100.0;
const MEMORY_BAR: u64 = 1_000_000;
/// Longest time until a removed range is gone.
const GONE_LIMIT: Duration = Duration::from_secs(30);

/// What publishing them took.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many.
    pub ports: u32,
    /// From the change of the file until the last port answers a client outside: the watching of the file included.
    pub answers_ms: Spread,
    /// The daemon's own time, if it tells.
    pub apply_ms: Option<Spread>,
    /// From the change of the file until the last port is refused again.
    pub removed_ms: Spread,
    /// Largest growth of all maps.
    pub map_growth_bytes: u64,
    /// Growth of the daemon's resident memory from before the first change to the end.
    pub resident_growth_bytes: u64,
}

/// Publishes and removes the range `rounds` times.
pub(super) fn run(lab: &Lab, rounds: u32) -> Result<Figures> {
    let (host, client) = (lab.host("host")?, lab.host("client")?);
    lab.cable((&host, "192.0.2.1/24"), (&client, "192.0.2.100/24"))?;
    let web = host.container("web")?;
    let daemon = host.weft(&file(""))?;
    let _servers = [web.serve_echo(FIRST)?, web.serve_echo(LAST)?];
    let range = format!("    ports: [ \"{FIRST}-{LAST}:{FIRST}-{LAST}/tcp\" ]\n");
    let last: SocketAddr = ([192, 0, 2, 1], LAST).into();
    let start = Cost::of(&daemon)?;
    let (mut answers, mut applied, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    let mut map_growth_bytes = 0;
    for _ in 0..rounds {
        let before = Cost::of(&daemon)?;
        let probe = Probe::start(&client, last)?;
        let changed = Instant::now();
        daemon.rewrite(&file(&range))?;
        answers.push(milliseconds(probe.wait()? - changed));
        let after = Cost::of(&daemon)?;
        applied.extend(after.apply_ms);
        map_growth_bytes = map_growth_bytes.max(after.map_bytes.saturating_sub(before.map_bytes));
        client.labtool(&format!("latency tcp 192.0.2.1:{FIRST} --count 1")).context("the first port")?;
        let changed = Instant::now();
        daemon.rewrite(&file(""))?;
        removed.push(milliseconds(gone(&daemon)? - changed));
    }
    let resident = Cost::of(&daemon)?.resident_bytes;
    Ok(Figures {
        ports: u32::from(LAST - FIRST) + 1,
        answers_ms: Spread::of(answers).context("no rounds")?,
        apply_ms: Spread::of(applied),
        removed_ms: Spread::of(removed).context("no rounds")?,
        map_growth_bytes,
        resident_growth_bytes: resident.saturating_sub(start.resident_bytes),
    })
}

impl Figures {
    /// For people, with the two bars of the project.
    pub fn describe(&self) -> String {
        let verdict = |good| if good { "PASS" } else { "MISS" };
        let time = self.apply_ms.unwrap_or(self.answers_ms).median;
        format!(
            "{} ports published as one range: {} by the daemon's own clock, {} ms from the change of the file \
             until the last port answers, {} ms until it is gone again (median, smallest and largest).\n\
             - {}: under {TIME_BAR_MS} ms\n\
             - {}: under 1 MB (maps grow by {} bytes; the daemon over all rounds by {} MiB)",
            self.ports,
            self.apply_ms
                .map_or_else(|| "time not told".to_owned(), |it| format!("{} ms", spread(&Some(it)))),
            spread(&Some(self.answers_ms)),
            spread(&Some(self.removed_ms)),
            verdict(time < TIME_BAR_MS),
            verdict(self.map_growth_bytes < MEMORY_BAR),
            self.map_growth_bytes,
            mebibytes(self.resident_growth_bytes),
        )
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Waits until the daemon lists no port.
fn gone(daemon: &Daemon) -> Result<Instant> {
    let deadline = Instant::now() + GONE_LIMIT;
    loop {
        if daemon.json(&["port", "ls"])?.as_array().is_some_and(Vec::is_empty) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "the range is still published after {GONE_LIMIT:?}");
    }
}

fn file(ports: &str) -> String {
    format!(
        "name: ports\n\
         networks:\n  front:\n    ipam: {{ config: [ {{ subnet: 10.10.0.0/24 }} ] }}\n\
         services:\n  web:\n    networks: {{ front: {{ ipv4_address: 10.10.0.10 }} }}\n\
         {ports}    x-weft: {{ netns: web }}\n\
         x-weft:\n  uplinks: [ eth0 ]\n"
    )
}
