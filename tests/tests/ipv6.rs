//! IPv6 everywhere IPv4 is: the same scenarios in networks with both families, and with IPv6 alone.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{
    bulk, drops, dual_stack,
    fragments::{COUNT, Fragments},
    host_and_client, number, packets, within,
};
use tests::{Container, Daemon, Host, Lab};

/// A host with both families on its uplink, a client outside, and the networks of [`FILE`].
struct Dual {
    lab: Lab,
    host: Host,
    client: Host,
    web: Container,
    shop: Container,
    other: Container,
    db: Container,
    old: Container,
    daemon: Daemon,
}

/// `front`: both families. `only`: IPv6 alone, its subnet leased. `back`: internal. `four`: IPv4 alone.
const FILE: &str = r#"
name: suite
networks:
  front: { enable_ipv6: true, ipam: { config: [ { subnet: 10.10.0.0/24 }, { subnet: "fd00:10::/64" } ] } }
  only: { enable_ipv4: false, enable_ipv6: true }
  back: { internal: true, enable_ipv6: true, ipam: { config: [ { subnet: "fd00:11::/64" } ] } }
  four: { ipam: { config: [ { subnet: 10.14.0.0/24 } ] } }
services:
  web:
    networks: { front: { ipv4_address: 10.10.0.10, ipv6_address: "fd00:10::10" } }
    ports:
      - "8080:80"
      - "[::1]:8443:80"
      - "[2001:db8::1]:8081:80"
      - "0.0.0.0:8084:80"
      - "10000-10009:20000-20009"
      - "5353:53/udp"
      - "12000:12000/udp"
    x-weft: { netns: web }
  shop:
    networks: { front: { ipv6_address: "fd00:10::11" }, back: { ipv6_address: "fd00:11::11" } }
    x-weft: { netns: shop }
  other: { networks: [ only ], x-weft: { netns: other } }
  db: { networks: { back: { ipv6_address: "fd00:11::12" } }, x-weft: { netns: db } }
  old: { networks: [ four ], ports: [ "8090:80" ], x-weft: { netns: old } }
x-weft: { uplinks: [ eth0 ] }
"#;

/// The file with members of `front` that may not talk to one another.
fn isolated(file: &str) -> String {
    file.replace(
        "  front: { enable_ipv6: true,",
        "  front: { driver_opts: { com.docker.network.bridge.enable_icc: \"false\" }, enable_ipv6: true,",
    )
}

impl Dual {
    fn new(title: &str) -> Result<Self> {
        Self::with(title, FILE)
    }

    fn with(title: &str, file: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let (_wire, host, client) = host_and_client(&lab)?;
        dual_stack(&host, &client)?;
        let [web, shop, other] = [host.container("web")?, host.container("shop")?, host.container("other")?];
        let [db, old] = [host.container("db")?, host.container("old")?];
        let daemon = host.weft(file)?;
        Ok(Self { lab, host, client, web, shop, other, db, old, daemon })
    }

    /// The IPv6 address that a container has leased.
    fn address_of(container: &Container) -> Result<String> {
        Self::address_of_scope(container, "global")
    }

    fn address_of_scope(container: &Container, scope: &str) -> Result<String> {
        let shown = container.ip_json("-6 addr show dev eth0")?;
        let addresses = shown[0]["addr_info"].as_array().context("no addresses")?;
        let found = addresses.iter().find(|address| address["scope"] == scope);
        let found = found.and_then(|address| address["local"].as_str());
        Ok(found.with_context(|| format!("no address of scope {scope} in {shown}"))?.to_owned())
    }
}

/// Members, host and gateway reach one another from the first packet on, by the fast path.
#[test]
fn members_and_host_reach_each_other() -> Result<()> {
    let it = Dual::new("v6members")?;
    let before = packets(&it.daemon, "bridge")?;
    assert!(it.web.pings("fd00:10::11")?);
    assert!(it.shop.pings("fd00:10::10")?);
    assert!(packets(&it.daemon, "bridge")? >= before + 4, "the fast path carried it");
    assert!(it.web.pings("fd00:10::1")?, "the gateway");
    assert!(it.web.pings("2001:db8::1")?, "the host's other address");
    assert!(it.host.pings("fd00:10::10")?);
    assert!(it.db.pings("fd00:11::1")?, "an internal network has its host");
    assert!(it.host.pings("fd00:11::12")?);
    assert!(it.web.pings("10.10.0.1")? && it.old.pings("10.14.0.1")?, "IPv4 is what it was");
    // A leased address and subnet; no IPv4 where there is to be none.
    let address = Dual::address_of(&it.other)?;
    assert!(address.starts_with("fd") && it.host.pings(&address)?, "{address}");
    assert_eq!(it.other.ip("-4 addr show dev eth0")?, "");
    // Not from network to network, and not into an IPv4 network.
    assert!(!it.other.pings("fd00:10::10")?);
    assert!(!it.web.pings(&address)?);
    assert!(drops(&it.daemon, "isolated")? > 0);
    // Every byte arrives.
    bulk(&it.web, &it.shop, "[fd00:10::11]:9", 9, 33_554_432)?;
    it.lab.finish()
}

