//! SCTP by a real implementation: usrsctp, FreeBSD's, over raw sockets, so that the kernel needs none. It checks the CRC32c of
//! each packet (RFC 9260 section 6.8) and answers nothing with a wrong one.

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{ONE_HOST, OneHost, within};
use tests::{Namespace, Process};

/// Where Debian's libusrsctp-examples has its programs.
const PROGRAMS: &str = "/usr/lib/usrsctp";
/// The port of the echo server.
const ECHO: u16 = 7;

/// An echo server; says on standard output whom it hears.
fn serve(place: &Namespace) -> Result<Process> {
    let mut server = place.spawn(&format!("exec stdbuf -oL {PROGRAMS}/echo_server"))?;
    within(Duration::from_secs(10), "the echo server listens", || {
        ensure!(server.status()?.is_none(), "it has ended: {} (`cargo xtask setup`)", server.stderr()?);
        // 132 in hexadecimal.
        Ok(place.check("cat /proc/net/raw")?.contains(":0084 "))
    })?;
    Ok(server)
}

/// An association to an echo server that says and hears this many bytes; whether it came about and they were the same.
fn echoed(from: &Namespace, own: u16, address: &str, port: u16, bytes: usize) -> Result<bool> {
    let said = "s".repeat(bytes);
    let client = format!("timeout 5 {PROGRAMS}/client {address} {port} {own}");
    let heard = from.run(&format!("(echo {said}; sleep 1) | {client}"))?;
    Ok(heard.stdout.lines().any(|line| line == said))
}

/// The ports that the server has heard an address with, each once.
fn heard_ports(server: &Process, address: &str) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for line in server.stdout()?.lines().filter(|line| line.starts_with("Msg of length")) {
        let Some((_, rest)) = line.split_once(&format!("received from ::ffff:{address}:")) else { continue };
        let port = rest.split(' ').next().unwrap_or_default();
        let port = port.parse().with_context(|| line.to_owned())?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// Two containers with one port of their own: the first keeps it, the second gets another.
#[test]
fn a_taken_port_is_rewritten() -> Result<()> {
    let it = OneHost::new("sctpnat")?;
    let server = serve(&it.client)?;
    for container in [&it.web, &it.other] {
        for bytes in [1, 1000, 5000] {
            ensure!(echoed(container, 5000, "192.0.2.100", ECHO, bytes)?, "{bytes} bytes are not echoed");
        }
    }
    let ports = heard_ports(&server, "192.0.2.1")?;
    ensure!(ports.len() == 2 && ports[0] == 5000, "{ports:?}");
    let flows = it.daemon.json(&["flow", "ls"])?;
    let flows = flows.as_array().context("no list")?.iter().filter(|flow| flow["protocol"] == "sctp");
    assert_eq!(flows.count(), 2);
    it.lab.finish()
}

/// A range with other numbers inside: from outside, from a container of another network, and from a neighbour.
#[test]
fn a_published_port_leads_to_another() -> Result<()> {
    let file = ONE_HOST.replace("5353:53/udp\"", "5353:53/udp\"\n      - \"9000-9009:1-10/sctp\"");
    let it = OneHost::with("sctpport", &file)?;
    let server = serve(&it.web)?;
    let ports = it.daemon.json(&["port", "ls"])?.to_string();
    ensure!(ports.contains("sctp"), "{ports}");
    for (client, own, seen) in [
        (&*it.client, 40_000, "192.0.2.100"),
        (&*it.other, 40_001, "10.12.0.12"),
        (&*it.shop, 40_002, "10.10.0.11"),
    ] {
        for bytes in [1, 5000] {
            ensure!(echoed(client, own, "192.0.2.1", 9006, bytes)?, "{seen}: {bytes} bytes are not echoed");
        }
        let ports = heard_ports(&server, seen)?;
        // What neighbours say to one another directly is never taken for the flow.
        ensure!(ports.len() == 1 && (ports[0] == own) == (seen != "10.10.0.11"), "{seen}: {ports:?}");
    }
    ensure!(!echoed(&it.client, 40_003, "192.0.2.1", 9005, 1)?, "nobody listens on port 6");
    ensure!(!echoed(&it.client, 40_004, "192.0.2.1", 9010, 1)?, "this port is not published");
    it.lab.finish()
}
