//! The rows of the reachability table.

use std::time::Duration;

use ::tests::{Namespace, lab::namespace::labtool_result};
use anyhow::Result;

use super::topology::Topology;

/// Whether the other side must be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It must answer.
    Reached,
    /// It must not.
    Blocked,
}

/// What a probe found: the answer, or `None` when there was none.
type Answer = Result<Option<String>>;

/// One row.
pub struct Probe<'a> {
    /// Who asks.
    pub from: &'static str,
    /// Who should answer.
    pub to: &'static str,
    /// By what.
    pub how: &'static str,
    /// Whether it must work.
    pub expected: Expected,
    /// What the answer must contain.
    pub answer: &'static str,
    /// Counters that must move.
    pub paths: &'static [&'static str],
    /// Asks.
    pub ask: Box<dyn Fn() -> Answer + 'a>,
}

fn ping<'a>(from: &'a Namespace, address: &'static str) -> Box<dyn Fn() -> Answer + 'a> {
    Box::new(move || Ok(from.pings(address)?.then(|| "pong".to_owned())))
}

fn http<'a>(from: &'a Namespace, url: &'static str) -> Box<dyn Fn() -> Answer + 'a> {
    Box::new(move || {
        let output = from.curl(url)?;
        // Refused, or no answer in time; all else is no answer of the network's.
        if matches!(output.code(), Some(7 | 28)) {
            return Ok(None);
        }
        Ok(Some(output.expect_ok()?.stdout.trim().to_owned()))
    })
}

fn whoami<'a>(from: &'a Namespace, protocol: &'static str) -> Box<dyn Fn() -> Answer + 'a> {
    whoami_at(from, protocol, "192.0.2.100:7")
}

fn whoami_at<'a>(
    from: &'a Namespace,
    protocol: &'static str,
    server: &'static str,
) -> Box<dyn Fn() -> Answer + 'a> {
    Box::new(move || Ok(from.whoami(protocol, server).ok().map(|seen| format!("seen as {seen}"))))
}

/// Bulk TCP with a hash of everything at both ends.
fn bulk<'a>(from: &'a Namespace, to: &'a Namespace, address: &'static str) -> Box<dyn Fn() -> Answer + 'a> {
    Box::new(move || {
        let mut receiver = to.serve("tcp-receive [::]:9000")?;
        let Ok(sent) = from.labtool(&format!("tcp-send {address}:9000 --bytes 33554432")) else {
            return Ok(None);
        };
        let received = labtool_result(&mut receiver, Duration::from_secs(60))?;
        Ok(Some(if sent["sha256"] == received["sha256"] { "same hash" } else { "DAMAGED" }.to_owned()))
    })
}

