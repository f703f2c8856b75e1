//! What the suites share: a usual host with a client outside, and waiting for something to become true.
#![allow(dead_code, reason = "each suite uses its part")]

pub mod fragments;
pub mod nat;
pub mod next_hop;
pub mod overlay;
pub mod packet;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{
    Container, Daemon, Host, Lab, Namespace, Output, Process, Segment, lab::namespace::labtool_result,
};

/// Limit of a traffic tool.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One host with the networks `front` and `back` (internal), and a client outside.
pub struct OneHost {
    pub lab: Lab,
    pub wire: Segment,
    pub host: Host,
    pub client: Host,
    pub web: Container,
    pub shop: Container,
    pub other: Container,
    pub db: Container,
    pub daemon: Daemon,
}

/// The file of [`OneHost`]. `front`: web 10.10.0.10, shop 10.10.0.11. `side`: other 10.12.0.12. `back`: shop
/// 10.11.0.11, db 10.11.0.12.
pub const ONE_HOST: &str = r#"
name: suite
networks:
  front: { ipam: { config: [ { subnet: 10.10.0.0/24 } ] } }
  side: { ipam: { config: [ { subnet: 10.12.0.0/24 } ] } }
  back: { internal: true, ipam: { config: [ { subnet: 10.11.0.0/24 } ] } }
services:
  web:
    networks: { front: { ipv4_address: 10.10.0.10 } }
    ports:
      - "8080:80"
      - "127.0.0.1:8443:80"
      - "192.0.2.1:8081:80"
      - "10000-10009:20000-20009"
      - "11000-11002:80"
      - "5353:53/udp"
      - { target: 81, published: "8082", protocol: tcp, mode: host }
    x-weft: { netns: web }
  shop:
    networks: { front: { ipv4_address: 10.10.0.11 }, back: { ipv4_address: 10.11.0.11 } }
    x-weft: { netns: shop }
  other:
    networks: { side: { ipv4_address: 10.12.0.12 } }
    x-weft: { netns: other }
  db:
    networks: { back: { ipv4_address: 10.11.0.12 } }
    x-weft: { netns: db }
x-weft: { uplinks: [ eth0 ] }
"#;

/// By which of its addresses a test knows everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The address that is meant by an IPv4 one: beside 192.0.2.1 there is 2001:db8::1, beside 10.10.0.10 fd00:10::10.
    pub fn address(self, v4: &str) -> String {
        let octets: Vec<&str> = v4.split('.').collect();
        match (self, octets.as_slice()) {
            (Self::V6, ["127", ..]) => "::1".to_owned(),
            (Self::V6, ["192", _, _, last]) => format!("2001:db8::{last}"),
            (Self::V6, ["10", network, _, last]) => format!("fd00:{network}::{last}"),
            _ => v4.to_owned(),
        }
    }

    /// The same with a port.
    pub fn at(self, v4: &str, port: u16) -> String {
        match self {
            Self::V4 => format!("{v4}:{port}"),
            Self::V6 => format!("[{}]:{port}", self.address(v4)),
        }
    }

    /// A file like [`ONE_HOST`]; for IPv6 with it beside IPv4 everywhere.
    pub fn file(self, text: &str) -> String {
        if self == Self::V4 {
            return text.to_owned();
        }
        let mut text = text.replace("ipam: {", "enable_ipv6: true, ipam: {");
        for network in 10..=13 {
            let v4 = format!("{{ subnet: 10.{network}.0.0/24 }}");
            text = text.replace(&v4, &format!("{v4}, {{ subnet: \"fd00:{network}::/64\" }}"));
        }
        let mut parts = text.split("ipv4_address: ");
        let mut file = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(' ').unwrap_or(part.len());
            let (v4, rest) = part.split_at(end);
            file += &format!("ipv4_address: {v4}, ipv6_address: \"{}\"{rest}", self.address(v4));
        }
        file
    }
}

impl OneHost {
    pub fn new(title: &str) -> Result<Self> {
        Self::with(title, ONE_HOST)
    }

    pub fn with(title: &str, file: &str) -> Result<Self> {
        Self::of(Family::V4, title, file)
    }

    /// For IPv6 with both families.
    pub fn of(family: Family, title: &str, file: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let (wire, host, client) = host_and_client(&lab)?;
        if family == Family::V6 {
            dual_stack(&host, &client)?;
        }
        let web = host.container("web")?;
        let shop = host.container("shop")?;
        let other = host.container("other")?;
        let db = host.container("db")?;
        let daemon = host.weft(&family.file(file))?;
        Ok(Self { lab, wire, host, client, web, shop, other, db, daemon })
    }

    /// What serves "hello" at port 80 of `web` is reached by the ports that lead there, from outside and from the host.
    pub fn greets(&self, family: Family) -> Result<()> {
        for (from, to) in [(&self.client, "192.0.2.1"), (&self.host, "127.0.0.1")] {
            let heard = from.curl(&format!("http://{}", family.at(to, 8080)))?;
            ensure!(heard.stdout == "hello", "{family:?} {to}: {heard:?}");
        }
        Ok(())
    }

    pub fn packets(&self, path: &str) -> Result<u64> {
        packets(&self.daemon, path)
    }

