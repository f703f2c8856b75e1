//! A host that publishes many ports, each declared for itself: what the last of them costs a client, with weft and with the
//! kernel's rules.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Cost,
    probe::Probe,
    speed::{self, Speed},
};
use crate::{Container, Host, Lab, bench::Variant};

/// The first published port.
const FIRST: u32 = 5_000;
/// Where the container's server listens.
const PORT: u16 = 7;
const WEB: &str = "10.10.0.10";
const HOST: &str = "192.0.2.1";
/// Longest time until rules are in force. iptables takes a minute for some ten thousand.
const LIMIT: Duration = Duration::from_secs(300);

/// What a number of ports costs.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many.
    pub ports: u32,
    /// Who publishes them.
    pub variant: Variant,
    /// Until they are in force: with weft from the change of the file until the last port answers, with the kernel's rules the
    /// time of the program that sets them.
    pub set_s: f64,
    /// The daemon's own time for that, with weft.
    pub apply_ms: Option<f64>,
    /// Growth of all maps, with weft.
    pub map_growth_bytes: Option<u64>,
    /// By the last port.
    pub speed: Speed,
}

/// Measures at each number with each variant.
pub(super) fn run(lab: &Lab, numbers: &[u32], rounds: u32) -> Result<Vec<Figures>> {
    let mut all = Vec::new();
    for variant in [Variant::Kernel, Variant::Nftables, Variant::Weft] {
        let (host, client) = (lab.host(variant.name())?, lab.host(&format!("{}-client", variant.name()))?);
        lab.cable((&host, &format!("{HOST}/24")), (&client, "192.0.2.100/24"))?;
        let web = host.container("web")?;
        let web = if variant == Variant::Weft {
            web
        } else {
            web.on_bridge(&host.kernel_bridge("bridge0", "10.10.0.1/24")?, &format!("{WEB}/24"))?
        };
        for &ports in numbers {
            let figures = measure(&host, &client, &web, variant, ports, rounds);
            let figures = figures.with_context(|| format!("{ports} ports with {}", variant.name()))?;
            eprintln!("{ports} ports with {}: set in {:.1} s", variant.name(), figures.set_s);
            all.push(figures);
        }
    }
    Ok(all)
}

fn measure(
    host: &Host,
    client: &Host,
    web: &Container,
    variant: Variant,
    ports: u32,
    rounds: u32,
) -> Result<Figures> {
    let last = FIRST + ports - 1;
    let server = (&**web, PORT);
    let target = format!("{HOST}:{last}");
    if variant == Variant::Weft {
        let mut daemon = host.weft(&file(0))?;
        let before = Cost::of(&daemon)?;
        let echo = web.serve_echo(PORT)?;
        let probe = Probe::start(client, target.parse()?)?;
        let start = Instant::now();
        daemon.rewrite(&file(ports))?;
        let set_s = (probe.wait()? - start).as_secs_f64();
        drop(echo);
        let after = Cost::of(&daemon)?;
        let speed = speed::measure(client, &target, server, rounds)?;
        daemon.teardown()?;
        let map_growth_bytes = Some(after.map_bytes.saturating_sub(before.map_bytes));
        return Ok(Figures { ports, variant, set_s, apply_ms: after.apply_ms, map_growth_bytes, speed });
    }
    let start = Instant::now();
    match variant {
        Variant::Nftables => load(host, "nft -f", &nftables(ports))?,
        _ => load(host, "iptables-restore", &iptables(ports))?,
    }
    let set_s = start.elapsed().as_secs_f64();
    let speed = speed::measure(client, &target, server, rounds)?;
    Ok(Figures { ports, variant, set_s, apply_ms: None, map_growth_bytes: None, speed })
}

/// From a file, for so many rules are more than an argument may be long.
fn load(host: &Host, program: &str, rules: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rules)?;
    host.run_for(&format!("{program} {}", file.path().display()), LIMIT)?.expect_ok().map(drop)
}

fn iptables(ports: u32) -> String {
    let mut text =
        "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
                    -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n"
            .to_owned();
    // Writing to a String cannot fail.
    for port in FIRST..FIRST + ports {
        let _ = writeln!(
            text,
            "-A DOCKER ! -i bridge0 -p tcp -m tcp --dport {port} -j DNAT --to-destination {WEB}:{PORT}"
        );
    }
    text + "COMMIT\n"
}

fn nftables(ports: u32) -> String {
    let elements = (FIRST..FIRST + ports).map(|port| format!("{port} : {WEB} . {PORT}"));
    let elements = elements.collect::<Vec<_>>().join(", ");
    format!(
        "table ip bench\ndelete table ip bench\n\
         table ip bench {{\n\
         \x20 map ports {{ type inet_service : ipv4_addr . inet_service; elements = {{ {elements} }} }}\n\
         \x20 chain prerouting {{\n    type nat hook prerouting priority dstnat\n\
         \x20   fib daddr type local dnat ip to tcp dport map @ports\n  }}\n}}\n"
    )
}

fn file(ports: u32) -> String {
    let each = (FIRST..FIRST + ports).map(|port| format!("\"{port}:{PORT}/tcp\""));
    let each = each.collect::<Vec<_>>().join(", ");
    format!(
        "name: published\n\
         networks:\n  front:\n    ipam: {{ config: [ {{ subnet: 10.10.0.0/24 }} ] }}\n\
         services:\n  web:\n    networks: {{ front: {{ ipv4_address: {WEB} }} }}\n\
         \x20   ports: [ {each} ]\n    x-weft: {{ netns: web }}\n\
         x-weft:\n  uplinks: [ eth0 ]\n"
    )
}
