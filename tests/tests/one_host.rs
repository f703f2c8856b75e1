//! Scenarios of one host, with real tools: who reaches whom, as whom, and by which path.

mod common;

use std::time::Duration;

use anyhow::Result;
use common::{ONE_HOST, OneHost, within};

/// S1: containers of one network reach each other, the host, and are reached by the host.
#[test]
fn s1_members_and_host_reach_each_other() -> Result<()> {
    let it = OneHost::new("s1")?;
    let before = it.packets("bridge")?;
    assert!(it.web.pings("10.10.0.11")?);
    assert!(it.shop.pings("10.10.0.10")?);
    assert!(it.packets("bridge")? >= before + 4, "the fast path carried it");
    assert!(it.web.pings("10.10.0.1")?, "the gateway");
    assert!(it.web.pings("192.0.2.1")?, "the host's other address");
    assert!(it.host.pings("10.10.0.10")?);
    assert!(it.db.pings("10.11.0.1")?, "an internal network has its host");
    assert!(it.host.pings("10.11.0.12")?);
    it.lab.finish()
}

/// S1: an address, a MAC address and a default route without a word in the file; kept over restarts.
#[test]
fn s1_what_is_not_given_is_leased_and_kept() -> Result<()> {
    const FILE: &str = "
services:
  web: { x-weft: { netns: web } }
  db: { x-weft: { netns: db } }
x-weft: { uplinks: [ eth0 ] }
";
    let mut it = OneHost::with("lease", FILE)?;
    let endpoints = it.daemon.json(&["endpoint", "ls"])?;
    // Duplicate address detection of the link-local address may end in between.
    let interface = |container: &tests::Container| -> Result<String> {
        Ok(container.ip_json("addr show dev eth0")?.to_string().replace(",\"tentative\":true", ""))
    };
    let before = (interface(&it.web)?, interface(&it.db)?);
    assert!(it.web.ip("route show default")?.contains("default via 172."), "{endpoints}");
    let address = |it: &OneHost| -> Result<String> {
        let shown = it.db.ip_json("-4 addr show dev eth0")?;
        Ok(shown[0]["addr_info"][0]["local"].as_str().unwrap_or_default().to_owned())
    };
    assert!(it.web.pings(&address(&it)?)?);
    it.daemon.kill9();
    it.daemon.restart()?;
    assert_eq!(before, (interface(&it.web)?, interface(&it.db)?), "a restart touches nothing");
    // A container that went away and came back has the address it had.
    let had = address(&it)?;
    it.daemon.rewrite(&FILE.replace("  db: { x-weft: { netns: db } }\n", ""))?;
    within(Duration::from_secs(5), "db loses its interface", || Ok(!it.db.has_device("eth0")?))?;
    it.daemon.rewrite(FILE)?;
    within(Duration::from_secs(5), "db has its address again", || Ok(address(&it)? == had))?;
    it.lab.finish()
}

/// S2: containers reach the world with the host's address; replies come straight back.
#[test]
fn s2_masquerade() -> Result<()> {
    let it = OneHost::new("s2")?;
    let _server = it.client.serve_whoami(7000)?;
    for protocol in ["tcp", "udp"] {
        let seen = it.web.whoami(protocol, "192.0.2.100:7000")?;
        assert_eq!(seen.ip().to_string(), "192.0.2.1", "{protocol}");
    }
    assert!(it.web.pings("192.0.2.100")?);
    // Of TCP three segments each way at least, with SYN, FIN and the last ACK: how many more there are is its own affair.
    let carried = [it.packets("masquerade_out")?, it.packets("masquerade_in")?];
    assert!(carried.iter().all(|&packets| packets > 4), "out and in: {carried:?}");
    assert_eq!(it.db.ip("route show default")?, "");
    assert_eq!(it.drops("internal")?, 0);
    it.db.ip("route add 192.0.2.100 via 10.11.0.1")?;
    assert!(!it.db.pings("192.0.2.100")?, "an internal network does not reach the world");
    assert!(it.drops("internal")? > 0);

    // No container address is ever seen on the wire.
    let capture = common::capture(&it.client, 3, "net 10.0.0.0/8")?;
    let mut receiver = it.client.serve("udp-receive [::]:9 --count 200")?;
    it.web.labtool("udp-send 192.0.2.100:9 --count 200")?;
    assert!(receiver.wait(common::LIMIT)?.ok());
    // A closed port is told to the sender, through the translation.
    let refused = it.web.labtool("udp-send 192.0.2.100:10 --count 200");
    assert!(refused.is_err_and(|error| format!("{error:#}").contains("Connection refused")));
    assert!(it.packets("icmp_error")? > 0);
    it.web.whoami("tcp", "192.0.2.100:7000")?;
    common::nothing_captured(capture)?;
    it.lab.finish()
}