    pub fn drops(&self, reason: &str) -> Result<u64> {
        drops(&self.daemon, reason)
    }
}

/// Packets that took a path so far.
pub fn packets(daemon: &Daemon, path: &str) -> Result<u64> {
    counter(daemon, "counters", path)
}

/// Packets dropped for a reason so far.
pub fn drops(daemon: &Daemon, reason: &str) -> Result<u64> {
    counter(daemon, "drops", reason)
}

/// Every name is always there, so that one that is misspelt is not taken for nothing.
fn counter(daemon: &Daemon, of: &str, name: &str) -> Result<u64> {
    let status = daemon.json(&["status"])?;
    status[of][name]["packets"].as_u64().with_context(|| format!("no {name} among the {of}"))
}

/// All entries of a pinned map, with named fields at `formatted`.
pub fn entries(host: &Host, daemon: &Daemon, map: &str) -> Result<Vec<Value>> {
    let pin = daemon.bpf_dir().join("v1/maps").join(map);
    let dump = host.check(&format!("bpftool -j map dump pinned {}", pin.display()))?;
    Ok(serde_json::from_str(&dump)?)
}

/// So many bytes by TCP to an address and port, which the receiver listens on or which are led to its port: all arrive.
pub fn bulk(from: &Namespace, to: &Namespace, address: &str, listen: u16, bytes: u64) -> Result<()> {
    let mut receiver = to.serve(&format!("tcp-receive [::]:{listen}"))?;
    let sent = from.labtool(&format!("tcp-send {address} --bytes {bytes}"))?;
    let received = labtool_result(&mut receiver, LIMIT)?;
    ensure!(number(&received, "bytes") == bytes, "{address}: {received} of {bytes} bytes");
    ensure!(received["sha256"] == sent["sha256"], "{address}: {sent} became {received}");
    Ok(())
}

/// So many datagrams of a size likewise, by UDP_SEGMENT in packets of several segments: each arrives once.
pub fn datagrams(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    listen: u16,
    (count, size, segments): (u64, usize, usize),
) -> Result<()> {
    let mut receiver = to.serve(&format!("udp-receive [::]:{listen} --count {count}"))?;
    from.labtool(&format!("udp-send {address} --count {count} --size {size} --segments {segments}"))?;
    let received = labtool_result(&mut receiver, LIMIT)?;
    let counts = ["datagrams", "corrupted", "duplicates"].map(|key| number(&received, key));
    ensure!(counts == [count, 0, 0], "{address}, {count} x {size} bytes, {segments} segments: {received}");
    Ok(())
}

/// A host with 192.0.2.1 on a wire, whose default route leads to a client with 192.0.2.100.
pub fn host_and_client(lab: &Lab) -> Result<(Segment, Host, Host)> {
    let wire = lab.segment("192.0.2.0/24")?;
    let host = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.100")?;
    let client = lab.host("client")?.on(&wire, "192.0.2.100/24")?;
    Ok((wire, host, client))
}

/// Gives host and client 2001:db8::1 and 2001:db8::100, and the host its default route.
pub fn dual_stack(host: &Host, client: &Host) -> Result<()> {
    for (at, address) in [(host, "2001:db8::1"), (client, "2001:db8::100")] {
        at.ip(&format!("addr add {address}/64 dev eth0 nodad"))?;
    }
    host.ip("route add default via 2001:db8::100").map(drop)
}

/// Tries until it is true.
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(true) => return Ok(start.elapsed()),
            outcome if start.elapsed() > limit => bail!("not within {limit:?}: {what} ({outcome:?})"),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A process that binds a TCP socket, and ends.
pub fn bind(place: &Namespace, address: &str, port: u16) -> Result<Output> {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    place.run(&format!(
        "python3 -c \"import socket; socket.socket(socket.{family}).bind(('{address}', {port}))\""
    ))
}

/// Listens on `eth0` for the first packet of a filter, from now on and for so many seconds.
pub fn capture(place: &Namespace, seconds: u32, filter: &str) -> Result<Process> {
    let mut capture = place
        .spawn(&format!("exec timeout {seconds} tcpdump --immediate-mode -nnei eth0 -c 1 '{filter}' 2>&1"))?;
    within(Duration::from_secs(10), "tcpdump listens", || {
        ensure!(capture.status()?.is_none(), "tcpdump has ended: {}", capture.stdout()?);
        Ok(capture.stdout()?.contains("listening on"))
    })?;
    Ok(capture)
}

/// What it has captured, or nothing. One that is still running has waited in vain when its time is over.
pub fn captured(mut capture: Process) -> Result<Option<String>> {
    let early = capture.status()?.is_some();
    let output = capture.wait(LIMIT)?;
    match output.code() {
        Some(0) => Ok(Some(output.stdout)),
        // The code of timeout(1).
        Some(124) if !early => Ok(None),
        _ => bail!("the capture ended too early, with {}: {}", output.status, output.stdout),
    }
}

pub fn nothing_captured(capture: Process) -> Result<()> {
    let captured = captured(capture)?;
    ensure!(captured.is_none(), "{}", captured.unwrap_or_default());
    Ok(())
}

/// A number in a tool's report.
pub fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {report}"))
}
