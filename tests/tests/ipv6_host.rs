//! What weft makes of a host's own IPv6: it goes on hearing its routers, and one without IPv6 serves what it can.

mod common;

use std::time::Duration;

use anyhow::Result;
use common::{drops, host_and_client, within};
use tests::{Host, Lab, Process};

/// A router that is believed for three seconds at a time, on a prefix for hosts to make an address of.
fn advertise(router: &Host) -> Result<Process> {
    router.spawn(
        "exec python3 -c \"
import socket, struct, time
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255); s.setsockopt(41, socket.IPV6_MULTICAST_IF, socket.if_nametoindex('eth0'))
prefix = struct.pack('!BBBBIII', 3, 4, 64, 0xc0, 3600, 3600, 0) + socket.inet_pton(socket.AF_INET6, '2001:db8::')
while True:
    s.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 3, 0, 0) + prefix, ('ff02::1', 0)); time.sleep(0.3)
\"",
    )
}

/// A host that has its address and default route from a router keeps both when weft switches forwarding on; teardown
/// puts the settings back.
#[test]
fn the_host_goes_on_hearing_its_router() -> Result<()> {
    let lab = Lab::new("v6router")?;
    let (_wire, host, router) = host_and_client(&lab)?;
    let web = host.container("web")?;
    router.ip("addr add 2001:db8::100/64 dev eth0 nodad")?;
    for (setting, value) in [("all.forwarding", "0"), ("eth0.accept_ra", "1"), ("eth0.autoconf", "1")] {
        host.sysctl(&format!("net.ipv6.conf.{setting}"), value)?;
    }
    let _advertises = advertise(&router)?;
    let address = || -> Result<Option<String>> {
        let shown = host.ip("-br -6 addr show dev eth0 scope global -tentative")?;
        Ok(shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).map(str::to_owned))
    };
    within(Duration::from_secs(10), "the host has an address", || Ok(address()?.is_some()))?;
    let address = address()?.unwrap_or_default();
    let setting = |name: &str| -> Result<String> {
        Ok(host.check(&format!("sysctl -n net.ipv6.conf.{name}"))?.trim().to_owned())
    };
    let settings = || -> Result<[String; 2]> { Ok([setting("all.forwarding")?, setting("eth0.accept_ra")?]) };
    assert_eq!(settings()?, ["0", "1"]);

    const OLD: &str = "name: suite\nnetworks:\n  front: {}\nservices:\n  web: { networks: [ front ], x-weft: { netns: web } }\n";
    let mut daemon = host.weft(OLD)?;
    assert_eq!(settings()?, ["0", "1"], "no network needs it");
    daemon.rewrite(&OLD.replace("{}", "{ enable_ipv6: true }"))?;
    within(Duration::from_secs(5), "forwarding is on", || Ok(settings()? == ["1", "2"]))?;
    // Longer than the router is believed once.
    std::thread::sleep(Duration::from_secs(5));
    assert!(host.ip("-6 route show default")?.contains("proto ra"));
    let _server = router.serve_whoami(7000)?;
    assert_eq!(web.whoami("tcp", "[2001:db8::100]:7000")?.ip().to_string(), address);
    let status = daemon.json(&["status"])?["sysctls"].to_string();
    for name in ["net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra"] {
        assert!(status.contains(name), "{status}");
    }
    // From then on it is the administrator's.
    host.sysctl("net.ipv6.conf.all.forwarding", "0")?;
    within(Duration::from_secs(5), "it is obeyed", || {
        Ok(!web.reaches("tcp", "[2001:db8::100]:7000")? && drops(&daemon, "forwarding_disabled")? > 0)
    })?;
    assert_eq!(setting("all.forwarding")?, "0");
    host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    within(Duration::from_secs(5), "and again", || Ok(web.whoami("tcp", "[2001:db8::100]:7000").is_ok()))?;
    daemon.teardown()?;
    assert_eq!(settings()?, ["0", "1"]);
    lab.finish()
}