/// S2: with forwarding switched off they do not reach the world, and `status` says why.
#[test]
fn s2_forwarding_switched_off() -> Result<()> {
    let it = OneHost::new("s2off")?;
    assert!(it.web.pings("192.0.2.100")?);
    it.host.sysctl("net.ipv4.ip_forward", "0")?;
    within(Duration::from_secs(1), "traffic stops", || Ok(!it.web.pings("192.0.2.100")?))?;
    let status = it.daemon.command(&["status"])?.stdout;
    assert!(status.contains("ip_forward"), "{status}");
    assert!(it.web.pings("10.10.0.11")?, "bridging is not forwarding");
    it.host.sysctl("net.ipv4.ip_forward", "1")?;
    within(Duration::from_secs(2), "traffic goes on", || it.web.pings("192.0.2.100"))?;
    it.lab.finish()
}

/// The uplink's address may change while running: new flows use the new one.
#[test]
fn the_uplink_changes_its_address() -> Result<()> {
    let it = OneHost::new("readdress")?;
    let _server = it.client.serve_whoami(7000)?;
    assert_eq!(it.web.whoami("udp", "192.0.2.100:7000")?.ip().to_string(), "192.0.2.1");
    // Else the kernel removes the second address of a subnet together with the first.
    it.host.sysctl("net.ipv4.conf.eth0.promote_secondaries", "1")?;
    it.host.ip("addr add 192.0.2.77/24 dev eth0")?;
    it.host.ip("addr del 192.0.2.1/24 dev eth0")?;
    it.host.run("ip route replace default via 192.0.2.100")?;
    within(Duration::from_secs(2), "the new address is used", || {
        Ok(it.web.whoami("udp", "192.0.2.100:7000")?.ip().to_string() == "192.0.2.77")
    })?;
    it.lab.finish()
}

