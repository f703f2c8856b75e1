//! CPU time of the whole machine: what a path costs is spent in interrupts as well as in the programs at its ends.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Columns of /proc/stat (proc_stat(5)): user, nice, system, irq, softirq. Idle, waiting for a disk and stolen time is nobody's
/// work; a guest's time is in the user's.
const BUSY: [usize; 5] = [0, 1, 2, 5, 6];

/// What all CPUs work while something is done.
pub fn during<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let before = busy()?;
    let done = work()?;
    Ok((done, busy()?.saturating_sub(before)))
}

fn busy() -> Result<Duration> {
    let ticks = ticks(&fs::read_to_string("/proc/stat")?)?;
    let in_a_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / in_a_second as f64))
}

fn ticks(stat: &str) -> Result<u64> {
    let line =
        stat.lines().find_map(|line| line.strip_prefix("cpu ")).context("/proc/stat has no line cpu")?;
    let columns = line.split_whitespace().collect::<Vec<_>>();
    BUSY.iter()
        .map(|&column| Ok(columns.get(column).context("/proc/stat is cut short")?.parse::<u64>()?))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_no_work() -> Result<()> {
        let stat = "cpu  1 20 300 999999 99999 4000 50000 9999999 99 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(ticks(stat)?, 54321);
        assert!(ticks("cpu  1 2 3").is_err());
        let ((), worked) = during(|| {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(200) {}
            Ok(())
        })?;
        assert!(worked >= Duration::from_millis(50), "a busy loop is work");
        Ok(())
    }
}
