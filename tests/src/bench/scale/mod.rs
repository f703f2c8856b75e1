//! What many ports and many containers cost.

pub mod containers;
pub mod ports;

mod probe;

use std::fs;

use anyhow::{Context, Result};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::Serialize;
use serde_json::Value;

use super::{
    machine::Machine,
    statistics::{Spread, short},
};
use crate::{Daemon, Lab};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often each change is made.
    pub rounds: u32,
    /// Numbers of containers at which one more is added.
    pub containers: Vec<usize>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// 10,000 ports.
    pub ports: ports::Figures,
    /// By number of containers.
    pub containers: Vec<containers::Figures>,
}

/// Measures, each part in a lab of its own.
pub fn run(plan: &Plan, new_lab: impl Fn(&str) -> Result<Lab>) -> Result<Report> {
    let machine = Machine::now()?;
    let lab = new_lab("10,000 ports")?;
    let ports = ports::run(&lab, plan.rounds);
    let ports = finish(lab, ports)?;
    let lab = new_lab("many containers")?;
    let containers = containers::run(&lab, plan);
    let containers = finish(lab, containers)?;
    Ok(Report { machine, ports, containers })
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

impl Report {
    /// For people.
    pub fn markdown(&self) -> String {
        let mut table = Table::new();
        let of_host = ["from nothing to `ready`, s", "teardown, s", "maps, MiB", "daemon, MiB"];
        let of_one = ["answers, ms", "until applied, ms", "CPU until applied, ms", "all CPU meanwhile, ms"];
        table
            .load_preset(ASCII_MARKDOWN)
            .set_header(["containers"].into_iter().chain(of_host).chain(["one more"]).chain(of_one));
        for row in &self.containers {
            for (how, one_more) in [
                ("in one file", &row.in_one_file),
                ("as a file", &row.as_a_file),
                ("as a file, `weft apply`", &row.by_apply),
            ] {
                table.add_row([
                    row.containers.to_string(),
                    short(row.ready_s),
                    short(row.teardown_s),
                    mebibytes(row.cost.map_bytes),
                    mebibytes(row.cost.resident_bytes),
                    how.to_owned(),
                    spread(&Some(one_more.answers_ms)),
                    spread(&one_more.apply_ms),
                    spread(&one_more.apply_cpu_ms),
                    spread(&Some(one_more.cpu_ms)),
                ]);
            }
        }
        format!("{}\n\n{}\n\n{table}", self.machine.describe(), self.ports.describe())
    }

    /// As JSON for the record.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
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