/// Neighbours that have not been heard for a while are asked whether they are still there, and answer: nothing of that is
/// dropped.
#[test]
fn neighbours_may_be_probed() -> Result<()> {
    let it = Dual::new("v6neighbours")?;
    // The network of both is the first of the one and the second of the other.
    for (container, device) in [(&it.web, "eth0"), (&it.shop, "eth1")] {
        container.check(&format!(
            "cd /proc/sys/net/ipv6/neigh/{device}; echo 100 > base_reachable_time_ms; echo 0 > delay_first_probe_time"
        ))?;
    }
    // From its link-local address, at the neighbour's own, and answered there.
    let asked = "icmp6[0] == 135 and ip6 src net fe80::/10 and not ip6 multicast";
    let asked = common::capture(&it.web, 10, asked)?;
    let answered = common::capture(&it.web, 10, "icmp6[0] == 136 and ip6 dst net fe80::/10")?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert!(it.web.pings("fd00:10::1")? && it.shop.pings("fd00:10::10")?);
    }
    for (what, heard) in [("asked", asked), ("answered", answered)] {
        assert!(common::captured(heard)?.is_some(), "nobody {what}");
    }
    assert_eq!(drops(&it.daemon, "spoofed_address")?, 0);
    it.lab.finish()
}

/// The same where the bridge answers for neighbours: the server of a published port, whose client is one, asks it whether
/// the client is still there.
#[test]
fn isolated_neighbours_may_be_probed() -> Result<()> {
    let it = Dual::with("v6probes", &isolated(FILE))?;
    let _dns = it.web.serve_echo(53)?;
    it.web.check(
        "cd /proc/sys/net/ipv6/neigh/eth0; echo 1 > base_reachable_time_ms; echo 0 > delay_first_probe_time; \
         echo 1 > retrans_time_ms",
    )?;
    let mut monitor = it.web.spawn("exec timeout 4 ip monitor neigh")?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let report = it.shop.labtool("udp-ping [2001:db8::1]:5353 --count 50 --size 100")?;
        assert_eq!(number(&report, "received"), 50, "{report}");
    }
    let seen = monitor.wait(Duration::from_secs(10))?.stdout;
    let states = |state: &str| {
        seen.lines().filter(|line| line.contains("fd00:10::11 ") && line.contains(state)).count()
    };
    assert!(states("PROBE") > 20 && states("FAILED") == 0, "{seen}");
    assert_eq!(drops(&it.daemon, "inter_container_disabled")?, 0);
    it.lab.finish()
}

/// The world sees the uplink's global address, and answers come back.
#[test]
fn masquerade() -> Result<()> {
    let it = Dual::new("v6masquerade")?;
    let _server = it.client.serve_whoami(7000)?;
    for container in [&it.web, &it.other] {
        for protocol in ["tcp", "udp"] {
            let seen = container.whoami(protocol, "[2001:db8::100]:7000")?;
            assert_eq!(seen.ip().to_string(), "2001:db8::1", "{} {protocol}", container.name());
        }
        assert!(container.pings("2001:db8::100")?, "{}", container.name());
    }
    assert!(packets(&it.daemon, "masquerade_out")? > 8 && packets(&it.daemon, "masquerade_in")? > 8);
    it.db.ip("route add 2001:db8::100 via fd00:11::1")?;
    assert!(!it.db.pings("2001:db8::100")?, "an internal network does not reach the world");
    assert!(drops(&it.daemon, "internal")? > 0);
    assert_eq!(it.web.whoami("tcp", "192.0.2.100:7000")?.ip().to_string(), "192.0.2.1", "as ever by IPv4");
    // A closed port is told to the sender, through the translation.
    let refused = it.web.labtool("udp-send [2001:db8::100]:10 --count 200");
    assert!(refused.is_err_and(|error| format!("{error:#}").contains("Connection refused")));
    assert!(packets(&it.daemon, "icmp_error")? > 0);
    // Bulk both ways, and datagrams in fragments.
    bulk(&it.web, &it.client, "[2001:db8::100]:9", 9, 33_554_432)?;
    let _echo = it.client.serve_echo(11)?;
    let report = it.web.labtool("udp-ping [2001:db8::100]:11 --count 50 --size 4000")?;
    assert_eq!(number(&report, "received"), 50, "{report}");
    it.lab.finish()
}

