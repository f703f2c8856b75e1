//! Many containers on one host, and one more.

use std::{
    fmt::Write,
    net::SocketAddr,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

use super::{Cost, Plan, probe::Probe};
use crate::{Container, Daemon, Host, Lab, Process, bench::statistics::Spread};

/// Of one network: a bridge holds 1,023 ports, and some are left for those that are added.
const MOST_ON_A_NETWORK: usize = 500;
/// Longest time until `ready`.
const READY_LIMIT: Duration = Duration::from_secs(600);
/// The daemon reads files that it does not know yet, and compares everything, at least this often.
const FULL_TICK: Duration = Duration::from_secs(12);
/// From one full round to the next.
const FULL_ROUND: Duration = Duration::from_secs(8);
/// Full rounds whose CPU time is taken.
const FULL_ROUNDS: u32 = 2;
/// What the addition of a container leads to in the daemon is over by then.
const SETTLED: Duration = Duration::from_millis(500);
/// Port of the servers in the containers that are added.
const ECHO: u16 = 7;

/// What a number of containers cost.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many.
    pub containers: usize,
    /// On how many networks.
    pub networks: usize,
    /// From the start of the daemon until `ready`, with nothing there before.
    pub ready_s: f64,
    /// One more container, in one file with all others.
    pub in_one_file: OneMore,
    /// One more, as a file of its own in a directory of such files.
    pub as_a_file: OneMore,
    /// The same, and `weft apply` instead of waiting until the daemon sees it.
    pub by_apply: OneMore,
    /// `weft teardown`.
    pub teardown_s: f64,
    /// CPU time of the daemon for a full round, in which it compares everything with the kernel and changes nothing.
    pub full_round_cpu_ms: f64,
    /// What the daemon tells of itself with all of them.
    pub cost: Cost,
}

/// What one more container takes.
#[derive(Debug, Clone, Serialize)]
pub struct OneMore {
    /// From the change of the file until it answers a connection from the first container of its network.
    pub answers_ms: Spread,
    /// The daemon's own time for that, if it tells.
    pub apply_ms: Option<Spread>,
    /// CPU time of the daemon in that: what it works itself, without the waits in the kernel and for the disk.
    pub apply_cpu_ms: Option<Spread>,
    /// All its CPU time until the container answers, its looking after the others included.
    pub cpu_ms: Spread,
}

/// Measures at each of the plan's numbers, each from nothing.
pub(super) fn run(lab: &Lab, plan: &Plan) -> Result<Vec<Figures>> {
    let host = lab.host("host")?;
    // weft wants an uplink.
    let outside = lab.host("outside")?;
    lab.cable((&host, "192.0.2.1/24"), (&outside, "192.0.2.100/24"))?;
    let most = plan.containers.iter().copied().max().unwrap_or(0) + 3 * plan.rounds as usize;
    let names = (0..most).map(name).collect::<Vec<_>>();
    let start = Instant::now();
    let containers = host.containers(&names)?;
    eprintln!("made {most} namespaces in {:.1} s", start.elapsed().as_secs_f64());
    plan.containers
        .iter()
        .map(|&count| {
            measure(&host, &containers, count, plan.rounds as usize)
                .with_context(|| format!("with {count} containers"))
        })
        .collect()
}

fn measure(host: &Host, containers: &[Container], count: usize, rounds: usize) -> Result<Figures> {
    let networks = count.div_ceil(MOST_ON_A_NETWORK).max(2);
    let start = Instant::now();
    let mut daemon = host.weft_within(&file(count, 0, networks), READY_LIMIT)?;
    let ready_s = start.elapsed().as_secs_f64();
    let cost = Cost::of(&daemon)?;
    eprintln!("{count} containers: ready after {ready_s:.1} s");
    // What the start leads to is over.
    thread::sleep(FULL_ROUND);
    let before = cpu_ms(&daemon)?;
    thread::sleep(FULL_ROUND * FULL_ROUNDS);
    let full_round_cpu_ms = (cpu_ms(&daemon)? - before) / f64::from(FULL_ROUNDS);
    let first = containers.first().context("no containers")?;
    // An ARP request that nobody answers is repeated after a second by default, which would hide what is
    // measured. These settings belong to the device, so the first container asks: it has one already.
    first.sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "5")?;
    first.sysctl("net.ipv4.neigh.eth0.mcast_solicit", "1")?;
    let mut servers = Vec::new();
    let in_one_file = one_more_each(&daemon, first, containers, count, 0..rounds, &mut servers, |more| {
        daemon.rewrite(&file(count, more + 1, networks))
    })?;
    // The same state in a file for each, which changes nothing.
    let directory = daemon.write_directory(&files(count, rounds, networks))?;
    daemon.command(&["apply", "-f", &directory.display().to_string()])?.expect_ok()?;
    // Its first reading knows none of the files yet; the tick does that.
    thread::sleep(FULL_TICK);
    let range = rounds..2 * rounds;
    let as_a_file = one_more_each(&daemon, first, containers, count, range, &mut servers, |more| {
        add_file(&daemon, count, more)
    })?;
    let range = 2 * rounds..3 * rounds;
    let by_apply = one_more_each(&daemon, first, containers, count, range, &mut servers, |more| {
        add_file(&daemon, count, more)?;
        daemon.command(&["apply", "-f", &directory.display().to_string()])?.expect_ok().map(drop)
    })?;
    let start = Instant::now();
    daemon.teardown()?;
    Ok(Figures {
        containers: count,
        networks,
        ready_s,
        in_one_file,
        as_a_file,
        by_apply,
        teardown_s: start.elapsed().as_secs_f64(),
        full_round_cpu_ms,
        cost,
    })
}

