//! The overlay network: two weft hosts, and a host that has the kernel's vxlan device only.

mod common;

use std::time::Duration;

use anyhow::Result;
use common::{
    LIMIT, bulk, datagrams, drops,
    fragments::ORDERS,
    next_hop,
    overlay::{MACS, Overlay, carries, carries_fragments, file},
    packets, within,
};
use tests::{Container, Lab, lab::namespace::labtool_result};

/// Fragments of the inner network pass by themselves, and each is encapsulated whole.
#[test]
fn fragments_in_every_order() -> Result<()> {
    let it = Overlay::new("ofrags")?;
    let [c0, c1] = &it.containers;
    carries_fragments(&it.lab, c0, c1, "10.20.0.6")?;
    let through = packets(&it.daemons[0], "encapsulate")?;
    assert!(through >= 10 * ORDERS.iter().map(|order| order.len() as u64).sum::<u64>(), "{through}");
    it.lab.finish()
}

/// S13: containers on two hosts ping each other; VXLAN between the hosts and nothing else; the world through each host.
#[test]
fn s13_two_hosts() -> Result<()> {
    let it = Overlay::new("s13")?;
    let [c0, c1] = &it.containers;
    let wire = common::capture(
        &it.hosts[1],
        4,
        "ip and not igmp and not (udp port 4789 and net 192.0.2.0/30) and not net 192.0.2.100/32",
    )?;
    assert!(c0.pings("10.20.0.6")? && c1.pings("10.20.0.5")?);
    let _server = c1.serve_whoami(80)?;
    for protocol in ["tcp", "udp"] {
        assert_eq!(c0.whoami(protocol, "10.20.0.6:80")?.ip().to_string(), "10.20.0.5");
    }
    common::nothing_captured(wire)?;
    for daemon in &it.daemons {
        assert!(packets(daemon, "encapsulate")? > 4 && packets(daemon, "decapsulate")? > 4);
    }
    let _outside = it.client.serve_whoami(7000)?;
    assert_eq!(c0.whoami("tcp", "192.0.2.100:7000")?.ip().to_string(), "192.0.2.1");
    assert_eq!(c1.whoami("udp", "192.0.2.100:7000")?.ip().to_string(), "192.0.2.2");
    // The host reaches its own and remote containers through the bridge and the vxlan device.
    assert!(it.hosts[0].pings("10.20.0.5")?);
    assert!(c0.ip("link show dev eth0")?.contains("mtu 1450"));
    it.lab.finish()
}

/// Bulk data in both directions: every byte arrives, no checksum is wrong, a 64 KiB segment is one pass.
#[test]
fn bulk_through_the_tunnel() -> Result<()> {
    let it = Overlay::new("bulk")?;
    let [c0, c1] = &it.containers;
    for (from, to, address) in [(c0, c1, "10.20.0.6"), (c1, c0, "10.20.0.5")] {
        carries(&it.hosts[0], from, to, address, 1400)?;
    }
    for container in &it.containers {
        assert_eq!(container.checksum_errors()?, 0);
    }
    it.lab.finish()
}

/// S17: a host with the kernel's vxlan device and static neighbours is a working peer.
#[test]
fn s17_a_kernel_peer() -> Result<()> {
    let peer = r#"    - { vtep: 192.0.2.3, network: mesh, endpoints: [ { name: k, ipv4_address: 10.20.0.9, mac_address: "02:42:0a:14:00:09" } ] }"#;
    let lab = Lab::new("s17")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let a = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.100")?;
    let kernel = lab.host("k")?.on(&wire, "192.0.2.3/24")?;
    let c0 = a.container("c0")?;
    let daemon = a.weft(&(file(0) + peer))?;
    kernel.ip(
        "link add vx address 02:42:0a:14:00:09 type vxlan id 4097 dstport 4789 local 192.0.2.3 nolearning",
    )?;
    kernel.ip("link set vx mtu 1450 up")?;
    kernel.ip("addr add 10.20.0.9/24 dev vx")?;
    kernel.ip(&format!("neigh add 10.20.0.5 lladdr {} dev vx", MACS[0]))?;
    kernel.check(&format!("bridge fdb add {} dev vx dst 192.0.2.1", MACS[0]))?;
    assert!(c0.pings("10.20.0.9")? && kernel.pings("10.20.0.5")?);
    for (from, to, address) in [(&*c0, &*kernel, "10.20.0.9"), (&*kernel, &*c0, "10.20.0.5")] {
        bulk(from, to, &format!("{address}:9000"), 9000, 50_000_001)?;
        datagrams(from, to, &format!("{address}:9001"), 9001, (2000, 1200, 20))?;
    }
    assert_eq!((c0.checksum_errors()?, kernel.checksum_errors()?), (0, 0));
    assert!(packets(&daemon, "encapsulate")? > 100 && packets(&daemon, "decapsulate")? > 100);
    lab.finish()
}