/// Every form of publication, from everywhere, with the client's address kept.
#[test]
fn published_ports() -> Result<()> {
    let it = Dual::new("v6ports")?;
    let _web = it.web.serve_whoami(80)?;
    let _dns = it.web.serve_whoami(53)?;
    let _range = it.web.serve_whoami(20003)?;
    let _old = it.old.serve_whoami(80)?;
    let other = Dual::address_of(&it.other)?;
    // (from, protocol, to, the client that the container sees)
    let cases = [
        (&*it.client, "tcp", "[2001:db8::1]:8080", "2001:db8::100"),
        (&*it.client, "tcp", "[2001:db8::1]:8081", "2001:db8::100"),
        (&*it.client, "tcp", "[2001:db8::1]:10003", "2001:db8::100"),
        (&*it.client, "udp", "[2001:db8::1]:5353", "2001:db8::100"),
        (&*it.client, "tcp", "192.0.2.1:8080", "192.0.2.100"),
        (&*it.client, "tcp", "192.0.2.1:8084", "192.0.2.100"),
        (&*it.shop, "tcp", "[2001:db8::1]:8080", "fd00:10::11"),
        (&*it.shop, "tcp", "[fd00:10::1]:8080", "fd00:10::11"),
        (&*it.shop, "udp", "[fd00:10::1]:5353", "fd00:10::11"),
        (&*it.other, "tcp", "[2001:db8::1]:8080", &other),
        (&*it.other, "udp", "[2001:db8::1]:5353", &other),
        (&*it.web, "tcp", "[2001:db8::1]:8080", "fd00:10::1"),
        (&*it.web, "udp", "[2001:db8::1]:5353", "fd00:10::1"),
        (&*it.host, "tcp", "[::1]:8080", "fd00:10::1"),
        (&*it.host, "udp", "[::1]:5353", "fd00:10::1"),
        (&*it.host, "tcp", "[::1]:8443", "fd00:10::1"),
        (&*it.host, "tcp", "[2001:db8::1]:8080", "fd00:10::1"),
        (&*it.host, "tcp", "127.0.0.1:8080", "10.10.0.1"),
        // What has only IPv4 is reached by the host's own [::1], as by Docker's proxy.
        (&*it.host, "tcp", "[::1]:8090", "10.14.0.1"),
    ];
    for (from, protocol, to, expected) in &cases {
        let seen = from.whoami(protocol, to)?;
        assert_eq!(seen.ip().to_string(), *expected, "{} -> {protocol} {to}", from.name());
    }
    // Not published here, or not for this family.
    for (from, to) in [
        (&*it.client, "[2001:db8::1]:8443"),
        (&*it.client, "[2001:db8::1]:8084"),
        (&*it.client, "192.0.2.1:8081"),
        (&*it.client, "[2001:db8::1]:8090"),
        (&*it.client, "[2001:db8::1]:80"),
        (&*it.db, "[fd00:11::1]:8080"),
    ] {
        assert!(!from.reaches("tcp", to)?, "{} reaches {to}", from.name());
    }
    for path in ["portmap_in", "portmap_out", "hairpin_in", "hairpin_out", "host_socket"] {
        assert!(packets(&it.daemon, path)? > 0, "{path} never moved");
    }
    // It belongs to its container.
    let bound = common::bind(&it.host, "::1", 8080)?;
    assert!(bound.stderr.contains("Address already in use"), "{bound:?}");
    // Nor is a port of one family free for a wildcard of the other.
    for (address, port) in [("::", 8084), ("0.0.0.0", 8081)] {
        let bound = common::bind(&it.host, address, port)?;
        assert!(bound.stderr.contains("Address already in use"), "{address}:{port} {bound:?}");
    }
    // The host's link-local address has no published port; a server of its own is reached there.
    it.host.ip("addr add fe80::1/64 dev eth0 nodad")?;
    it.client.ip("addr add fe80::100/64 dev eth0 nodad")?;
    let _own = it.host.serve_whoami(8444)?;
    let connect = |port: u16| {
        it.client.run(&format!(
            "python3 -c \"import socket; socket.create_connection(('fe80::1%eth0', {port}), 5)\""
        ))
    };
    connect(8444)?.expect_ok()?;
    let refused = connect(8080)?;
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    // Datagrams in fragments, both ways.
    let _echo = it.web.serve_echo(12000)?;
    let report = it.client.labtool("udp-ping [2001:db8::1]:12000 --count 50 --size 4000")?;
    assert_eq!(number(&report, "received"), 50, "{report}");
    // A direct route to the container's network is no way in.
    it.client.ip("route add fd00:10::/64 via 2001:db8::1")?;
    assert!(!it.client.pings("fd00:10::10")?);
    assert!(drops(&it.daemon, "direct_routing")? > 0);
    it.lab.finish()
}