/// S3: every form of publication, from everywhere, with the client's address kept.
#[test]
fn s3_published_ports() -> Result<()> {
    let it = OneHost::new("s3")?;
    let _web = it.web.serve_whoami(80)?;
    let _dns = it.web.serve_whoami(53)?;
    let _long = it.web.serve_whoami(81)?;
    let _range = it.web.serve_whoami(20003)?;
    let host = "192.0.2.1";
    // (from, to, the client that the container sees)
    let cases = [
        (&*it.client, "tcp", format!("{host}:8080"), "192.0.2.100"),
        (&*it.client, "tcp", format!("{host}:8081"), "192.0.2.100"),
        (&*it.client, "tcp", format!("{host}:8082"), "192.0.2.100"),
        (&*it.client, "tcp", format!("{host}:10003"), "192.0.2.100"),
        (&*it.client, "udp", format!("{host}:5353"), "192.0.2.100"),
        (&*it.shop, "tcp", format!("{host}:8080"), "10.10.0.11"),
        (&*it.shop, "tcp", "10.10.0.1:8080".to_owned(), "10.10.0.11"),
        (&*it.shop, "udp", "10.10.0.1:5353".to_owned(), "10.10.0.11"),
        (&*it.other, "tcp", format!("{host}:8080"), "10.12.0.12"),
        (&*it.other, "tcp", "10.12.0.1:8080".to_owned(), "10.12.0.12"),
        (&*it.other, "udp", format!("{host}:5353"), "10.12.0.12"),
        (&*it.web, "tcp", format!("{host}:8080"), "10.10.0.1"),
        (&*it.web, "tcp", "10.10.0.1:8080".to_owned(), "10.10.0.1"),
        (&*it.web, "udp", format!("{host}:5353"), "10.10.0.1"),
        (&*it.host, "tcp", "127.0.0.1:8080".to_owned(), "10.10.0.1"),
        (&*it.host, "tcp", "127.0.0.1:8443".to_owned(), "10.10.0.1"),
        (&*it.host, "tcp", format!("{host}:8080"), "10.10.0.1"),
        (&*it.host, "tcp", "10.12.0.1:8080".to_owned(), "10.10.0.1"),
        (&*it.host, "tcp", "[::1]:8080".to_owned(), "10.10.0.1"),
        (&*it.host, "tcp", format!("[::ffff:{host}]:8080"), "10.10.0.1"),
        (&*it.host, "udp", "127.0.0.1:5353".to_owned(), "10.10.0.1"),
        (&*it.host, "udp", format!("{host}:5353"), "10.10.0.1"),
    ];
    for (from, protocol, to, expected) in &cases {
        let seen = from.whoami(protocol, to)?;
        assert_eq!(seen.ip().to_string(), *expected, "{} -> {protocol} {to}", from.name());
    }
    // A range to one port: exactly one of the three host ports was chosen.
    let open: Vec<u16> =
        (11000..11003).filter(|port| it.client.whoami("tcp", &format!("{host}:{port}")).is_ok()).collect();
    assert_eq!(open.len(), 1, "{open:?}");
    // Not published here, or not for them.
    for (from, to) in [
        (&*it.client, format!("{host}:8443")),
        (&*it.shop, format!("{host}:8443")),
        (&*it.shop, "10.10.0.1:8081".to_owned()),
        (&*it.client, format!("{host}:80")),
        (&*it.db, "10.11.0.1:8080".to_owned()),
    ] {
        assert!(!from.reaches("tcp", &to)?, "{} reaches {to}", from.name());
    }
    for path in ["portmap_in", "portmap_out", "hairpin_in", "hairpin_out", "host_socket"] {
        assert!(it.packets(path)? > 0, "{path} never moved");
    }
    it.lab.finish()
}

/// Members that may not talk to one another still reach what the other publishes, as everybody does; and nothing else.
#[test]
fn isolated_members_reach_published_ports() -> Result<()> {
    let isolated = ONE_HOST.replace(
        "  front: { ipam",
        "  front: { driver_opts: { com.docker.network.bridge.enable_icc: \"false\" }, ipam",
    );
    let it = OneHost::with("isolated", &isolated)?;
    let _web = it.web.serve_whoami(80)?;
    let _dns = it.web.serve_whoami(53)?;
    for (protocol, to) in [("tcp", "192.0.2.1:8080"), ("tcp", "10.10.0.1:8080"), ("udp", "192.0.2.1:5353")] {
        assert_eq!(it.shop.whoami(protocol, to)?.ip().to_string(), "10.10.0.11", "{protocol} {to}");
    }
    assert!(!it.shop.reaches("tcp", "10.10.0.10:80")?, "icc is off");
    assert!(it.drops("inter_container_disabled")? > 0);
    assert!(it.web.pings("10.10.0.1")? && it.web.pings("192.0.2.100")?);
    it.host.check("echo 0 > /proc/sys/net/ipv4/conf/br-front/proxy_arp_pvlan")?;
    within(Duration::from_secs(12), "the bridge answers again", || {
        it.web.check("ip neigh flush dev eth0")?;
        Ok(it.shop.whoami("tcp", "192.0.2.1:8080").is_ok())
    })?;
    it.lab.finish()
}

