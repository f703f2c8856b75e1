//! An overlay with many containers on other hosts.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    Cost,
    speed::{self, Speed},
};
use crate::Lab;

/// Longest time until `ready`.
const READY_LIMIT: Duration = Duration::from_secs(300);
/// Containers that are there; all others are declared only.
const HERE: (&str, &str) = ("10.32.0.10", "02:42:0a:20:00:0a");
const THERE: (&str, &str) = ("10.32.0.20", "02:42:0a:20:00:14");
const HOSTS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Of the first declared container, in 10.32.0.0/12.
const FIRST: u32 = 0x0a20_0100;
/// Port of the servers.
const PORT: u16 = 7;

/// What a number of remote containers costs.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many are declared on other hosts.
    pub remotes: usize,
    /// From the start of the daemon until `ready`, with nothing there before.
    pub ready_s: f64,
    /// What the daemon tells of itself then.
    pub cost: Cost,
    /// To one of them.
    pub speed: Speed,
}

/// Measures at each number, each from nothing.
pub(super) fn run(lab: &Lab, numbers: &[usize], rounds: u32) -> Result<Vec<Figures>> {
    let (left, right) = (lab.host("left")?, lab.host("right")?);
    lab.cable((&left, &format!("{}/24", HOSTS[0])), (&right, &format!("{}/24", HOSTS[1])))?;
    let (cache, worker) = (left.container("cache")?, right.container("worker")?);
    let _far = right.weft(&file("worker", THERE, HOSTS[1], &[("cache".to_owned(), HERE, HOSTS[0])], 0))?;
    let mut all = Vec::new();
    for &remotes in numbers {
        let start = Instant::now();
        let worker_there = [("worker".to_owned(), THERE, HOSTS[1])];
        let mut daemon = left.weft_within(
            &file("cache", HERE, HOSTS[0], &worker_there, remotes.saturating_sub(1)),
            READY_LIMIT,
        )?;
        let ready_s = start.elapsed().as_secs_f64();
        let cost = Cost::of(&daemon)?;
        eprintln!("{remotes} remote containers: ready after {ready_s:.1} s");
        let speed = speed::measure(&cache, &format!("{}:{PORT}", THERE.0), (&worker, PORT), rounds)?;
        all.push(Figures { remotes, ready_s, cost, speed });
        daemon.teardown()?;
    }
    Ok(all)
}

/// The file of a host: its container, others by name, address and host, and so many more that nobody has.
fn file(
    name: &str,
    (address, mac): (&str, &str),
    vtep: &str,
    others: &[(String, (&str, &str), &str)],
    more: usize,
) -> String {
    let mut text = format!(
        "name: remotes\n\
         networks:\n  mesh:\n    driver: overlay\n\
         \x20   driver_opts: {{ com.docker.network.driver.overlay.vxlanid_list: \"4097\" }}\n\
         \x20   ipam: {{ config: [ {{ subnet: 10.32.0.0/12 }} ] }}\n\
         services:\n  {name}:\n    networks: {{ mesh: {{ ipv4_address: {address}, mac_address: \"{mac}\" }} }}\n\
         \x20   x-weft: {{ netns: {name} }}\n\
         x-weft:\n  uplinks: [ eth0 ]\n  vtep: {vtep}\n  peers:\n"
    );
    // Writing to a String cannot fail.
    for (other, (address, mac), vtep) in others {
        let _ = writeln!(text, "    - vtep: {vtep}\n      network: mesh\n      endpoints:");
        endpoint(&mut text, other, address, mac);
    }
    // They are where the real ones are, for that is what a host with many containers looks like.
    for index in 0..more {
        let address = FIRST + index as u32;
        let [a, b, c, d] = address.to_be_bytes();
        let (address, mac) = (format!("{a}.{b}.{c}.{d}"), format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
        endpoint(&mut text, &format!("far{index}"), &address, &mac);
    }
    text
}

fn endpoint(text: &mut String, name: &str, address: &str, mac: &str) {
    let _ = writeln!(text, "        - {{ name: {name}, ipv4_address: {address}, mac_address: \"{mac}\" }}");
}