/// Fragments in every order, by the ways that need ports and by those that do not.
#[test]
fn fragments_pass_in_every_order() -> Result<()> {
    let it = Dual::new("v6frags")?;
    let tool = Fragments::new(&it.lab)?;
    tool.exchange(&it.web, &it.client, "2001:db8::100", (9001, 9001))?;
    assert!(packets(&it.daemon, "fragment_waits")? > 0, "nothing waited");
    tool.exchange(&it.client, &it.web, "2001:db8::1", (12000, 12000))?;
    tool.exchange(&it.other, &it.web, "2001:db8::1", (12000, 12000))?;
    tool.exchange(&it.shop, &it.web, "fd00:10::10", (12000, 12000))?;
    tool.exchange(&it.host, &it.web, "fd00:10::10", (12000, 12000))?;
    for order in ["012", "210", "120", "2210"] {
        let answered = tool.ping(&it.web, "2001:db8::100", order, COUNT)?;
        assert_eq!(answered, COUNT, "echo in order {order}");
    }
    assert_eq!(drops(&it.daemon, "fragment")?, 0);
    // What has no first is dropped and counted.
    assert_eq!(tool.ask(&it.web, "2001:db8::100", 9001, "12345", 1)?, 0);
    within(Duration::from_secs(2), "they are dropped", || Ok(drops(&it.daemon, "fragment")? == 10))?;
    it.lab.finish()
}

/// Members that may not talk to one another reach what the other publishes, for the bridge answers neighbour discovery.
#[test]
fn isolated_members_reach_published_ports() -> Result<()> {
    let it = Dual::with("v6isolated", &isolated(FILE))?;
    let _web = it.web.serve_whoami(80)?;
    let _dns = it.web.serve_whoami(53)?;
    for (protocol, to) in
        [("tcp", "[2001:db8::1]:8080"), ("tcp", "[fd00:10::1]:8080"), ("udp", "[2001:db8::1]:5353")]
    {
        assert_eq!(it.shop.whoami(protocol, to)?.ip().to_string(), "fd00:10::11", "{protocol} {to}");
    }
    assert!(!it.shop.reaches("tcp", "[fd00:10::10]:80")?, "icc is off");
    assert!(drops(&it.daemon, "inter_container_disabled")? > 0);
    // Nor by way of the host, which forwards between link-local addresses if it is given the frame. (`shop` has this network
    // at its second interface.)
    let link_local = Dual::address_of_scope(&it.web, "link")?;
    let bridge =
        it.host.ip_json("link show dev br-front")?[0]["address"].as_str().unwrap_or_default().to_owned();
    it.shop.ip(&format!("-6 neigh replace {link_local} lladdr {bridge} dev eth1"))?;
    let before = drops(&it.daemon, "inter_container_disabled")?;
    assert!(!it.shop.pings(&format!("{link_local}%eth1"))?);
    assert!(drops(&it.daemon, "inter_container_disabled")? > before, "the host does not forward it");
    it.shop.ip(&format!("-6 neigh del {link_local} dev eth1"))?;
    assert!(it.web.pings("fd00:10::1")? && it.web.pings("2001:db8::100")?);
    for damage in
        ["sysctl -w net.ipv6.conf.br-front.proxy_ndp=0", "ip neigh del proxy fd00:10::11 dev br-front"]
    {
        it.host.check(damage)?;
        within(Duration::from_secs(12), "the bridge answers again", || {
            it.web.check("ip neigh flush dev eth0")?;
            Ok(it.shop.whoami("tcp", "[2001:db8::1]:8080").is_ok())
        })?;
    }
    it.lab.finish()
}

/// `web` in `only` as well.
fn both(file: &str) -> String {
    file.replace("ipv6_address: \"fd00:10::10\" } }\n", "ipv6_address: \"fd00:10::10\" }, only: {} }\n")
}

/// A client that shares a network with the container, but not the one that its published ports lead to.
#[test]
fn published_ports_of_a_neighbour_elsewhere() -> Result<()> {
    let it = Dual::with("v6elsewhere", &both(FILE))?;
    let _web = it.web.serve_whoami(80)?;
    let other = Dual::address_of(&it.other)?;
    assert_eq!(it.other.whoami("tcp", "[2001:db8::1]:8080")?.ip().to_string(), other);
    assert_eq!(drops(&it.daemon, "spoofed_address")?, 0);
    it.lab.finish()
}

