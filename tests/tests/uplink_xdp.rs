//! XDP on uplinks, on veth: datagrams of flows go past tc, everything else goes on as without it.

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{
    Family, ONE_HOST, OneHost, bulk, number,
    overlay::{self, Overlay},
    packets, within,
};
use serde_json::Value;
use tests::Namespace;

const WAIT: Duration = Duration::from_secs(10);

/// A file with this mode of XDP on its uplink.
fn by_xdp(file: &str, mode: &str) -> String {
    file.replace("uplinks: [ eth0 ]", &format!("uplinks: [ {{ name: eth0, xdp: {mode} }} ]"))
}

/// [`ONE_HOST`] likewise.
fn file(mode: &str) -> String {
    by_xdp(ONE_HOST, mode)
}

/// Whether the sockets of a namespace leave checksums to the NIC: then a veth brings packets without.
fn offload(place: &Namespace, on: bool) -> Result<()> {
    place.check(&format!("ethtool -K eth0 tx {}", if on { "on" } else { "off" })).map(drop)
}

/// What `status` says of XDP on the only uplink.
fn xdp(it: &OneHost) -> Result<Value> {
    Ok(it.daemon.json(&["status"])?["uplinks"][0]["xdp"].clone())
}

/// What the kernel says: `xdp` is a program in the driver, `xdpgeneric` one in its place.
fn attached(it: &OneHost) -> Result<Vec<String>> {
    let shown = it.host.ip("-details link show dev eth0")?;
    let words =
        shown.split_whitespace().filter(|word| word.starts_with("xdp") || word.starts_with("prog/xdp"));
    Ok(words.map(str::to_owned).collect())
}

/// Datagrams of one exchange: fewer than a veth that runs XDP has room for, 256, while nobody takes them out.
const COUNT: u64 = 200;

/// Sends so many datagrams to an echo server; every one is answered.
fn echo(from: &Namespace, server: &str, size: usize) -> Result<()> {
    let report =
        from.labtool(&format!("udp-ping {server} --count {COUNT} --interval-us 1000 --size {size}"))?;
    let counts = ["received", "lost", "corrupted", "duplicates"].map(|key| number(&report, key));
    ensure!(counts == [COUNT, 0, 0, 0], "{server}: {report}");
    Ok(())
}

#[test]
fn datagrams_go_by_xdp() -> Result<()> {
    served(Family::V4, "xdp")
}

#[test]
fn datagrams_go_by_xdp_over_ipv6() -> Result<()> {
    served(Family::V6, "v6xdp")
}

