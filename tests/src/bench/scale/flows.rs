//! What a packet costs in `from_container` by how many flows there are, by the kernel's own clock for eBPF programs.
//!
//! A flow that is answered is established. The packets go to all flows in turn, and to the same thousand of them: the records of
//! a few flows stay in the CPU's caches, those of a million come from memory each time.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{Cost, reflector};
use crate::{Daemon, Lab, Namespace, bench::bpf, bench::machine::two_cpus};

/// Established flows are measured with at least so many packets.
const LEAST_PACKETS: u32 = 200_000;
/// Flows of many that go on.
const BUSY: u32 = 1000;

/// What a number of flows costs.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many.
    pub flows: u32,
    /// The program's time for the first packet of each.
    pub open_ns: f64,
    /// For a later one, to all in turn.
    pub established_ns: f64,
    /// For a later one, to a thousand of them in turn.
    pub busy_ns: f64,
    /// Kernel memory of all maps, with room for the plan's largest number.
    pub map_bytes: u64,
}

/// Measures each number of flows, smaller ones first; they come on top of each other.
pub(super) fn run(lab: &Lab, numbers: &[u32]) -> Result<Vec<Figures>> {
    let (host, client) = (lab.host("host")?, lab.host("client")?);
    lab.cable((&host, "192.0.2.1/24"), (&client, "192.0.2.100/24"))?;
    host.ip("route add 198.18.0.0/15 via 192.0.2.100")?;
    let _reflector = client.inside(|| Ok(reflector::attach("eth0")?)).context("attaching what answers")?;
    let web = host.container("web")?;
    let most = numbers.iter().copied().max().unwrap_or(1);
    let daemon = host.weft(&file(most + most / 4 + 1000))?;
    let _counting = bpf::count_time()?;
    let mut known = 0;
    let mut all = Vec::new();
    for &flows in numbers {
        let opened = spread(&daemon, &web, flows, u64::from(flows))?;
        let new = f64::from(flows.saturating_sub(known));
        let before = f64::from(known);
        let again = spread(&daemon, &web, flows, u64::from(flows.max(LEAST_PACKETS)))?;
        let established = again.0 / again.1;
        let busy = spread(&daemon, &web, flows.min(BUSY), u64::from(LEAST_PACKETS))?;
        // Packets of flows that were there before are not the first of theirs.
        let open = (opened.0 - established * before) / new.max(1.0);
        all.push(Figures {
            flows,
            open_ns: open,
            established_ns: established,
            busy_ns: busy.0 / busy.1,
            map_bytes: Cost::of(&daemon)?.map_bytes,
        });
        eprintln!(
            "{flows} flows: {established:.0} ns for a packet to any, {:.0} ns to one of a thousand",
            busy.0 / busy.1
        );
        known = flows;
    }
    Ok(all)
}

/// Sends to so many flows; the program's nanoseconds and runs.
fn spread(daemon: &Daemon, from: &Namespace, flows: u32, count: u64) -> Result<(f64, f64)> {
    let [cpu, _] = two_cpus()?;
    let masqueraded = || -> Result<[u64; 2]> {
        let counters = &daemon.json(&["status"])?["counters"];
        let packets = |path: &str| counters[path]["packets"].as_u64().unwrap_or(0);
        Ok([packets("masquerade_out"), packets("masquerade_in")])
    };
    let (before, [sent, answered]) = (Times::of(daemon)?, masqueraded()?);
    from.labtool(&format!("udp-spread --flows {flows} --count {count} --cpu {cpu}"))?;
    let (after, [sent_now, answered_now]) = (Times::of(daemon)?, masqueraded()?);
    let (sent, answered) = (sent_now - sent, answered_now - answered);
    ensure!(sent >= count, "{count} packets were sent, {sent} were masqueraded: another path was measured");
    // A device's queue may overflow now and then.
    ensure!(answered * 100 >= count * 99, "{count} packets were sent, {answered} were answered");
    let runs = after.runs - before.runs;
    ensure!(runs >= count, "{count} packets were sent, the program ran {runs} times");
    Ok(((after.nanoseconds - before.nanoseconds) as f64, runs as f64))
}

/// What the kernel has counted of `from_container` so far.
struct Times {
    nanoseconds: u64,
    runs: u64,
}

impl Times {
    fn of(daemon: &Daemon) -> Result<Self> {
        let link = read(&["link", "show", "pinned", &link(daemon)?.display().to_string()])?;
        let id = link["prog_id"].as_u64().context("the link has no program")?;
        let program = read(&["prog", "show", "id", &id.to_string()])?;
        let number = |name: &str| program[name].as_u64().with_context(|| format!("no {name} in {program}"));
        // Neither is told before the first run.
        match program.get("run_cnt") {
            None => Ok(Self { nanoseconds: 0, runs: 0 }),
            Some(_) => Ok(Self { nanoseconds: number("run_time_ns")?, runs: number("run_cnt")? }),
        }
    }
}

fn link(daemon: &Daemon) -> Result<PathBuf> {
    let directory = daemon.bpf_dir().join("v1/links");
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("from_container") {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("no link of from_container in {}", directory.display())
}

fn read(words: &[&str]) -> Result<Value> {
    let output = std::process::Command::new("bpftool").arg("--json").args(words).output()?;
    ensure!(output.status.success(), "bpftool {words:?}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn file(max_flows: u32) -> String {
    format!(
        "name: flows\n\
         networks:\n  front:\n    ipam: {{ config: [ {{ subnet: 10.10.0.0/24 }} ] }}\n\
         services:\n  web:\n    networks: {{ front: {{ ipv4_address: 10.10.0.10 }} }}\n    x-weft: {{ netns: web }}\n\
         x-weft:\n  uplinks: [ eth0 ]\n  max_flows: {max_flows}\n"
    )
}