/// A client that shares a network with the container, but not the one that its published ports lead to: the container
/// answers by the shared one, from an address that is not of there.
#[test]
fn published_ports_of_a_neighbour_elsewhere() -> Result<()> {
    let both = ONE_HOST.replace(
        "networks: { front: { ipv4_address: 10.10.0.10 } }",
        "networks: { front: { ipv4_address: 10.10.0.10 }, side: { ipv4_address: 10.12.0.10 } }",
    );
    let it = OneHost::with("elsewhere", &both)?;
    let _web = it.web.serve_whoami(80)?;
    // An unbound UDP socket answers from the address that it has in the shared network: no dataplane can tell of what.
    for to in ["192.0.2.1:8080", "10.12.0.1:8080"] {
        assert_eq!(it.other.whoami("tcp", to)?.ip().to_string(), "10.12.0.12", "{to}");
    }
    assert_eq!(it.drops("spoofed_address")?, 0);
    // Nobody else says that: neither this one without a flow, nor another container of the client's network.
    it.web.ip("neigh add 10.12.0.98 lladdr 02:00:00:00:00:98 dev eth1")?;
    it.web.run("ping -c 1 -W 1 -I 10.10.0.10 10.12.0.98")?;
    let of_web = it.drops("spoofed_address")?;
    assert!(of_web > 0);
    it.other.ip("addr add 10.10.0.10/32 dev lo")?;
    it.other.ip("neigh add 10.12.0.98 lladdr 02:00:00:00:00:98 dev eth0")?;
    it.other.run("ping -c 1 -W 1 -I 10.10.0.10 10.12.0.98")?;
    assert!(it.drops("spoofed_address")? > of_web);
    it.lab.finish()
}

/// A port published on 127.0.0.1 is not reachable from the wire, even with a route for it (moby#45610).
#[test]
fn loopback_publications_stay_on_the_host() -> Result<()> {
    let it = OneHost::new("loopback")?;
    let _web = it.web.serve_http(80, "secret")?;
    it.client.sysctl("net.ipv4.conf.all.route_localnet", "1")?;
    it.host.sysctl("net.ipv4.conf.all.route_localnet", "1")?;
    it.client.sysctl("net.ipv4.conf.eth0.route_localnet", "1")?;
    it.client.ip("addr del 127.0.0.1/8 dev lo")?;
    it.client.ip("route add 127.0.0.0/8 via 192.0.2.1 dev eth0 src 192.0.2.100")?;
    // A server of the host's own is reached that way.
    let _own = it.host.serve_http(8444, "own")?;
    assert_eq!(it.client.curl("http://127.0.0.1:8444")?.expect_ok()?.stdout, "own");
    let output = it.client.curl("http://127.0.0.1:8443")?;
    // Refused, or no answer in time.
    assert!(matches!(output.code(), Some(7 | 28)), "{output:?}");
    assert!(it.host.curl("http://127.0.0.1:8443")?.stdout.contains("secret"));
    it.lab.finish()
}

/// A container without IPv6 has no link-local address to look for routers with: that would be counted as drops.
#[test]
fn containers_of_ipv4_networks_are_silent_in_ipv6() -> Result<()> {
    let it = OneHost::new("silent")?;
    // The first router solicitation comes a second after duplicate address detection has ended (RFC 4861 section 6.3.7).
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(it.drops("unsupported_protocol")?, 0);
    assert!(!it.web.ip("-6 addr show dev eth0")?.contains("fe80"));
    it.lab.finish()
}

/// A published port belongs to its container.
#[test]
fn published_ports_are_reserved() -> Result<()> {
    let it = OneHost::new("reserve")?;
    let bind = |address, port| common::bind(&it.host, address, port);
    for (address, port) in
        [("0.0.0.0", 8080), ("127.0.0.1", 8080), ("::", 8080), ("0.0.0.0", 10005), ("127.0.0.1", 8443)]
    {
        let output = bind(address, port)?;
        assert!(
            !output.ok() && output.stderr.contains("Address already in use"),
            "{address}:{port} {output:?}"
        );
    }
    assert!(bind("192.0.2.1", 8443)?.ok(), "another address of the same port is free");
    assert!(bind("0.0.0.0", 10010)?.ok(), "a port beside the range is free");
    // The kernel does not pick one for an outgoing connection, either.
    let reserved = it.host.check("cat /proc/sys/net/ipv4/ip_local_reserved_ports")?;
    assert!(reserved.contains("10000-10009") && reserved.contains("8080"), "{reserved}");
    assert!(it.daemon.command(&["status"])?.stdout.contains("ip_local_reserved_ports"));
    let listeners = it.host.check("ss -Hltn | wc -l")?;
    assert!(listeners.trim().parse::<u32>()? < 30, "a range costs no sockets: {listeners}");
    // The masquerade pool is spared, too: see the packet tests.
    it.lab.finish()
}