/// VXLAN for our network from a host that is no peer is dropped, whatever it carries.
#[test]
fn strangers_are_kept_out() -> Result<()> {
    let it = Overlay::new("stranger")?;
    let stranger = &it.client;
    stranger.ip("link add vx type vxlan id 4097 dstport 4789 local 192.0.2.100 nolearning")?;
    stranger.ip("link set vx mtu 1450 up")?;
    stranger.ip("addr add 10.20.0.66/24 dev vx")?;
    stranger.ip(&format!("neigh add 10.20.0.5 lladdr {} dev vx", MACS[0]))?;
    stranger.check(&format!("bridge fdb add {} dev vx dst 192.0.2.1", MACS[0]))?;
    let before = drops(&it.daemons[0], "unknown_peer")?;
    assert!(!stranger.pings("10.20.0.5")?);
    assert!(drops(&it.daemons[0], "unknown_peer")? > before);
    assert!(it.containers[0].pings("10.20.0.6")?, "the peer still is one");
    it.lab.finish()
}

/// Broadcast takes the slow path to every member, and a peer that leaves the file is forgotten.
#[test]
fn broadcast_and_a_leaving_peer() -> Result<()> {
    let it = Overlay::new("broadcast")?;
    let [c0, c1] = &it.containers;
    let mut listener = common::capture(c1, 5, "dst host 10.20.0.255")?;
    c0.run("ping -b -c 3 -i 0.2 -W 1 10.20.0.255")?;
    assert!(listener.wait(LIMIT)?.ok(), "the broadcast came through the vxlan device");
    let alone =
        file(0).lines().filter(|line| !line.contains("vtep: 192.0.2.2")).collect::<Vec<_>>().join("\n");
    let alone = alone.replace("  peers:", "");
    it.daemons[0].rewrite(&alone)?;
    within(Duration::from_secs(3), "the peer is forgotten", || Ok(!c0.pings("10.20.0.6")?))?;
    it.daemons[0].rewrite(&file(0))?;
    within(Duration::from_secs(3), "and known again", || c0.pings("10.20.0.6"))?;
    it.lab.finish()
}

/// A peer that is this host itself is named and ignored: nothing is sent to it, and nothing is taken from it.
#[test]
fn a_peer_with_the_own_address_is_ignored() -> Result<()> {
    let own = r#"    - { vtep: 192.0.2.1, network: mesh, endpoints: [ { name: self, ipv4_address: 10.20.0.77, mac_address: "02:42:0a:14:00:4d" } ] }"#;
    let it = Overlay::new("self")?;
    // With `vtep` in the file this is an error of the file; here it is the uplink's address.
    it.daemons[0].rewrite(&(file(0) + own).replace("  vtep: 192.0.2.1\n", ""))?;
    let problems = || Ok::<_, anyhow::Error>(it.daemons[0].json(&["status"])?["problems"].to_string());
    within(Duration::from_secs(3), "it is named", || {
        Ok(problems()?.contains("\"peer 192.0.2.1\"") && problems()?.contains("this host itself"))
    })?;
    let host = &it.hosts[0];
    let forwarding = host.check("bridge fdb show dev vx-mesh")?;
    assert!(forwarding.contains("dst 192.0.2.2") && !forwarding.contains("dst 192.0.2.1 "), "{forwarding}");
    assert!(!host.ip("neigh show dev br-mesh")?.contains("10.20.0.77"));
    for (map, expected) in [("peers", 1), ("remotes", 1), ("vxlan", 2)] {
        let entries = common::entries(host, &it.daemons[0], map)?;
        assert_eq!(entries.len(), expected, "{map}: {entries:?}");
    }
    assert!(it.containers[0].pings("10.20.0.6")?, "the other peer is served");
    it.lab.finish()
}

/// One entry that the kernel refuses does not stop those of the other overlay networks.
#[test]
fn one_failing_entry_does_not_stop_the_others() -> Result<()> {
    let lab = Lab::new("fdb")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let host = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.100")?;
    let container = host.container("c0")?;
    let text = file(0).replace("services:\n", "  other:\n    driver: overlay\n    driver_opts: { com.docker.network.driver.overlay.vxlanid_list: \"4098\" }\n    ipam: { config: [ { subnet: 10.30.0.0/24 } ] }\nservices:\n")
        + "    - { vtep: 192.0.2.3, network: other, endpoints: [ { name: o, ipv4_address: 10.30.0.6, mac_address: \"02:42:0a:1e:00:06\" } ] }\n";
    let mut daemon = host.weft(&text)?;
    daemon.kill9();
    // As weft made it, but for a limit, which cannot be changed later: it has room for one entry.
    host.check("ip link del vx-mesh && ip link add vx-mesh mtu 1450 type vxlan id 4097 dstport 4789 local 192.0.2.1 nolearning ttl 64 noudpcsum maxaddress 1 && ip link set vx-mesh alias weft:mesh master br-mesh")?;
    for entry in host.check("bridge fdb show dev vx-other")?.lines().filter(|line| line.contains("dst")) {
        let mac = entry.split_whitespace().next().unwrap_or_default();
        host.run(&format!("bridge fdb del {mac} dev vx-other self dst 192.0.2.3"))?;
    }
    host.ip("neigh flush dev br-other nud permanent")?;
    assert!(!host.check("bridge fdb show dev vx-other")?.contains("dst"));
    daemon.restart()?;
    let problems = daemon.json(&["status"])?["problems"].to_string();
    assert!(problems.contains("forwarding entries of network mesh"), "{problems}");
    let forwarding = host.check("bridge fdb show dev vx-other")?;
    assert_eq!(forwarding.matches("dst 192.0.2.3 self static").count(), 2, "{forwarding}");
    assert!(host.ip("neigh show dev br-other")?.contains("10.30.0.6"));
    // The neighbours of the network itself do not depend on its forwarding entries.
    assert!(host.ip("neigh show dev br-mesh")?.contains("10.20.0.6"));
    assert!(container.pings("10.20.0.1")?);
    lab.finish()
}

