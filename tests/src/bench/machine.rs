//! What the figures of a run depend on.

use std::{fs, thread, time::SystemTime};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::utsname::uname,
    unistd::Pid,
};
use serde::Serialize;

use crate::Namespace;

/// The machine at the start of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Of /proc/cpuinfo; virtual machines may not tell.
    pub processor: Option<String>,
    /// CPUs this process may use.
    pub cores: usize,
    /// Load averages over 1, 5 and 15 minutes before the run: above the run's own they tell of others at work.
    pub load_before: [f64; 3],
    /// Seconds since 1970.
    pub time: u64,
}

impl Machine {
    /// Looks.
    pub fn now() -> Result<Self> {
        let name = uname()?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            kernel: name.release().to_string_lossy().into_owned(),
            architecture: name.machine().to_string_lossy().into_owned(),
            processor: model.map(|(_, model)| model.to_owned()),
            cores: thread::available_parallelism()?.get(),
            load_before: load()?,
            time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        })
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let [one, five, fifteen] = self.load_before;
        format!(
            "Linux {} on {} cores ({}), load before: {one} {five} {fifteen}",
            self.kernel,
            self.cores,
            self.processor.as_deref().unwrap_or(&self.architecture)
        )
    }
}

/// Two CPUs that this process may use, the same one twice if there is no other.
pub fn two_cpus() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = cpus.next().context("no CPU is allowed")?;
    Ok([first, cpus.next_back().unwrap_or(first)])
}

/// Has a server forget connections once they are closed. A client that reaches it in two ways, by two addresses or ports, takes
/// the same local ports for both; for the server they are the same connections with other sequence numbers, and one that it
/// still remembers (TIME-WAIT, RFC 9293 section 3.6) is refused at first.
pub fn without_time_wait(server: &Namespace) -> Result<()> {
    server.sysctl("net.ipv4.tcp_max_tw_buckets", "0")
}

fn load() -> Result<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || Ok::<f64, anyhow::Error>(numbers.next().context("/proc/loadavg is too short")??);
    Ok([next()?, next()?, next()?])
}