/// A host that has heard no router yet, and has no default route that shows the uplink, hears the first one after weft
/// has switched forwarding on; so does a device that comes later.
#[test]
fn a_router_that_comes_after_weft_is_heard() -> Result<()> {
    let lab = Lab::new("v6late")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let host = lab.host("a")?.on(&wire, "192.0.2.1/24")?;
    let router = lab.host("client")?.on(&wire, "192.0.2.100/24")?;
    let web = host.container("web")?;
    router.ip("addr add 2001:db8::100/64 dev eth0 nodad")?;
    for (setting, value) in [("all.forwarding", "0"), ("eth0.accept_ra", "1"), ("eth0.autoconf", "1")] {
        host.sysctl(&format!("net.ipv6.conf.{setting}"), value)?;
    }
    host.ip("link add br9 type bridge")?;
    host.ip("link add port9 master br9 type veth peer name end9")?;
    let mut daemon = host.weft(
        "name: suite\nnetworks:\n  front: { enable_ipv4: false, enable_ipv6: true }\n\
         services:\n  web: { networks: [ front ], x-weft: { netns: web } }\n",
    )?;
    let setting = |device: &str| -> Result<String> {
        let shown = host.check(&format!("sysctl -n net.ipv6.conf.{device}.accept_ra"))?;
        Ok(shown.trim().to_owned())
    };
    assert_eq!([setting("eth0")?, setting("br9")?, setting("port9")?], ["2", "2", "1"]);
    let bridge = daemon.json(&["network", "ls"])?[0]["bridge"].as_str().unwrap_or_default().to_owned();
    assert_eq!(setting(&bridge)?, "0", "weft's own");
    let _advertises = advertise(&router)?;
    let _server = router.serve_whoami(7000)?;
    within(Duration::from_secs(15), "the container reaches the world", || {
        Ok(host.ip("-6 route show default")?.contains("proto ra")
            && web.whoami("tcp", "[2001:db8::100]:7000").is_ok())
    })?;
    let lists =
        |name: &str| -> Result<bool> { Ok(daemon.json(&["status"])?["sysctls"].to_string().contains(name)) };
    host.ip("link add late type veth peer name later")?;
    within(
        Duration::from_secs(5),
        "the late device hears",
        || Ok(setting("late")? == "2" && lists("late")?),
    )?;
    host.ip("link del late")?;
    within(Duration::from_secs(15), "nothing is kept of it", || Ok(!lists("late")?))?;
    daemon.teardown()?;
    assert_eq!([setting("eth0")?, setting("br9")?], ["1", "1"]);
    lab.finish()
}

/// On a host whose kernel has no IPv6 (`ipv6.disable=1`), a network that wants it is a problem that says so; the others
/// are served.
#[test]
fn a_host_without_ipv6_serves_its_ipv4_networks() -> Result<()> {
    let lab = Lab::new("v6disabled")?;
    let (_wire, host, client) = host_and_client(&lab)?;
    let [_web, old] = [host.container("web")?, host.container("old")?];
    // Its settings are what shows whether there is IPv6. They are other directories in each network namespace: what is
    // mounted over this one's hides nobody else's, and goes with the namespace.
    host.check("mount -t tmpfs none /proc/sys/net/ipv6")?;
    let mut daemon = host.weft(
        "name: suite\nnetworks:\n  front: { enable_ipv6: true }\n  four: {}\nservices:\n\
         \x20 web: { networks: [ front ], x-weft: { netns: web } }\n\
         \x20 old: { networks: [ four ], ports: [ \"8090:80\" ], x-weft: { netns: old } }\n",
    )?;
    let _server = old.serve_http(80, "old")?;
    within(Duration::from_secs(10), "IPv4 is served", || Ok(client.curl("192.0.2.1:8090")?.stdout == "old"))?;
    let status = daemon.json(&["status"])?;
    assert!(status["problems"].to_string().contains("this host has no IPv6"), "{status}");
    assert!(!status["sysctls"].to_string().contains("ipv6"), "{status}");
    daemon.teardown()?;
    lab.finish()
}
