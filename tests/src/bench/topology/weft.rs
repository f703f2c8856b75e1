//! The same topology with weft.

use std::rc::Rc;

use anyhow::Result;

use super::{HOSTS, OVERLAY, OVERLAY_MAC, Pair, SHOP, Site, VNI, WEB, on_one_host};
use crate::{
    Lab,
    bench::{
        Path, Variant,
        measure::{ECHO, IPERF, REQUESTS, WHOAMI},
        topology::Contender,
        witness::Witness,
    },
};

/// Builds it for these paths.
pub(super) fn build(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    if on_one_host(paths) {
        let site = Site::build(lab, "weft")?;
        let daemon = Rc::new(site.host.weft(&one_host_file())?);
        all.extend(site.contenders(paths, Variant::Weft, |forward, backward| {
            vec![Witness { daemon: daemon.clone(), forward, backward }]
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
            },
            Witness {
                daemon: Rc::new(right.weft(&overlay_file(1))?),
                forward: "decapsulate",
                backward: "encapsulate",
            },
        ];
        all.push(pair.contender(Variant::Weft, witnesses)?);
    }
    Ok(all)
}

fn one_host_file() -> String {
    format!(
        r#"name: bench
networks:
  front:
    ipam: {{ config: [ {{ subnet: 10.10.0.0/24, gateway: 10.10.0.1 }} ] }}
services:
  web:
    networks: {{ front: {{ ipv4_address: {WEB} }} }}
    ports:
      - "{ECHO}:{ECHO}/tcp"
      - "{ECHO}:{ECHO}/udp"
      - "{REQUESTS}:{REQUESTS}"
      - "{WHOAMI}:{WHOAMI}/tcp"
      - "{WHOAMI}:{WHOAMI}/udp"
      - "{IPERF}:{IPERF}"
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