/// The same as soon as `apply` has answered, and by the first packet: `web` has to ask for its client by an interface that
/// has just come, with nothing but the link-local address there to ask with.
#[test]
fn the_first_packet_of_a_neighbour_elsewhere_is_answered() -> Result<()> {
    let it = Dual::new("v6first")?;
    let _web = it.web.serve_whoami(80)?;
    it.daemon.rewrite(&both(FILE))?;
    it.daemon.command(&["apply", "-f", &it.daemon.file().display().to_string()])?.expect_ok()?;
    assert_eq!(it.web.ip("-6 addr show tentative")?, "");
    it.other.whoami("tcp", "[2001:db8::1]:8080")?;
    assert_eq!(it.other.check("nstat -asz TcpRetransSegs | awk '/^Tcp/ { print $2 }'")?.trim(), "0");
    it.lab.finish()
}

/// Nobody speaks for another: neither in packets nor in neighbour discovery, and nobody but the bridge is a router.
#[test]
fn spoofing_is_dropped() -> Result<()> {
    let it = Dual::new("v6spoof")?;
    // With raw sockets: the daemon takes an address that is added behind its back away within milliseconds.
    let send = |mac: &str, source: &str, destination: &str, protocol: u8, payload: &str| {
        it.web.check(&format!(
            "python3 -c \"
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); own = s.getsockname()[4]
ip = lambda text: socket.inet_pton(socket.AF_INET6, text)
source, destination, payload = ip('{source}'), ip('{destination}'), {payload}
pseudo = source + destination + struct.pack('!II', len(payload), {protocol})
total = sum(struct.unpack('!%dH' % (len(pseudo + payload) // 2), pseudo + payload))
while total >> 16: total = (total & 0xffff) + (total >> 16)
payload = payload[:2] + struct.pack('!H', ~total & 0xffff) + payload[4:]
s.send(b'\\x33\\x33\\0\\0\\0\\1' + {mac} + b'\\x86\\xdd' + struct.pack('!IHBB', 6 << 28, len(payload), {protocol}, 255) + source + destination + payload)
\""
        ))
    };
    let echo = "bytes([128, 0, 0, 0, 0, 1, 0, 1])";
    let advertisement = "bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + ip('fd00:10::11') + bytes([2, 1]) + own";
    let foreign_mac =
        "bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + ip('fd00:10::10') + bytes([2, 1, 2, 0, 0, 0, 0, 9])";
    let link_local = &Dual::address_of_scope(&it.web, "link")?;
    // From an address that is its own: only that it is no router is wrong.
    let router = "bytes([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])";
    for (reason, mac, source, payload) in [
        ("spoofed_address", "own", "fd00:10::99", echo),
        ("spoofed_address", "own", "fd00:10::10", advertisement),
        ("spoofed_address", "own", link_local, router),
        ("spoofed_mac", "own", "fd00:10::10", foreign_mac),
        ("spoofed_mac", "bytes([2, 0, 0, 0, 0, 9])", "fd00:10::10", echo),
    ] {
        let before = drops(&it.daemon, reason)?;
        send(mac, source, "ff02::1", 58, payload)?;
        assert!(drops(&it.daemon, reason)? > before, "{reason}: {source} {payload}");
    }
    it.lab.finish()
}

/// What is changed behind the daemon's back is put right: the address of a bridge, of a container, its default route, and
/// an address that somebody gives it.
#[test]
fn what_somebody_changes_is_put_right() -> Result<()> {
    let it = Dual::new("v6drift")?;
    let works = || -> Result<bool> {
        let shown = it.web.ip("-6 addr show dev eth0 scope global")?;
        Ok(shown.contains("fd00:10::10/64")
            && !shown.contains("fd00:10::99")
            && it.host.pings("fd00:10::10")?
            && it.web.pings("2001:db8::100")?)
    };
    assert!(works()?);
    for (place, damage) in [
        (&*it.host, "addr del fd00:10::1/64 dev br-front"),
        (&*it.web, "addr del fd00:10::10/64 dev eth0"),
        (&*it.web, "-6 route del default"),
        (&*it.web, "-6 route flush dev eth0"),
        (&*it.web, "addr add fd00:10::99/64 dev eth0 nodad"),
    ] {
        place.ip(damage)?;
        within(Duration::from_secs(12), damage, works)?;
    }
    it.lab.finish()
}
