//! Overlay networks with IPv6 inside, over either family.

mod common;

use anyhow::Result;
use common::{
    bulk, datagrams, drops,
    overlay::{MACS, carries, carries_fragments},
    packets, within,
};
use tests::{Container, Daemon, Host, Lab};

/// What the tunnels run over.
#[derive(Clone, Copy)]
struct Underlay {
    /// What is before the last number of a host's address.
    prefix: &'static str,
    /// MTU inside.
    mtu: usize,
}

const V4: Underlay = Underlay { prefix: "192.0.2.", mtu: 1450 };
const V6: Underlay = Underlay { prefix: "2001:db8::", mtu: 1430 };

/// Two hosts with a container each: c0 at 10.20.0.5 and fd00:20::5, c1 at 10.20.0.6 and fd00:20::6.
struct Overlay {
    lab: Lab,
    hosts: [Host; 2],
    containers: [Container; 2],
    daemons: [Daemon; 2],
    client: Host,
}

fn file(own: usize, over: Underlay) -> String {
    let peer = 1 - own;
    format!(
        r#"
networks:
  mesh:
    driver: overlay
    enable_ipv6: true
    driver_opts: {{ com.docker.network.driver.overlay.vxlanid_list: "4097" }}
    ipam: {{ config: [ {{ subnet: 10.20.0.0/24 }}, {{ subnet: "fd00:20::/64" }} ] }}
services:
  c{own}:
    networks: {{ mesh: {{ ipv4_address: 10.20.0.{last}, ipv6_address: "fd00:20::{last}", mac_address: "{mac}" }} }}
    x-weft: {{ netns: c{own} }}
x-weft:
  uplinks: [ eth0 ]
  peers:
    - {{ vtep: "{prefix}{vtep}", network: mesh, endpoints: [ {{ name: c{peer}, ipv4_address: 10.20.0.{far}, ipv6_address: "fd00:20::{far}", mac_address: "{far_mac}" }} ] }}
"#,
        last = own + 5,
        mac = MACS[own],
        prefix = over.prefix,
        vtep = peer + 1,
        far = peer + 5,
        far_mac = MACS[peer],
    )
}

impl Overlay {
    fn new(title: &str, over: Underlay) -> Result<Self> {
        let lab = Lab::new(title)?;
        let wire = lab.segment("192.0.2.0/24")?;
        let on = |name: &str, last: u8| -> Result<Host> {
            let host = lab.host(name)?.on(&wire, &format!("192.0.2.{last}/24"))?;
            host.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"))?;
            Ok(host)
        };
        let hosts = [on("a", 1)?, on("b", 2)?];
        let client = on("client", 100)?;
        let containers = [hosts[0].container("c0")?, hosts[1].container("c1")?];
        let daemons = [hosts[0].weft(&file(0, over))?, hosts[1].weft(&file(1, over))?];
        Ok(Self { lab, hosts, containers, daemons, client })
    }
}

/// Both inner families, with bulk data and datagrams in fragments: nothing but VXLAN between the hosts, every byte and
/// every checksum right, a 64 KiB segment in one pass.
fn everything_passes(it: &Overlay, over: Underlay) -> Result<()> {
    let [c0, c1] = &it.containers;
    let wire = common::capture(
        &it.hosts[1],
        4,
        "(ip or ip6) and not icmp6 and not igmp and not ip6 multicast and not udp port 4789 and not net 192.0.2.100/32",
    )?;
    let _server = c1.serve_whoami(80)?;
    for (address, own) in [("fd00:20::6", "fd00:20::5"), ("10.20.0.6", "10.20.0.5")] {
        assert!(c0.pings(address)? && c1.pings(own)?, "{address}");
        let to = if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
        for protocol in ["tcp", "udp"] {
            assert_eq!(c0.whoami(protocol, &to)?.ip().to_string(), own);
        }
    }
    common::nothing_captured(wire)?;
    assert!(c0.ip("link show dev eth0")?.contains(&format!("mtu {}", over.mtu)));

    for (from, to, address) in [(c0, c1, "[fd00:20::6]"), (c1, c0, "[fd00:20::5]"), (c0, c1, "10.20.0.6")] {
        carries(&it.hosts[0], from, to, address, 1300)?;
    }
    carries_fragments(&it.lab, c0, c1, "fd00:20::6")?;
    for container in &it.containers {
        assert_eq!(container.checksum_errors()?, 0);
    }
    for daemon in &it.daemons {
        assert!(packets(daemon, "encapsulate")? > 10_000 && packets(daemon, "decapsulate")? > 10_000);
    }
    assert!(it.hosts[0].pings("fd00:20::5")? && it.hosts[1].pings("fd00:20::6")?, "the hosts themselves");
    Ok(())
}

