//! The same topology with weft.

use std::rc::Rc;

use anyhow::Result;

use super::{
    GATEWAY, HOSTS, OVERLAY, OVERLAY_MAC, Pair, SHOP, Seen, Site, TCP_PORTS, UDP_PORTS, VNI, WEB, on_one_host,
};
use crate::{
    Lab,
    bench::{Path, Variant, topology::Contender, witness::Witness},
};

/// Builds it for these paths.
pub(super) fn build(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    if on_one_host(paths) {
        let site = Site::build(lab, "weft")?;
        let daemon = Rc::new(site.host.weft(&one_host_file())?);
        // The host's own sockets are led to the container by hooks, and come from the gateway like all that the host
        // says to containers. Containers are seen as they are.
        let seen = Seen { from_host: GATEWAY, hairpin: SHOP };
        all.extend(site.contenders(lab, paths, Variant::Weft, &seen, |forward, backward| {
            vec![Witness { daemon: daemon.clone(), forward, backward, forward_buffers: forward }]
        })?);
    }
    if paths.contains(&Path::Overlay) {
        let pair = Pair::build(lab, "weft")?;
        let [left, right] = &pair.hosts;
        let witnesses = vec![
            Witness {
                daemon: Rc::new(left.weft(&overlay_file(0))?),
                forward: "encapsulate",
                backward: "decapsulate",
                forward_buffers: "encapsulate",
            },
            Witness {
                daemon: Rc::new(right.weft(&overlay_file(1))?),
                forward: "decapsulate",
                backward: "encapsulate",
                // The vxlan device decapsulates these, see docs/architecture.md.
                forward_buffers: "slow_path",
            },
        ];
        all.push(pair.contender(lab, Variant::Weft, witnesses)?);
    }
    Ok(all)
}

fn one_host_file() -> String {
    let tcp = TCP_PORTS.map(|port| format!("\"{port}:{port}/tcp\""));
    let udp = UDP_PORTS.map(|port| format!("\"{port}:{port}/udp\""));
    let ports = tcp.into_iter().chain(udp).collect::<Vec<_>>().join(", ");
    format!(
        r#"name: bench
networks:
  front:
    ipam: {{ config: [ {{ subnet: 10.10.0.0/24, gateway: {GATEWAY} }} ] }}
services:
  web:
    networks: {{ front: {{ ipv4_address: {WEB} }} }}
    ports: [ {ports} ]
    x-weft: {{ netns: web }}
  shop:
    networks: {{ front: {{ ipv4_address: {SHOP} }} }}
    x-weft: {{ netns: shop }}
x-weft:
  uplinks: [ eth0 ]
"#
    )
}

/// The file of one of the two hosts, by index.
fn overlay_file(index: usize) -> String {
    let name = ["cache", "worker"];
    let (here, there) = (index, 1 - index);
    format!(
        r#"name: bench
networks:
  mesh:
    driver: overlay
    driver_opts: {{ com.docker.network.driver.overlay.vxlanid_list: "{VNI}" }}
    ipam: {{ config: [ {{ subnet: 10.20.0.0/24 }} ] }}
services:
  {name}:
    networks: {{ mesh: {{ ipv4_address: {address}, mac_address: "{mac}" }} }}
    x-weft: {{ netns: {name} }}
x-weft:
  uplinks: [ eth0 ]
  vtep: {vtep}
  peers:
    - vtep: {peer}
      network: mesh
      endpoints:
        - {{ name: {other}, ipv4_address: {other_address}, mac_address: "{other_mac}" }}
"#,
        name = name[here],
        address = OVERLAY[here],
        mac = OVERLAY_MAC[here],
        vtep = HOSTS[here],
        peer = HOSTS[there],
        other = name[there],
        other_address = OVERLAY[there],
        other_mac = OVERLAY_MAC[there],
    )
}