/// Members of a network without `enable_icc` do not talk to one another on other hosts either, by broadcast as little as
/// by an address that only the bridge knows; both hosts have their own.
#[test]
fn isolated_members_are_so_across_hosts() -> Result<()> {
    let lab = Lab::new("icc")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let a = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.100")?;
    let b = lab.host("b")?.on(&wire, "192.0.2.2/24")?.default_via("192.0.2.100")?;
    let (c0, c1) = (a.container("c0")?, b.container("c1")?);
    // Only one side says so: each must keep its own members apart, whatever the other does.
    let open = |own| file(own);
    let closed = |own| {
        open(own)
            .replace("driver_opts: { ", "driver_opts: { com.docker.network.bridge.enable_icc: \"false\", ")
    };
    let (first, second) = (a.weft(&open(0))?, b.weft(&open(1))?);
    // Broadcast, and unicast to an address that no map knows.
    let reach = |from: &Container, to: &Container, mac: &str| -> Result<bool> {
        let listener = common::capture(to, 3, "udp port 4567")?;
        from.ip("neigh replace 10.20.0.200 lladdr ff:ff:ff:ff:ff:ff dev eth0")?;
        from.ip(&format!("neigh replace 10.20.0.201 lladdr {mac} dev eth0"))?;
        for destination in
            ["UDP:10.20.0.200:4567", "UDP:10.20.0.201:4567", "UDP-DATAGRAM:10.20.0.255:4567,broadcast"]
        {
            for _ in 0..3 {
                from.check(&format!("echo x | socat -u - {destination}"))?;
            }
        }
        Ok(common::captured(listener)?.is_some())
    };
    assert!(c0.pings("10.20.0.6")? && reach(&c0, &c1, MACS[1])?, "the test can see it");
    for (closed_a, closed_b) in [(true, false), (false, true), (true, true)] {
        first.rewrite(&if closed_a { closed(0) } else { open(0) })?;
        second.rewrite(&if closed_b { closed(1) } else { open(1) })?;
        for (daemon, isolated) in [(&first, closed_a), (&second, closed_b)] {
            within(Duration::from_secs(3), "it is applied", || {
                Ok(daemon.command(&["network", "ls"])?.stdout.contains("isolated-members") == isolated)
            })?;
        }
        let which = format!("a closed: {closed_a}, b closed: {closed_b}");
        assert!(!c0.pings("10.20.0.6")? && !c1.pings("10.20.0.5")?, "{which}");
        assert!(!reach(&c0, &c1, MACS[1])? && !reach(&c1, &c0, MACS[0])?, "{which}");
        assert!(c0.pings("10.20.0.1")? && c1.pings("10.20.0.1")?, "{which}: the gateway");
        assert!(a.pings("10.20.0.5")? && b.pings("10.20.0.6")?, "{which}: the own host");
    }
    lab.finish()
}

/// The next hop towards a peer is remembered, and asked for anew once a second.
#[test]
fn a_peer_with_another_mac_is_followed() -> Result<()> {
    let it = Overlay::new("peermac")?;
    let [here, there] = &it.containers;
    let _echo = there.serve_echo(7)?;
    let mut flow = here.start_labtool("udp-ping 10.20.0.6:7 --count 2000 --interval-us 2000")?;
    let remembered = || next_hop::of_peers(&it.hosts[0], &it.daemons[0]);
    let before = next_hop::mac(&it.hosts[1])?;
    within(Duration::from_secs(3), "it is remembered", || Ok(remembered()? == [before.as_str()]))?;
    next_hop::change_mac(&it.hosts[1])?;
    let report = labtool_result(&mut flow, LIMIT)?;
    assert!(report["longest_silence_ms"].as_u64().is_some_and(|silence| silence < 1500), "{report}");
    assert_eq!(remembered()?, [next_hop::OTHER_MAC], "it has changed");
    it.lab.finish()
}
