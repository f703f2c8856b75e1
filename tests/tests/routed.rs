//! Networks whose containers the world knows by their own addresses (`gateway_mode_ipv6: routed`).

mod common;

use anyhow::Result;
use common::{bulk, drops, dual_stack, fragments::Fragments, host_and_client, number, packets};
use tests::Lab;

/// `front` is routed by IPv6 and masqueraded by IPv4, `plain` routed by IPv4 alone, `side` not routed.
const FILE: &str = r#"
name: suite
networks:
  front:
    enable_ipv6: true
    driver_opts: { com.docker.network.bridge.gateway_mode_ipv6: routed }
    ipam: { config: [ { subnet: 10.10.0.0/24 }, { subnet: "2001:db8:10::/64" } ] }
  plain:
    driver_opts: { com.docker.network.bridge.gateway_mode_ipv4: routed }
    ipam: { config: [ { subnet: 198.51.100.0/24 } ] }
  side: { enable_ipv6: true, ipam: { config: [ { subnet: 10.12.0.0/24 }, { subnet: "fd00:12::/64" } ] } }
services:
  web:
    networks: { front: { ipv4_address: 10.10.0.10, ipv6_address: "2001:db8:10::10" } }
    ports: [ "8080:80", "12000:12000/udp" ]
    x-weft: { netns: web }
  four:
    networks: { plain: { ipv4_address: 198.51.100.10 } }
    ports: [ "8090:80" ]
    x-weft: { netns: four }
  other: { networks: { side: { ipv4_address: 10.12.0.12, ipv6_address: "fd00:12::12" } }, x-weft: { netns: other } }
x-weft: { uplinks: [ eth0 ] }
"#;

#[test]
fn the_world_knows_containers_by_their_own_addresses() -> Result<()> {
    let lab = Lab::new("routed")?;
    let (_wire, host, client) = host_and_client(&lab)?;
    dual_stack(&host, &client)?;
    client.ip("route add 2001:db8:10::/64 via 2001:db8::1")?;
    client.ip("route add 198.51.100.0/24 via 192.0.2.1")?;
    let [web, four, other] = [host.container("web")?, host.container("four")?, host.container("other")?];
    let daemon = host.weft(FILE)?;

    let _outside = client.serve_whoami(7000)?;
    for (from, to, seen) in [
        (&web, "[2001:db8::100]:7000", "2001:db8:10::10"),
        (&web, "192.0.2.100:7000", "192.0.2.1"),
        (&four, "192.0.2.100:7000", "198.51.100.10"),
        (&other, "[2001:db8::100]:7000", "2001:db8::1"),
    ] {
        for protocol in ["tcp", "udp"] {
            assert_eq!(from.whoami(protocol, to)?.ip().to_string(), seen, "{} {to}", from.name());
        }
    }
    assert!(web.pings("2001:db8::100")? && four.pings("192.0.2.100")?);

    let _servers =
        [web.serve_whoami(80)?, web.serve_whoami(81)?, four.serve_whoami(80)?, four.serve_whoami(81)?];
    for (from, to, seen) in [
        (&*client, "[2001:db8:10::10]:80", "2001:db8::100"),
        (&*client, "198.51.100.10:80", "192.0.2.100"),
        (&*client, "192.0.2.1:8080", "192.0.2.100"),
        (&*other, "[2001:db8:10::10]:80", "fd00:12::12"),
        (&*other, "198.51.100.10:80", "10.12.0.12"),
        (&*host, "[2001:db8:10::10]:80", "2001:db8:10::1"),
        (&*host, "[2001:db8:10::10]:81", "2001:db8:10::1"),
    ] {
        assert_eq!(from.whoami("tcp", to)?.ip().to_string(), seen, "{} {to}", from.name());
    }
    for (from, to) in [
        (&*client, "[2001:db8:10::10]:81"),
        (&*client, "198.51.100.10:81"),
        (&*client, "[2001:db8::1]:8080"),
        (&*other, "[2001:db8:10::10]:81"),
        (&*other, "198.51.100.10:81"),
    ] {
        assert!(!from.reaches("tcp", to)?, "{} reaches {to}", from.name());
    }
    for address in ["2001:db8:10::10", "198.51.100.10"] {
        assert!(client.pings(address)? && other.pings(address)? && host.pings(address)?, "{address}");
    }
    assert!(drops(&daemon, "direct_routing")? > 0 && drops(&daemon, "isolated")? > 0);
    // The host's own port 8080 is free for IPv6, and 80 for everybody: they are not published here.
    for (address, port) in [("::1", 8080), ("0.0.0.0", 80)] {
        common::bind(&host, address, port)?.expect_ok()?;
    }

    // Bulk data, fragments and errors.
    bulk(&web, &client, "[2001:db8::100]:9000", 9000, 33_554_432)?;
    let tool = Fragments::new(&lab)?;
    tool.exchange(&web, &client, "2001:db8::100", (9001, 9001))?;
    tool.exchange(&client, &web, "2001:db8:10::10", (12000, 12000))?;
    for order in ["012", "210", "120"] {
        for address in ["2001:db8:10::10", "198.51.100.10"] {
            assert_eq!(tool.ping(&client, address, order, 5)?, 5, "{address} in order {order}");
        }
    }
    let refused = web.labtool("udp-send [2001:db8::100]:10 --count 200");
    assert!(refused.is_err_and(|error| format!("{error:#}").contains("Connection refused")));
    let _echo = web.serve_echo(12000)?;
    let report = client.labtool("udp-ping [2001:db8:10::10]:12000 --count 50 --size 4000")?;
    assert_eq!(number(&report, "received"), 50, "{report}");
    for path in
        ["routed_out", "routed_in", "portmap_in", "portmap_out", "hairpin_in", "hairpin_out", "icmp_error"]
    {
        assert!(packets(&daemon, path)? > 0, "{path} never moved");
    }
    lab.finish()
}