/// All rows.
#[rustfmt::skip]
pub fn all(lab: &Topology) -> Vec<Probe<'_>> {
    use Expected::{Blocked, Reached};
    let Topology { a, b, client, web, shop, db, cache, worker, .. } = lab;
    let row = |from, to, how, expected, answer, paths, ask| Probe { from, to, how, expected, answer, paths, ask };
    vec![
        // Bridging and isolation.
        row("web", "shop", "ping, network front", Reached, "pong", &["a:bridge"], ping(web, "10.10.0.11")),
        row("shop", "db", "ping, network back", Reached, "pong", &["a:bridge"], ping(shop, "10.11.0.12")),
        row("shop", "db", "TCP 32 MiB, network back", Reached, "same hash", &["a:bridge"], bulk(shop, db, "10.11.0.12")),
        row("web", "db", "ping, front to back", Blocked, "", &["a:drop"], ping(web, "10.11.0.12")),
        row("db", "client", "ping, out of internal network", Blocked, "", &[], ping(db, "192.0.2.100")),
        row("host a", "web", "curl 10.10.0.10", Reached, "greets", &["a:host"], http(a, "http://10.10.0.10/")),
        // Masquerade.
        row("web", "client", "ping", Reached, "pong", &["a:masquerade_out", "a:masquerade_in"], ping(web, "192.0.2.100")),
        row("web", "client", "TCP", Reached, "seen as 192.0.2.1:", &["a:masquerade_out", "a:masquerade_in"], whoami(web, "tcp")),
        row("web", "client", "UDP", Reached, "seen as 192.0.2.1:", &["a:masquerade_out", "a:masquerade_in"], whoami(web, "udp")),
        row("worker", "client", "TCP", Reached, "seen as 192.0.2.2:", &["b:masquerade_out", "b:masquerade_in"], whoami(worker, "tcp")),
        // Published ports.
        row("client", "web", "curl 192.0.2.1:8080", Reached, "greets 192.0.2.100", &["a:portmap_in", "a:portmap_out"], http(client, "http://192.0.2.1:8080/")),
        row("host b", "web", "curl 192.0.2.1:8080", Reached, "greets 192.0.2.2", &["a:portmap_in", "a:portmap_out"], http(b, "http://192.0.2.1:8080/")),
        row("shop", "web", "curl 192.0.2.1:8080", Reached, "greets", &["a:hairpin_in", "a:hairpin_out"], http(shop, "http://192.0.2.1:8080/")),
        row("web", "web", "curl 192.0.2.1:8080", Reached, "greets", &["a:hairpin_in", "a:hairpin_out"], http(web, "http://192.0.2.1:8080/")),
        row("host a", "web", "curl 127.0.0.1:8080", Reached, "greets", &["a:host"], http(a, "http://127.0.0.1:8080/")),
        row("host a", "web", "curl 127.0.0.1:8443", Reached, "greets", &["a:host"], http(a, "http://127.0.0.1:8443/")),
        row("client", "web", "curl 192.0.2.1:8443", Blocked, "", &[], http(client, "http://192.0.2.1:8443/")),
        row("client", "web", "curl 10.10.0.10, routed", Blocked, "", &["a:drop"], http(client, "http://10.10.0.10/")),
        // Overlay.
        row("cache", "worker", "ping, network mesh", Reached, "pong", &["a:encapsulate", "b:decapsulate"], ping(cache, "10.20.0.20")),
        row("worker", "cache", "TCP 32 MiB, network mesh", Reached, "same hash", &["b:encapsulate", "a:decapsulate"], bulk(worker, cache, "10.20.0.10")),
        // The same by IPv6.
        row("web", "shop", "ping fd00:10::11, front", Reached, "pong", &["a:bridge"], ping(web, "fd00:10::11")),
        row("web", "client", "ping 2001:db8::100", Reached, "pong", &["a:masquerade_out", "a:masquerade_in"], ping(web, "2001:db8::100")),
        row("web", "client", "TCP by IPv6", Reached, "seen as [2001:db8::1]:", &["a:masquerade_out", "a:masquerade_in"], whoami_at(web, "tcp", "[2001:db8::100]:7")),
        row("client", "web", "curl [2001:db8::1]:8080", Reached, "greets 2001:db8::100", &["a:portmap_in", "a:portmap_out"], http(client, "http://[2001:db8::1]:8080/")),
        row("shop", "web", "curl [2001:db8::1]:8080", Reached, "greets fd00:10::11", &["a:hairpin_in", "a:hairpin_out"], http(shop, "http://[2001:db8::1]:8080/")),
        row("host a", "web", "curl [::1]:8443", Reached, "greets fd00:10::1", &["a:host"], http(a, "http://[::1]:8443/")),
        row("client", "web", "curl [fd00:10::10], routed", Blocked, "", &["a:drop"], http(client, "http://[fd00:10::10]/")),
        row("cache", "worker", "ping fd00:20::20, mesh", Reached, "pong", &["a:encapsulate", "b:decapsulate"], ping(cache, "fd00:20::20")),
        row("worker", "cache", "TCP 32 MiB, [fd00:20::10]", Reached, "same hash", &["b:encapsulate", "a:decapsulate"], bulk(worker, cache, "[fd00:20::10]")),
    ]
}