#[test]
fn ipv6_inside_ipv4() -> Result<()> {
    let it = Overlay::new("v6in4", V4)?;
    everything_passes(&it, V4)?;
    it.lab.finish()
}

#[test]
fn both_families_inside_ipv6() -> Result<()> {
    let it = Overlay::new("over6", V6)?;
    everything_passes(&it, V6)?;
    it.lab.finish()
}

/// A packet that does not fit the tunnel is told to its sender, who sends less from then on.
#[test]
fn a_smaller_underlay_is_told_to_the_sender() -> Result<()> {
    let mut it = Overlay::new("v6ptb", V6)?;
    let [c0, c1] = &it.containers;
    // The container does not know of it.
    it.hosts[0].ip("link set eth0 mtu 1400")?;
    within(std::time::Duration::from_secs(5), "the container's MTU follows", || {
        Ok(c0.ip("link show dev eth0")?.contains("mtu 1330"))
    })?;
    // Its round is over when the next has been asked for and done. The daemon would put the container's MTU right.
    let file = it.daemons[0].file().display().to_string();
    it.daemons[0].command(&["apply", "-f", &file])?.expect_ok()?;
    it.daemons[0].kill9();
    c0.ip("link set eth0 mtu 1500")?;
    bulk(c0, c1, "[fd00:20::6]:9000", 9000, 5_000_000)?;
    c0.run("ping -c 2 -i 0.3 -W 1 -M do -s 1400 fd00:20::6")?;
    assert!(c0.ip("-6 route get fd00:20::6")?.contains("mtu 1330"), "{}", c0.ip("-6 route get fd00:20::6")?);
    it.lab.finish()
}

/// A host with the kernel's vxlan device over IPv6 and static neighbours is a working peer, and a stranger is none.
#[test]
fn a_kernel_peer_and_a_stranger() -> Result<()> {
    let it = Overlay::new("v6kernel", V6)?;
    let (c0, kernel) = (&it.containers[0], &it.client);
    let device = |prefix: &str| -> Result<()> {
        kernel.ip(
            "link add vx address 02:42:0a:14:00:09 type vxlan id 4097 dstport 4789 local 2001:db8::100 nolearning udp6zerocsumtx udp6zerocsumrx",
        )?;
        kernel.ip("link set vx mtu 1430 up")?;
        kernel.ip(&format!("addr add {prefix}9/64 dev vx nodad"))?;
        kernel.ip(&format!("neigh add {prefix}5 lladdr {} dev vx", MACS[0]))?;
        kernel.check(&format!("bridge fdb add {} dev vx dst 2001:db8::1", MACS[0]))?;
        Ok(())
    };
    device("fd00:20::")?;
    let before = drops(&it.daemons[0], "unknown_peer")?;
    assert!(!kernel.pings("fd00:20::5")?);
    assert!(drops(&it.daemons[0], "unknown_peer")? > before, "a stranger");
    it.daemons[0].rewrite(&(file(0, V6) + r#"    - { vtep: "2001:db8::100", network: mesh, endpoints: [ { name: k, ipv6_address: "fd00:20::9", mac_address: "02:42:0a:14:00:09" } ] }
"#))?;
    within(std::time::Duration::from_secs(5), "it is a peer now", || kernel.pings("fd00:20::5"))?;
    assert!(c0.pings("fd00:20::9")?);
    for (from, to, address) in [(&**c0, &**kernel, "[fd00:20::9]"), (&**kernel, &**c0, "[fd00:20::5]")] {
        bulk(from, to, &format!("{address}:9000"), 9000, 50_000_001)?;
        datagrams(from, to, &format!("{address}:9001"), 9001, (2000, 1200, 20))?;
    }
    assert_eq!((c0.checksum_errors()?, kernel.checksum_errors()?), (0, 0));
    it.lab.finish()
}