/// Publishing a port that a host process holds is refused, with the process named; it is published once the port is free.
#[test]
fn a_port_held_by_a_process_is_refused() -> Result<()> {
    let lab_file = ONE_HOST.replace("\"8080:80\"", "\"8090:80\"");
    let it = OneHost::with("held", &lab_file)?;
    let _web = it.web.serve_http(80, "container")?;
    let mut squatter = it.host.spawn("exec python3 -m http.server 8099")?;
    within(Duration::from_secs(5), "the process listens", || {
        Ok(it.host.check("ss -Hltn sport = 8099")?.contains("8099"))
    })?;
    it.daemon.rewrite(&lab_file.replace("\"8090:80\"", "\"8090:80\"\n      - \"8099:80\""))?;
    within(Duration::from_secs(5), "the refusal is shown", || {
        let ports = it.daemon.command(&["port", "ls"])?.stdout;
        let status = it.daemon.command(&["status"])?.stdout;
        let named = |text: &str| text.contains("python3") && text.contains(&squatter.pid().to_string());
        Ok(ports.contains("8099") && (named(&ports) || named(&status)))
    })?;
    assert!(it.client.curl("http://192.0.2.1:8090")?.stdout.contains("container"), "the others go on");
    squatter.kill();
    within(Duration::from_secs(12), "published once the port is free", || {
        Ok(it.client.curl("http://192.0.2.1:8099")?.stdout.contains("container"))
    })?;
    it.lab.finish()
}

/// S6, S7: networks are isolated; a container in two networks reaches both.
#[test]
fn s6_s7_isolation() -> Result<()> {
    let it = OneHost::new("s7")?;
    assert!(it.shop.pings("10.10.0.10")? && it.shop.pings("10.11.0.12")?);
    assert!(!it.web.pings("10.12.0.12")? && !it.other.pings("10.10.0.10")?);
    assert!(!it.db.pings("10.10.0.10")? && !it.web.pings("10.11.0.12")?);
    assert!(it.drops("isolated")? > 0);
    // Through a route of one's own, past the gateway, as well.
    it.web.ip("route add 10.12.0.0/24 via 10.10.0.11")?;
    assert!(!it.web.pings("10.12.0.12")?);
    it.lab.finish()
}

/// S7, S10: attachments come and go while a connection on another interface runs on.
#[test]
fn s7_s10_attach_and_detach_by_file() -> Result<()> {
    let it = OneHost::new("s10")?;
    let _server = it.web.serve("request-serve [::]:9000")?;
    let mut running = it.shop.start_labtool("requests 10.10.0.10:9000 --rate 200 --seconds 6")?;
    let joined = ONE_HOST.replace(
        "networks: { front: { ipv4_address: 10.10.0.11 }, back: { ipv4_address: 10.11.0.11 } }",
        "networks: { front: { ipv4_address: 10.10.0.11 }, back: { ipv4_address: 10.11.0.11 }, side: { ipv4_address: 10.12.0.13 } }",
    );
    it.daemon.rewrite(&joined)?;
    within(Duration::from_secs(3), "shop is in the third network", || it.shop.pings("10.12.0.12"))?;
    assert!(
        it.shop.ip("addr show dev eth2")?.contains("10.12.0.13"),
        "interfaces in the order of network names"
    );
    it.daemon.rewrite(ONE_HOST)?;
    within(Duration::from_secs(3), "shop has left it", || Ok(!it.shop.has_device("eth2")?))?;
    assert!(!it.shop.pings("10.12.0.12")?);
    let report = tests::lab::namespace::labtool_result(&mut running, common::LIMIT)?;
    assert_eq!(common::number(&report, "failed"), 0, "{report}");
    it.lab.finish()
}

