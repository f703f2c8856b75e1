//! What many ports, flows and containers cost.

pub mod containers;
pub mod flows;
pub mod ports;
pub mod published;
pub mod remotes;
pub mod speed;

mod plot;
mod probe;
mod reflector;
mod tables;

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::{
    machine::Machine,
    statistics::{Spread, short},
};
use crate::{Daemon, Lab};

/// What may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One range of 10,000 published ports
    Ports,
    /// Published ports, each declared for itself, with weft and with the kernel's rules
    Published,
    /// Flows
    Flows,
    /// Containers of an overlay on other hosts
    Remotes,
    /// Containers on this host
    Containers,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Parts, each once.
    pub parts: Vec<Part>,
    /// How often each change is made.
    pub rounds: u32,
    /// Numbers of published ports.
    pub published: Vec<u32>,
    /// Numbers of flows, growing.
    pub flows: Vec<u32>,
    /// Numbers of containers on other hosts.
    pub remotes: Vec<usize>,
    /// Numbers of containers at which one more is added.
    pub containers: Vec<usize>,
}

/// A whole run. What was not measured is absent or empty.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// 10,000 ports.
    pub ports: Option<ports::Figures>,
    /// By number of published ports, and by who publishes them.
    pub published: Vec<published::Figures>,
    /// By number of flows.
    pub flows: Vec<flows::Figures>,
    /// By number of containers on other hosts.
    pub remotes: Vec<remotes::Figures>,
    /// By number of containers.
    pub containers: Vec<containers::Figures>,
}

impl Part {
    /// In the order of a run.
    pub const ALL: [Self; 5] = [Self::Ports, Self::Published, Self::Flows, Self::Remotes, Self::Containers];
}

/// Measures, each part in a lab of its own.
pub fn run(plan: &Plan, new_lab: impl Fn(&str) -> Result<Lab>) -> Result<Report> {
    let mut report = Report {
        machine: Machine::now()?,
        ports: None,
        published: Vec::new(),
        flows: Vec::new(),
        remotes: Vec::new(),
        containers: Vec::new(),
    };
    for part in &plan.parts {
        let lab = new_lab(&format!("{part:?}"))?;
        let measured = measure(&lab, *part, plan, &mut report);
        finish(lab, measured.with_context(|| format!("{part:?}")))?;
    }
    Ok(report)
}

fn measure(lab: &Lab, part: Part, plan: &Plan, report: &mut Report) -> Result<()> {
    match part {
        Part::Ports => report.ports = Some(ports::run(lab, plan.rounds)?),
        Part::Published => report.published = published::run(lab, &plan.published, plan.rounds)?,
        Part::Flows => report.flows = flows::run(lab, &plan.flows)?,
        Part::Remotes => report.remotes = remotes::run(lab, &plan.remotes, plan.rounds)?,
        Part::Containers => report.containers = containers::run(lab, plan)?,
    }
    Ok(())
}

/// The lab is removed in any case; the first error is the measurement's.
fn finish<T>(lab: Lab, measured: Result<T>) -> Result<T> {
    if measured.is_err() {
        lab.print_logs();
    }
    let finished = lab.finish();
    let measured = measured?;
    finished.map(|()| measured)
}

/// What a daemon tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Kernel memory of all maps.
    pub map_bytes: u64,
    /// Resident memory of the daemon's process.
    pub resident_bytes: u64,
    /// Its own time for the last change, if it tells.
    pub apply_ms: Option<f64>,
    /// Its CPU time of that, if it tells.
    pub apply_cpu_ms: Option<f64>,
}

impl Cost {
    fn of(daemon: &Daemon) -> Result<Self> {
        let status = daemon.json(&["status"])?;
        let page = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let resident = page.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let resident: u64 = resident.context("the daemon has no VmRSS")?.trim().parse()?;
        Ok(Self {
            map_bytes: map_bytes(&status)?,
            resident_bytes: resident * 1024,
            apply_ms: status["last_apply_ms"].as_f64(),
            apply_cpu_ms: status["last_apply_cpu_ms"].as_f64(),
        })
    }
}

/// The sum over the maps of `weft status -o json`.
fn map_bytes(status: &Value) -> Result<u64> {
    let maps = &status["maps"];
    let bytes = |map: &Value| map["bytes"].as_u64().with_context(|| format!("a map without bytes: {map}"));
    match (maps.as_array(), maps.as_object()) {
        (Some(list), _) => list.iter().map(bytes).sum(),
        (_, Some(named)) => named.values().map(bytes).sum(),
        _ => anyhow::bail!("`weft status` shows no maps"),
    }
}

fn mebibytes(bytes: u64) -> String {
    short(bytes as f64 / f64::from(1 << 20))
}

/// Median, smallest and largest.
fn spread(figures: &Option<Spread>) -> String {
    let text = |it: &Spread| format!("{} ({}–{})", short(it.median), short(it.min), short(it.max));
    figures.as_ref().map_or_else(|| "not told".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_of_all_maps() -> Result<()> {
        let maps = json!([{ "name": "flows", "bytes": 4096 }, { "name": "ports", "bytes": 1 }]);
        assert_eq!(map_bytes(&json!({ "maps": maps }))?, 4097);
        assert_eq!(map_bytes(&json!({ "maps": { "flows": { "bytes": 5 } } }))?, 5);
        assert!(map_bytes(&json!({ "maps": [ { "name": "flows" } ] })).is_err());
        assert!(map_bytes(&json!({})).is_err());
        Ok(())
    }
}