fn served(family: Family, title: &str) -> Result<()> {
    let it = OneHost::of(family, title, &file("on"))?;
    let status = xdp(&it)?;
    assert_eq!(
        (status["wanted"].as_str(), status["mode"].as_str()),
        (Some("on"), Some("native")),
        "{status}"
    );
    assert_eq!(attached(&it)?, ["xdp", "prog/xdp"]);
    let _inside = it.web.serve_echo(53)?;
    let _outside = it.client.serve_echo(7)?;
    // With complete checksums: by XDP, but for what opens the flow.
    for (from, to, path) in [
        (&*it.client, family.at("192.0.2.1", 5353), "portmap_in"),
        (&*it.web, family.at("192.0.2.100", 7), "masquerade_in"),
    ] {
        for size in [20, 64, 1400] {
            offload(&it.client, false)?;
            let (before, by_xdp) = (it.packets(path)?, it.packets("xdp")?);
            echo(from, &to, size)?;
            let (carried, by_xdp) = (it.packets(path)? - before, it.packets("xdp")? - by_xdp);
            assert!(
                carried == COUNT && (COUNT - 5..=COUNT).contains(&by_xdp),
                "{path}: {by_xdp} of {carried} by XDP"
            );
            // Without: by tc, and all arrive all the same.
            offload(&it.client, true)?;
            let (before, by_xdp) = (it.packets(path)?, it.packets("xdp")?);
            echo(from, &to, size)?;
            let (carried, by_xdp) = (it.packets(path)? - before, it.packets("xdp")? - by_xdp);
            // One in 65,536 is right by chance, and is right where it arrives.
            assert!(
                carried == COUNT && by_xdp <= 1,
                "{path}: {by_xdp} of {carried} by XDP, without checksums"
            );
        }
    }
    // A flow goes on where it was begun elsewhere: the same socket, with its checksums now complete and now not.
    let mut ping = it.client.start_labtool(&format!(
        "udp-ping {} --count 150 --interval-us 20000",
        family.at("192.0.2.1", 5353)
    ))?;
    let by_xdp = it.packets("xdp")?;
    for _ in 0..4 {
        offload(&it.client, false)?;
        std::thread::sleep(Duration::from_millis(300));
        offload(&it.client, true)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    let report = tests::lab::namespace::labtool_result(&mut ping, common::LIMIT)?;
    assert_eq!(number(&report, "lost"), 0, "{report}");
    let by_xdp = it.packets("xdp")? - by_xdp;
    assert!((15..135).contains(&by_xdp), "{by_xdp} of 150 by XDP");
    for namespace in [&*it.web, &*it.client] {
        assert_eq!(namespace.checksum_errors()?, 0);
    }
    it.lab.finish()
}

#[test]
fn tcp_is_as_without() -> Result<()> {
    let it = OneHost::with("xdptcp", &file("on"))?;
    let _web = it.web.serve_http(81, "hello")?;
    let _server = it.client.serve_whoami(7000)?;
    let by_xdp = it.packets("xdp")?;
    for on in [true, false] {
        offload(&it.client, on)?;
        bulk(&it.client, &it.web, "192.0.2.1:8080", 80, 50_000_003)?;
        bulk(&it.web, &it.client, "192.0.2.100:9000", 9000, 50_000_003)?;
        assert_eq!(it.client.curl("http://192.0.2.1:8082")?.stdout, "hello");
        assert_eq!(it.web.whoami("tcp", "192.0.2.100:7000")?.ip().to_string(), "192.0.2.1");
        assert!(it.web.pings("192.0.2.100")? && it.shop.pings("10.10.0.10")?);
    }
    assert_eq!(it.packets("xdp")?, by_xdp);
    // Early, and for the same reason: the client has a route, and the network is not for those who have one.
    it.client.ip("route add 10.10.0.0/24 via 192.0.2.1")?;
    let dropped = it.drops("direct_routing")?;
    assert!(!it.client.pings("10.10.0.10")? && !it.client.reaches("tcp", "10.10.0.10:81")?);
    let (dropped, by_xdp) = (it.drops("direct_routing")? - dropped, it.packets("xdp")? - by_xdp);
    assert!(dropped >= 3 && dropped == by_xdp, "{by_xdp} of {dropped} by XDP");
    it.lab.finish()
}

#[test]
fn frames_of_a_tunnel_go_by_xdp() -> Result<()> {
    let it = Overlay::of("xdpvx", |own| by_xdp(&overlay::file(own), "on"))?;
    let [c0, c1] = &it.containers;
    let _server = c1.serve_echo(7)?;
    for (on, size) in [(false, 64), (false, 1400), (true, 64)] {
        for container in &it.containers {
            offload(container, on)?;
        }
        let before = packets(&it.daemons[1], "xdp")?;
        echo(c0, "10.20.0.6:7", size)?;
        let by_xdp = packets(&it.daemons[1], "xdp")? - before;
        // The first of them may go through the vxlan device while neighbours are asked for.
        assert!(
            if on { by_xdp <= 1 } else { by_xdp >= COUNT - 5 },
            "{by_xdp} of {COUNT} by XDP, offload {on}"
        );
        bulk(c0, c1, "10.20.0.6:9000", 9000, 20_000_003)?;
    }
    for container in &it.containers {
        assert_eq!(container.checksum_errors()?, 0);
    }
    it.lab.finish()
}

/// Nobody notices when the daemon is killed, and what its successor has attached is what was there.
#[test]
fn it_outlives_the_daemon_and_goes_with_teardown() -> Result<()> {
    let mut it = OneHost::with("xdplife", &file("on"))?;
    offload(&it.client, false)?;
    let _inside = it.web.serve_echo(53)?;
    let ping = |count: u64| {
        it.client.start_labtool(&format!("udp-ping 192.0.2.1:5353 --count {count} --interval-us 5000"))
    };
    let mut ping = ping(1200)?;
    let pin = |it: &OneHost| -> Result<std::path::PathBuf> {
        let links = it.daemon.bpf_dir().join("v1/links");
        let pin = std::fs::read_dir(&links)?.flatten().map(|entry| entry.path());
        let mut pin = pin.filter(|path| path.to_string_lossy().contains("uplink_xdp-"));
        pin.next().context("no link is pinned")
    };
    let link = |it: &OneHost| -> Result<String> {
        let shown = it.host.check(&format!("bpftool link show pinned {}", pin(it)?.display()))?;
        Ok(shown.lines().next().unwrap_or_default().to_owned())
    };
    let before = link(&it)?;
    it.daemon.kill9();
    std::thread::sleep(Duration::from_millis(500));
    it.daemon.restart()?;
    let after = link(&it)?;
    let id = |shown: &str| shown.split(':').next().map(str::to_owned);
    assert!(id(&before) == id(&after) && before != after, "the link runs another program: {before}, {after}");
    it.daemon.terminate()?;
    it.daemon.restart()?;
    let report = tests::lab::namespace::labtool_result(&mut ping, common::LIMIT)?;
    assert_eq!(number(&report, "lost"), 0, "{report}");

    // Removed behind its back it comes again.
    std::fs::remove_file(pin(&it)?)?;
    within(WAIT, "it is gone", || Ok(attached(&it)?.is_empty() || pin(&it).is_ok()))?;
    within(Duration::from_secs(20), "it is there again", || {
        Ok(pin(&it).is_ok() && attached(&it)? == ["xdp", "prog/xdp"])
    })?;
    // Off and on by the file; `auto` is off on a veth, and says why.
    for (mode, wanted, native) in [
        ("off", "off", false),
        ("on", "on", true),
        ("auto", "auto", false),
        ("true", "on", true),
        ("false", "off", false),
    ] {
        it.daemon.rewrite(&file(mode))?;
        within(WAIT, mode, || {
            let status = xdp(&it)?;
            Ok(status["wanted"] == wanted && status["mode"] == if native { "native" } else { "none" })
        })?;
        assert_eq!(attached(&it)?.is_empty(), !native, "{mode}");
        echo(&it.client, "192.0.2.1:5353", 64)?;
    }
    it.daemon.rewrite(&file("auto"))?;
    within(WAIT, "auto", || Ok(xdp(&it)?["reason"].as_str().is_some_and(|reason| reason.contains("veth"))))?;
    let table = it.daemon.command(&["status"])?.expect_ok()?.stdout;
    assert!(table.contains("none (auto: a veth that runs it"), "{table}");
    it.daemon.rewrite(&file("on"))?;
    within(WAIT, "on", || Ok(xdp(&it)?["mode"] == "native"))?;
    it.daemon.teardown()?;
    assert!(attached(&it)?.is_empty());
    it.lab.finish()
}

/// It is said, tc serves, and nothing runs in generic mode.
#[test]
fn without_native_support_tc_serves() -> Result<()> {
    let it = OneHost::with("xdpnone", &file("on"))?;
    let _web = it.web.serve_http(80, "hello")?;
    let problem = |object: &str, words: &str| -> Result<bool> {
        let status = it.daemon.json(&["status"])?;
        let uplink = &status["uplinks"][0];
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let named = problems.iter().any(|problem| {
            problem["object"] == object && problem["reason"].as_str().is_some_and(|it| it.contains(words))
        });
        let reason = uplink["xdp"]["reason"].as_str().unwrap_or_default();
        Ok(named && uplink["xdp"]["mode"] == "none" && reason.contains(words))
    };
    // A bridge, as on many a virtual machine host.
    for words in [
        "link add up0 type bridge stp_state 0",
        "address flush dev eth0",
        "link set eth0 master up0",
        "address add 192.0.2.1/24 dev up0",
        "link set up0 up",
        "route add default via 192.0.2.100",
    ] {
        it.host.ip(words)?;
    }
    it.daemon.rewrite(&file("on").replace("name: eth0", "name: up0"))?;
    within(WAIT, "it says so", || problem("uplink up0", "the driver bridge has no native XDP"))?;
    assert!(!it.host.ip("-details link show")?.contains("xdpgeneric"));
    within(WAIT, "the port is served", || Ok(it.client.curl("http://192.0.2.1:8080")?.stdout == "hello"))?;
    it.host.ip("link del up0")?;
    it.lab.finish()
}