fn add_file(daemon: &Daemon, count: usize, more: usize) -> Result<()> {
    let text = format!("services:\n{}", service(count + more, 0, &added_address(more)));
    daemon.write_directory(&[(format!("c{}.yaml", count + more), text)]).map(drop)
}

/// Adds containers one by one: `declare` has the daemon learn of it.
fn one_more_each(
    daemon: &Daemon,
    first: &Container,
    containers: &[Container],
    count: usize,
    range: Range<usize>,
    servers: &mut Vec<Process>,
    declare: impl Fn(usize) -> Result<()>,
) -> Result<OneMore> {
    let (mut answered, mut applied, mut applied_cpu, mut cpu) = (vec![], vec![], vec![], vec![]);
    for more in range {
        let container = containers.get(count + more).context("too few containers")?;
        servers.push(container.serve_echo(ECHO)?);
        // What the container before led to has been looked at.
        thread::sleep(SETTLED);
        let probe = Probe::start(first, SocketAddr::new(added_address(more).parse()?, ECHO))?;
        let before = cpu_ms(daemon)?;
        let changed = Instant::now();
        declare(more)?;
        answered.push((probe.wait()? - changed).as_secs_f64() * 1e3);
        cpu.push(cpu_ms(daemon)? - before);
        let cost = Cost::of(daemon)?;
        applied.extend(cost.apply_ms);
        applied_cpu.extend(cost.apply_cpu_ms);
    }
    Ok(OneMore {
        answers_ms: Spread::of(answered).context("no rounds")?,
        apply_ms: Spread::of(applied),
        apply_cpu_ms: Spread::of(applied_cpu),
        cpu_ms: Spread::of(cpu).context("no rounds")?,
    })
}

/// CPU time of all threads of the daemon so far, those that have ended included.
fn cpu_ms(daemon: &Daemon) -> Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(daemon.pid().try_into()?))?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64() * 1e3)
}

fn name(index: usize) -> String {
    format!("c{index}")
}

/// Containers are dealt out to the networks.
fn address(index: usize, networks: usize) -> String {
    let (network, position) = (index % networks, index / networks);
    format!("10.{}.{}.{}", 100 + network, position / 200, position % 200 + 10)
}

/// Of the containers that are added, on the first network.
fn added_address(extra: usize) -> String {
    format!("10.100.200.{}", extra + 10)
}

/// The networks, and what else is not a container's.
fn head(networks: usize) -> String {
    let mut text = "name: scale\nx-weft:\n  uplinks: [ eth0 ]\nnetworks:\n".to_owned();
    for network in 0..networks {
        let subnet = format!("10.{}.0.0/16", 100 + network);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  net{network}:\n    ipam: {{ config: [ {{ subnet: {subnet} }} ] }}");
    }
    text
}

fn service(index: usize, network: usize, address: &str) -> String {
    let name = name(index);
    format!(
        "  {name}:\n    networks: {{ net{network}: {{ ipv4_address: {address} }} }}\n    x-weft: {{ netns: {name} }}\n"
    )
}

/// `count` containers dealt out to the networks, and `more` on the first network: index and declaration.
fn services(count: usize, more: usize, networks: usize) -> impl Iterator<Item = (usize, String)> {
    let dealt =
        (0..count).map(move |index| (index, service(index, index % networks, &address(index, networks))));
    dealt.chain((0..more).map(move |extra| (count + extra, service(count + extra, 0, &added_address(extra)))))
}

/// All in one file.
fn file(count: usize, more: usize, networks: usize) -> String {
    let services: String = services(count, more, networks).map(|(_, text)| text).collect();
    format!("{}services:\n{services}", head(networks))
}

/// A file for each container, and one for the networks.
fn files(count: usize, more: usize, networks: usize) -> Vec<(String, String)> {
    let each = services(count, more, networks)
        .map(|(index, text)| (format!("{}.yaml", name(index)), format!("services:\n{text}")));
    std::iter::once(("networks.yaml".to_owned(), head(networks))).chain(each).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_container_has_an_address_of_its_own() {
        let all = (0..1000).map(|index| address(index, 2)).collect::<BTreeSet<_>>();
        assert_eq!(all.len(), 1000);
        let text = file(1000, 5, 2);
        assert_eq!(text.matches("netns:").count(), 1005);
        assert!(text.contains("  net1:\n    ipam: { config: [ { subnet: 10.101.0.0/16 } ] }\n"), "{text}");
        assert!(text.contains("  c1004:\n    networks: { net0: { ipv4_address: 10.100.200.14 } }\n    x-weft: { netns: c1004 }\n"));
    }
}
