//! Two hosts with a container each in one overlay network over IPv4, and what every tunnel must carry.

use anyhow::{Result, ensure};
use tests::{Container, Daemon, Host, Lab, Namespace};

use super::{
    bulk, datagrams,
    fragments::{Fragments, ORDERS},
};

/// Of c0 and c1.
pub const MACS: [&str; 2] = ["02:42:0a:14:00:05", "02:42:0a:14:00:06"];

/// c0 at 10.20.0.5 on 192.0.2.1, c1 at 10.20.0.6 on 192.0.2.2.
pub struct Overlay {
    pub lab: Lab,
    pub hosts: [Host; 2],
    pub containers: [Container; 2],
    pub daemons: [Daemon; 2],
    pub client: Host,
}

/// The file of one of the two hosts; peers may be added at its end.
pub fn file(own: usize) -> String {
    let peer = 1 - own;
    format!(
        r#"
networks:
  mesh:
    driver: overlay
    driver_opts: {{ com.docker.network.driver.overlay.vxlanid_list: "4097" }}
    ipam: {{ config: [ {{ subnet: 10.20.0.0/24 }} ] }}
services:
  c{own}:
    networks: {{ mesh: {{ ipv4_address: 10.20.0.{address}, mac_address: "{mac}" }} }}
    x-weft: {{ netns: c{own} }}
x-weft:
  uplinks: [ eth0 ]
  vtep: 192.0.2.{vtep}
  peers:
    - {{ vtep: 192.0.2.{peer_vtep}, network: mesh, endpoints: [ {{ name: c{peer}, ipv4_address: 10.20.0.{peer_address}, mac_address: "{peer_mac}" }} ] }}
"#,
        address = own + 5,
        mac = MACS[own],
        vtep = own + 1,
        peer_vtep = peer + 1,
        peer_address = peer + 5,
        peer_mac = MACS[peer],
    )
}

impl Overlay {
    pub fn new(title: &str) -> Result<Self> {
        Self::of(title, file)
    }

    /// With these files.
    pub fn of(title: &str, file: impl Fn(usize) -> String) -> Result<Self> {
        let lab = Lab::new(title)?;
        let wire = lab.segment("192.0.2.0/24")?;
        let a = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.100")?;
        let b = lab.host("b")?.on(&wire, "192.0.2.2/24")?.default_via("192.0.2.100")?;
        let client = lab.host("client")?.on(&wire, "192.0.2.100/24")?;
        let containers = [a.container("c0")?, b.container("c1")?];
        let daemons = [a.weft(&file(0))?, b.weft(&file(1))?];
        Ok(Self { lab, hosts: [a, b], containers, daemons, client })
    }
}

/// A stream of 100 MB and datagrams of up to this size arrive. GSO is kept: on this host's uplink that are far fewer packets
/// than segments.
pub fn carries(host: &Host, from: &Namespace, to: &Namespace, address: &str, size: usize) -> Result<()> {
    let before = host.interface("eth0")?;
    bulk(from, to, &format!("{address}:9000"), 9000, 100_000_003)?;
    let after = host.interface("eth0")?;
    let packets = after.tx.packets + after.rx.packets - before.tx.packets - before.rx.packets;
    ensure!(packets < 30_000, "{packets} packets for 100 MB to {address}");
    for (port, size, segments) in [(9001, size, 1), (9002, size, 40), (9003, 24, 1)] {
        datagrams(from, to, &format!("{address}:{port}"), port, (4000, size, segments))?;
    }
    Ok(())
}

/// Datagrams in pieces arrive, in whatever order.
pub fn carries_fragments(lab: &Lab, from: &Namespace, to: &Namespace, address: &str) -> Result<()> {
    let tool = Fragments::new(lab)?;
    for order in ORDERS {
        let _server = tool.answer(to, 53, order)?;
        let answered = tool.ask(from, address, 53, order, 5)?;
        ensure!(answered == 10, "{address} in order {order}: {answered} of 10");
    }
    Ok(())
}