/// S9 by address: a web container that stores in another container, used from outside and from the host.
#[test]
fn s9_two_tiers() -> Result<()> {
    let it = OneHost::new("s9")?;
    // The store counts connections; the web tier asks it for each request.
    let _store = it.db.spawn(
        "exec python3 -c 'import socketserver
class H(socketserver.StreamRequestHandler):
  n=0
  def handle(s): H.n+=1; s.wfile.write(str(H.n).encode())
socketserver.TCPServer.allow_reuse_address=True
socketserver.ThreadingTCPServer((\"10.11.0.12\",6379),H).serve_forever()'",
    )?;
    let _page = it.shop.spawn(
        "exec python3 -c 'import http.server,socket
class H(http.server.BaseHTTPRequestHandler):
  def do_GET(s):
    c=socket.create_connection((\"10.11.0.12\",6379),2); n=c.recv(99)
    s.send_response(200); s.end_headers(); s.wfile.write(b\"visit \"+n)
  def log_message(*a): pass
http.server.ThreadingHTTPServer((\"\",5000),H).serve_forever()'",
    )?;
    it.daemon.rewrite(&ONE_HOST.replace(
        "    x-weft: { netns: shop }",
        "    ports: [ \"5000:5000\" ]\n    x-weft: { netns: shop }",
    ))?;
    within(Duration::from_secs(5), "the page is served", || {
        Ok(it.client.curl("http://192.0.2.1:5000")?.stdout.starts_with("visit"))
    })?;
    let first = it.host.curl("http://127.0.0.1:5000")?.stdout;
    let second = it.client.curl("http://192.0.2.1:5000")?.stdout;
    let count = |text: &str| text.trim_start_matches("visit ").parse::<u32>();
    assert_eq!(count(&second)?, count(&first)? + 1);
    it.lab.finish()
}

/// Nobody speaks for another, and container addresses are not reached from the uplink by direct routing.
#[test]
fn spoofing_and_direct_routing_are_dropped() -> Result<()> {
    let it = OneHost::new("spoof")?;
    it.client.ip("route add 10.10.0.0/24 via 192.0.2.1")?;
    assert!(!it.client.pings("10.10.0.10")?);
    assert!(it.drops("direct_routing")? > 0);
    // With raw sockets: the daemon takes an address that is added behind its back away within milliseconds.
    it.shop.check(
        "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); \\
         own = s.getsockname()[4]; header = bytes.fromhex('4500001c00000000400166610a0a00630a0a000a'); \\
         s.send(b'\\xff' * 6 + own + b'\\x08\\x00' + header + bytes.fromhex('0800f7ff00000000'))\"",
    )?;
    assert!(it.drops("spoofed_address")? > 0);
    it.shop.check(
        "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); \\
         s.send(b'\\xff' * 6 + bytes.fromhex('020000000099') + b'\\x08\\x00' + bytes(46))\"",
    )?;
    assert!(it.drops("spoofed_mac")? > 0);
    it.lab.finish()
}

/// Without `uplinks` in the file: a default route that goes for a moment, or a better one that comes, ends no connection.
#[test]
fn the_default_route_goes_and_another_comes() -> Result<()> {
    let it = OneHost::with("droute", &ONE_HOST.replace("x-weft: { uplinks: [ eth0 ] }", ""))?;
    let mut receiver = it.web.serve("tcp-receive [::]:80")?;
    let mut sender = it.client.start_labtool("tcp-send 192.0.2.1:8080 --seconds 5")?;
    std::thread::sleep(Duration::from_millis(500));
    it.host.ip("route del default")?;
    std::thread::sleep(Duration::from_millis(1500));
    for words in [
        "link add vpn0 type veth peer name vpn1",
        "link set vpn1 up",
        "link set vpn0 up",
        "addr add 198.51.100.1/24 dev vpn0",
        "route add default via 198.51.100.2 dev vpn0 metric 10",
        "route add default via 192.0.2.100 dev eth0 metric 100",
    ] {
        it.host.ip(words)?;
    }
    let sent = tests::lab::namespace::labtool_result(&mut sender, common::LIMIT)?;
    let received = tests::lab::namespace::labtool_result(&mut receiver, common::LIMIT)?;
    assert_eq!((&sent["bytes"], &sent["sha256"]), (&received["bytes"], &received["sha256"]));
    let _web = it.web.serve_http(80, "still here")?;
    assert_eq!(it.client.curl("http://192.0.2.1:8080")?.stdout, "still here");
    it.host.ip("link del vpn0")?;
    it.lab.finish()
}
