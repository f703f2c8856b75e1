//! An overlay with many containers on other hosts.

use std::{fmt::Write, time::Instant};

use anyhow::Result;
use serde::Serialize;

use super::{
    Cost,
    speed::{self, Speed},
};
use crate::Lab;

/// Of one file: the daemon reads none of more than 4 MiB.
const MOST_IN_A_FILE: usize = 10_000;
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
    /// `weft apply` of all of them at once, on a running daemon.
    pub apply_s: f64,
    /// What the daemon tells of itself then.
    pub cost: Cost,
    /// How much its maps have grown by that.
    pub map_growth_bytes: u64,
    /// To one of them.
    pub speed: Speed,
}

/// Measures at each number, each from nothing.
pub(super) fn run(lab: &Lab, numbers: &[usize], rounds: u32) -> Result<Vec<Figures>> {
    let (left, right) = (lab.host("left")?, lab.host("right")?);
    lab.cable((&left, &format!("{}/24", HOSTS[0])), (&right, &format!("{}/24", HOSTS[1])))?;
    let (cache, worker) = (left.container("cache")?, right.container("worker")?);
    let _far = right.weft(&file(("worker", THERE, HOSTS[1]), ("cache", HERE, HOSTS[0])))?;
    let mut all = Vec::new();
    for &remotes in numbers {
        let mut daemon = left.weft(&file(("cache", HERE, HOSTS[0]), ("worker", THERE, HOSTS[1])))?;
        let before = Cost::of(&daemon)?;
        let directory = daemon.write_directory(&files(remotes))?;
        let directory = directory.display().to_string();
        let start = Instant::now();
        daemon.command(&["apply", "-f", &directory])?.expect_ok()?;
        let apply_s = start.elapsed().as_secs_f64();
        let cost = Cost::of(&daemon)?;
        let map_growth_bytes = cost.map_bytes.saturating_sub(before.map_bytes);
        eprintln!("{remotes} remote containers: applied in {apply_s:.1} s");
        let speed = speed::measure(&cache, &format!("{}:{PORT}", THERE.0), (&worker, PORT), rounds)?;
        all.push(Figures { remotes, apply_s, cost, map_growth_bytes, speed });
        daemon.teardown()?;
    }
    Ok(all)
}

/// Name, address and MAC address, and host.
type Member<'a> = (&'a str, (&'a str, &'a str), &'a str);

/// The file of a host with its container and another one's.
fn file(
    (name, (address, mac), vtep): Member<'_>,
    (other, (other_address, other_mac), other_vtep): Member<'_>,
) -> String {
    let mut text = format!(
        "name: remotes\n\
         networks:\n  mesh:\n    driver: overlay\n\
         \x20   driver_opts: {{ com.docker.network.driver.overlay.vxlanid_list: \"4097\" }}\n\
         \x20   ipam: {{ config: [ {{ subnet: 10.32.0.0/12 }} ] }}\n\
         services:\n  {name}:\n    networks: {{ mesh: {{ ipv4_address: {address}, mac_address: \"{mac}\" }} }}\n\
         \x20   x-weft: {{ netns: {name} }}\n\
         x-weft:\n  uplinks: [ eth0 ]\n  vtep: {vtep}\n"
    );
    text += &peer(other_vtep);
    endpoint(&mut text, other, other_address, other_mac);
    text
}

/// The same for the left host, and files with so many containers on the right that one of them is there.
fn files(remotes: usize) -> Vec<(String, String)> {
    let mut files =
        vec![("base.yaml".to_owned(), file(("cache", HERE, HOSTS[0]), ("worker", THERE, HOSTS[1])))];
    let declared = (1..remotes).collect::<Vec<_>>();
    for (number, part) in declared.chunks(MOST_IN_A_FILE).enumerate() {
        let mut text = format!("x-weft:\n{}", peer(HOSTS[1]));
        for &index in part {
            let [a, b, c, d] = (FIRST + index as u32).to_be_bytes();
            let mac = format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
            endpoint(&mut text, &format!("far{index}"), &format!("{a}.{b}.{c}.{d}"), &mac);
        }
        files.push((format!("far{number}.yaml"), text));
    }
    files
}

fn peer(vtep: &str) -> String {
    format!("  peers:\n    - vtep: {vtep}\n      network: mesh\n      endpoints:\n")
}

fn endpoint(text: &mut String, name: &str, address: &str, mac: &str) {
    let _ = writeln!(text, "        - {{ name: {name}, ipv4_address: {address}, mac_address: \"{mac}\" }}");
}
