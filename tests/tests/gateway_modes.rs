//! Docker's gateway modes as they come and go. Who reaches whom in each of them is the reachability suite's.

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{bulk, drops, host_and_client, within};
use tests::{Lab, Namespace};

const WAIT: Duration = Duration::from_secs(3);

fn isolated_file(mode: &str) -> String {
    format!(
        r#"
name: suite
networks:
  closed:
    enable_ipv6: true
    internal: true
    driver_opts:
      com.docker.network.bridge.name: br-closed
      com.docker.network.bridge.gateway_mode_ipv4: {mode}
      com.docker.network.bridge.gateway_mode_ipv6: {mode}
    ipam: {{ config: [ {{ subnet: 10.15.0.0/24 }}, {{ subnet: "fd00:15::/64" }} ] }}
services:
  one: {{ networks: {{ closed: {{ ipv4_address: 10.15.0.10, ipv6_address: "fd00:15::10" }} }}, x-weft: {{ netns: one }} }}
  two: {{ networks: {{ closed: {{ ipv4_address: 10.15.0.11, ipv6_address: "fd00:15::11" }} }}, x-weft: {{ netns: two }} }}
x-weft: {{ uplinks: [ eth0 ] }}
"#
    )
}

/// Whether the host hears a datagram that a container sends to everybody.
fn hears(host: &Namespace, container: &Namespace) -> Result<bool> {
    let mut listener = host.spawn(
        "exec python3 -c \"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 6000)); s.settimeout(2)
print('ready', flush=True)
try: s.recv(100); print('heard')
except TimeoutError: print('silence')
\"",
    )?;
    listener.wait_line("ready", WAIT)?;
    container.check(
        "python3 -c \"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
for _ in range(5): s.sendto(b'x', ('255.255.255.255', 6000))
\"",
    )?;
    let said = listener.wait(common::LIMIT)?.expect_ok()?.stdout;
    ensure!(said.contains("heard") != said.contains("silence"), "{said}");
    Ok(said.contains("heard"))
}

#[test]
fn an_isolated_network_has_no_host() -> Result<()> {
    let lab = Lab::new("gwisolated")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let host = lab.host("a")?.on(&wire, "192.0.2.1/24")?;
    let [one, two] = [host.container("one")?, host.container("two")?];
    let daemon = host.weft(&isolated_file("nat"))?;
    let link_local = "fe80::42:aff:fe0f:1%eth0";
    for _ in 0..2 {
        // Internal: the host is there, by every way.
        assert!(host.pings("10.15.0.10")? && host.pings("fd00:15::10")? && one.pings("10.15.0.1")?);
        assert!(one.pings(link_local)? && hears(&host, &one)?);

        daemon.rewrite(&isolated_file("isolated"))?;
        within(WAIT, "the host has no address there", || {
            Ok(host.ip("addr show dev br-closed")?.lines().all(|line| !line.contains("inet")))
        })?;
        within(WAIT, "the host's packets are dropped", || {
            // Also where somebody gives it a way.
            host.run("ip route replace 10.15.0.0/24 dev br-closed")?;
            let before = drops(&daemon, "isolated")?;
            Ok(!host.pings("10.15.0.10")? && drops(&daemon, "isolated")? > before)
        })?;
        // Nor does the host hear what is for everybody, or answer ARP for its other addresses.
        assert!(!hears(&host, &one)? && !one.pings(link_local)? && !one.pings("10.15.0.1")?);
        one.ip("route replace default dev eth0")?;
        assert!(!one.pings("192.0.2.1")?);
        one.run("ip route del default dev eth0")?;
        assert!(one.pings("10.15.0.11")? && two.pings("fd00:15::10")?, "members have one another");
        let networks = daemon.json(&["network", "ls"])?;
        assert!(networks[0]["gateway"].is_null() && networks[0]["gateway_v6"].is_null(), "{networks}");
        assert_eq!(networks[0]["gateway_modes"]["v4"], "isolated", "{networks}");

        daemon.rewrite(&isolated_file("nat"))?;
        within(WAIT, "the host is there again", || {
            Ok(host.pings("10.15.0.10")? && host.pings("fd00:15::10")?)
        })?;
    }
    lab.finish()
}

fn unprotected_file(mode: &str, masquerade: bool) -> String {
    format!(
        r#"
name: suite
networks:
  open:
    driver_opts:
      com.docker.network.bridge.gateway_mode_ipv4: {mode}
      com.docker.network.bridge.enable_ip_masquerade: "{masquerade}"
    ipam: {{ config: [ {{ subnet: 10.14.0.0/24 }} ] }}
services:
  web: {{ networks: {{ open: {{ ipv4_address: 10.14.0.10 }} }}, ports: [ "8080:80" ], x-weft: {{ netns: web }} }}
x-weft: {{ uplinks: [ eth0 ] }}
"#
    )
}

/// Unprotected containers leave with the host's address, or where masquerade is off with their own. A connection to one goes
/// on while the mode stays, and ends with it.
#[test]
fn an_unprotected_network_is_open_until_it_is_not() -> Result<()> {
    let lab = Lab::new("gwopen")?;
    let (_wire, host, client) = host_and_client(&lab)?;
    client.ip("route add 10.14.0.0/24 via 192.0.2.1")?;
    let web = host.container("web")?;
    let daemon = host.weft(&unprotected_file("nat-unprotected", true))?;
    let _servers = [web.serve_whoami(80)?, web.serve_whoami(81)?, client.serve_whoami(7000)?];
    let _echo = web.serve_echo(90)?;
    for (masquerade, seen) in [(true, "192.0.2.1"), (false, "10.14.0.10"), (true, "192.0.2.1")] {
        daemon.rewrite(&unprotected_file("nat-unprotected", masquerade))?;
        within(WAIT, "it leaves so", || Ok(web.whoami("udp", "192.0.2.100:7000")?.ip().to_string() == seen))?;
        assert_eq!(web.whoami("tcp", "192.0.2.100:7000")?.ip().to_string(), seen);
        for (protocol, to) in [("tcp", "10.14.0.10:81"), ("udp", "10.14.0.10:81"), ("tcp", "192.0.2.1:8080")]
        {
            assert_eq!(client.whoami(protocol, to)?.ip().to_string(), "192.0.2.100", "{protocol} {to}");
        }
    }
    // A router on the way says so by its own address, not by that of whom it leads to.
    let said = client.run("ping -n -c 1 -t 1 -W 1 10.14.0.10")?.stdout;
    assert!(said.contains("From 192.0.2.1 ") && said.contains("Time to live exceeded"), "{said}");
    // Bulk data, and a stream of datagrams across the change.
    bulk(&client, &web, "10.14.0.10:9000", 9000, 33_554_432)?;
    let report = client.labtool("udp-ping 10.14.0.10:90 --count 100 --interval-us 1000")?;
    assert_eq!(report["received"], 100, "{report}");
    let is_known = || -> Result<bool> {
        let flows = daemon.json(&["flow", "ls"])?;
        let flows = flows.as_array().context("no list of flows")?;
        Ok(flows.iter().any(|flow| flow["external_address"] == "10.14.0.10"))
    };
    assert!(is_known()?);
    daemon.rewrite(&unprotected_file("nat", true))?;
    within(WAIT, "it is closed", || Ok(!client.pings("10.14.0.10")?))?;
    assert!(!client.reaches("tcp", "10.14.0.10:81")? && client.reaches("tcp", "192.0.2.1:8080")?);
    within(WAIT, "the flows are gone", || Ok(!is_known()?))?;
    lab.finish()
}
