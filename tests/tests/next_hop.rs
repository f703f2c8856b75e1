//! The next hop of a flow is remembered, and followed when it changes.

mod common;

use std::time::Duration;

use anyhow::{Context, Result};
use common::{
    Family, LIMIT, ONE_HOST, OneHost,
    next_hop::{self, OTHER_MAC, change_mac, mac},
    within,
};
use tests::{Host, lab::namespace::labtool_result};

/// The flows run for four.
const WAIT: Duration = Duration::from_secs(3);

fn next_hops(it: &OneHost) -> Result<Vec<String>> {
    next_hop::of_flows(&it.host, &it.daemon)
}

/// Out of the container and back in through a published port: whoever opened the flow, its packets leave alike.
fn another_mac(family: Family, title: &str) -> Result<()> {
    let it = OneHost::of(family, title, ONE_HOST)?;
    let _echo = [it.client.serve_echo(7)?, it.web.serve_echo(53)?];
    let ping = "--count 2000 --interval-us 2000";
    let mut flows = [
        it.web.start_labtool(&format!("udp-ping {} {ping}", family.at("192.0.2.100", 7)))?,
        it.client.start_labtool(&format!("udp-ping {} {ping}", family.at("192.0.2.1", 5353)))?,
    ];
    let before = mac(&it.client)?;
    within(WAIT, "they are remembered", || Ok(next_hops(&it)? == [before.as_str(); 2]))?;
    change_mac(&it.client)?;
    for flow in &mut flows {
        let report = labtool_result(flow, LIMIT)?;
        assert_eq!(report["corrupted"], 0, "{report}");
        // Once a second the neighbour is asked for anew.
        let silence = report["longest_silence_ms"].as_u64().context("no silence")?;
        assert!(silence < 1500, "{report}");
    }
    assert_eq!(next_hops(&it)?, [OTHER_MAC, OTHER_MAC], "they have changed");
    it.lab.finish()
}

#[test]
fn a_router_with_another_mac_is_followed() -> Result<()> {
    another_mac(Family::V4, "mac")
}

#[test]
fn a_router_with_another_mac_is_followed_over_ipv6() -> Result<()> {
    another_mac(Family::V6, "v6mac")
}

/// The route of flows that run moves to another router.
#[test]
fn another_router_is_followed() -> Result<()> {
    let it = OneHost::new("router")?;
    // Beside the client there is a second way to an address that only the two of them have.
    let second = it.lab.host("second")?.on(&it.wire, "192.0.2.200/24")?.default_via("192.0.2.1")?;
    for router in [&it.client, &second] {
        router.ip("addr add 198.51.100.7/32 dev lo")?;
    }
    let echo = "echo-serve 198.51.100.7:7";
    let _echo = [it.client.serve(echo)?, second.serve(echo)?];
    let mut flow = it.web.start_labtool("udp-ping 198.51.100.7:7 --count 2000 --interval-us 2000")?;
    let routers = [mac(&it.client)?, mac(&second)?];
    within(WAIT, "the first is remembered", || Ok(next_hops(&it)? == routers[..1]))?;
    it.host.ip("route replace 198.51.100.7 via 192.0.2.200")?;
    within(WAIT, "the second is", || Ok(next_hops(&it)? == routers[1..]))?;
    let report = labtool_result(&mut flow, LIMIT)?;
    assert_eq!(report["lost"], 0, "{report}");
    it.lab.finish()
}

/// A rule may send protocols by different routers, and so may a DSCP.
#[test]
fn rules_of_the_host_are_obeyed() -> Result<()> {
    let it = OneHost::new("rules")?;
    let second = it.lab.host("second")?.on(&it.wire, "192.0.2.200/24")?.default_via("192.0.2.1")?;
    for router in [&it.client, &second] {
        router.ip("addr add 198.51.100.7/32 dev lo")?;
    }
    it.host.ip("route add default via 192.0.2.200 table 100")?;
    it.host.ip("rule add to 198.51.100.7 ipproto udp table 100")?;
    it.host.ip("rule add to 198.51.100.7 tos 0x10 table 100")?;
    // Both are in the neighbour table, so both next hops can be remembered.
    for router in ["192.0.2.100", "192.0.2.200"] {
        assert!(it.host.pings(router)?);
    }
    let _echo = [second.serve("echo-serve 198.51.100.7:7")?, it.client.serve("echo-serve 198.51.100.7:9")?];
    let udp = it.web.labtool("udp-ping 198.51.100.7:7 --count 500 --interval-us 1000")?;
    assert_eq!(udp["lost"], 0, "{udp}");
    let tcp = it.web.labtool("latency tcp 198.51.100.7:9 --count 500")?;
    assert_eq!(tcp["lost"], 0, "{tcp}");
    let received = |host: &Host| -> Result<u64> {
        let counters = host.check("nstat -asz IcmpInEchos | grep IcmpInEchos")?;
        Ok(counters.split_whitespace().nth(1).context("no counter")?.parse()?)
    };
    let before = [received(&it.client)?, received(&second)?];
    // One flow, whose packets go by either router.
    for tos in ["0x10", "0", "0x10"] {
        it.web.check(&format!("ping -q -c 50 -i 0.002 -e 7 -Q {tos} 198.51.100.7"))?;
    }
    assert_eq!([received(&it.client)? - before[0], received(&second)? - before[1]], [50, 100]);
    it.lab.finish()
}
