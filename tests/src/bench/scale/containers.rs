//! Many containers on one host, and one more.

use std::{
    fmt::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Cost, Plan, probe::Probe};
use crate::{Container, Host, Lab, bench::statistics::Spread};

/// Of one network: a bridge holds 1,023 ports, and some are left for those that are added.
const MOST_ON_A_NETWORK: usize = 500;
/// Longest time until `ready`.
const READY_LIMIT: Duration = Duration::from_secs(600);
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
    /// From the change of the file until one more container answers a connection from the first one of its network.
    pub one_more_ms: Spread,
    /// The daemon's own time for that, if it tells.
    pub one_more_apply_ms: Option<Spread>,
    /// `weft teardown`.
    pub teardown_s: f64,
    /// What the daemon tells of itself with all of them.
    pub cost: Cost,
}

/// Measures at each of the plan's numbers, each from nothing.
pub(super) fn run(lab: &Lab, plan: &Plan) -> Result<Vec<Figures>> {
    let host = lab.host("host")?;
    // weft wants an uplink.
    let outside = lab.host("outside")?;
    lab.cable((&host, "192.0.2.1/24"), (&outside, "192.0.2.100/24"))?;
    let most = plan.containers.iter().copied().max().unwrap_or(0) + plan.rounds as usize;
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
    let first = containers.first().context("no containers")?;
    // An ARP request that nobody answers is repeated after a second by default, which would hide what is
    // measured. These settings belong to the device, so the first container asks: it has one already.
    first.sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "5")?;
    first.sysctl("net.ipv4.neigh.eth0.mcast_solicit", "1")?;
    let (mut answered, mut applied, mut servers) = (Vec::new(), Vec::new(), Vec::new());
    for more in 1..=rounds {
        let container = containers.get(count + more - 1).context("too few containers")?;
        servers.push(container.serve_echo(ECHO)?);
        let probe = Probe::start(first, SocketAddr::new(added_address(more - 1).parse()?, ECHO))?;
        let changed = Instant::now();
        daemon.rewrite(&file(count, more, networks))?;
        answered.push((probe.wait()? - changed).as_secs_f64() * 1e3);
        applied.extend(Cost::of(&daemon)?.apply_ms);
    }
    let start = Instant::now();
    daemon.teardown()?;
    Ok(Figures {
        containers: count,
        networks,
        ready_s,
        one_more_ms: Spread::of(answered).context("no rounds")?,
        one_more_apply_ms: Spread::of(applied),
        teardown_s: start.elapsed().as_secs_f64(),
        cost,
    })
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

/// `count` containers dealt out to the networks, and `more` on the first network.
fn file(count: usize, more: usize, networks: usize) -> String {
    let mut text = "name: scale\nx-weft:\n  uplinks: [ eth0 ]\nnetworks:\n".to_owned();
    for network in 0..networks {
        let subnet = format!("10.{}.0.0/16", 100 + network);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  net{network}:\n    ipam: {{ config: [ {{ subnet: {subnet} }} ] }}");
    }
    text.push_str("services:\n");
    let dealt = (0..count).map(|index| (index, index % networks, address(index, networks)));
    let added = (0..more).map(|extra| (count + extra, 0, added_address(extra)));
    for (index, network, address) in dealt.chain(added) {
        let name = name(index);
        let _ = writeln!(
            text,
            "  {name}:\n    networks: {{ net{network}: {{ ipv4_address: {address} }} }}\n    \
             x-weft: {{ netns: {name} }}"
        );
    }
    text
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
