//! Ways around isolation that a review found, each tried on the wire.

mod common;

use anyhow::Result;
use common::{OneHost, drops};
use tests::Lab;

/// A frame sent with a raw socket, in Python: `body` is an expression of bytes.
fn raw(from: &tests::Namespace, body: &str) -> Result<()> {
    from.check(&format!(
        "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); s.send({body})\""
    ))
    .map(drop)
}

/// A VLAN tag, which the kernel keeps beside the packet, does not carry a packet out.
#[test]
fn tagged_frames_stay_inside() -> Result<()> {
    let it = OneHost::new("vlan")?;
    it.web.pings("10.10.0.1")?;
    let mac =
        it.web.ip_json("link show dev eth0")?[0]["address"].as_str().unwrap_or_default().replace(':', "");
    let wire = common::capture(&it.client, 3, "vlan")?;
    let before = it.drops("unsupported_protocol")?;
    // UDP from web to the client, in VLAN 666.
    for _ in 0..3 {
        raw(
            &it.web,
            &format!(
                "b'\\xff'*6+bytes.fromhex('{mac}8100029a0800450000210001000040110000')+socket.inet_aton('10.10.0.10')+socket.inet_aton('192.0.2.100')+bytes.fromhex('0fa00009000d0000')+b'hello'+bytes(20)"
            ),
        )?;
    }
    common::nothing_captured(wire)?;
    assert!(it.drops("unsupported_protocol")? >= before + 3);
    it.lab.finish()
}

/// A client outside cannot pretend to be a neighbour, the gateway or the host itself.
#[test]
fn impossible_sources_are_refused() -> Result<()> {
    let it = OneHost::new("martian")?;
    let seen = common::capture(&it.web, 3, "udp dst port 53")?;
    it.client.sysctl("net.ipv4.ip_nonlocal_bind", "1")?;
    for source in ["10.10.0.11", "10.10.0.1", "192.0.2.1"] {
        it.client.ip(&format!("addr add {source}/32 dev lo"))?;
        it.client.ip("route replace 192.0.2.1/32 dev eth0")?;
        it.client.run(&format!("echo x | socat -u - UDP:192.0.2.1:5353,bind={source}"))?;
        it.client.ip(&format!("addr del {source}/32 dev lo"))?;
    }
    common::nothing_captured(seen)?;
    assert!(it.drops("spoofed_address")? >= 2);
    it.lab.finish()
}

/// A container's own VXLAN is not taken for the host's: neither here nor at a peer.
#[test]
fn containers_do_not_speak_vxlan() -> Result<()> {
    let lab = Lab::new("inject")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let a = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.2")?;
    let peer = lab.host("peer")?.on(&wire, "192.0.2.2/24")?;
    let front = a.container("front")?;
    let mesh = a.container("mesh")?;
    let daemon = a.weft(
        r#"
networks:
  plain: { ipam: { config: [ { subnet: 10.10.0.0/24 } ] } }
  mesh:
    driver: overlay
    driver_opts: { com.docker.network.driver.overlay.vxlanid_list: "4097" }
    ipam: { config: [ { subnet: 10.20.0.0/24 } ] }
services:
  front: { networks: { plain: { ipv4_address: 10.10.0.2 } }, x-weft: { netns: front } }
  mesh: { networks: { mesh: { ipv4_address: 10.20.0.5 } }, x-weft: { netns: mesh } }
x-weft: { uplinks: [ eth0 ] }
"#,
    )?;
    assert!(mesh.pings("10.20.0.1")?);
    let on_wire = common::capture(&peer, 3, "udp port 4789")?;
    let before = drops(&daemon, "isolated")?;
    for target in ["10.10.0.1", "192.0.2.2"] {
        front.run(&format!("echo vxlan | socat -u - UDP:{target}:4789"))?;
    }
    assert_eq!(drops(&daemon, "isolated")?, before + 2);
    common::nothing_captured(on_wire)?;
    lab.finish()
}

/// A second published port of the same container, used from the same client port, does not end the first connection.
#[test]
fn two_published_ports_of_one_container() -> Result<()> {
    let it = OneHost::new("twice")?;
    let _server = it.web.spawn("exec socat TCP-LISTEN:80,fork,reuseaddr EXEC:cat")?;
    let report = it.client.check(
        "python3 -c \"
import socket, time
def connect(port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.settimeout(3)
    s.bind(('192.0.2.100', 5001)); s.connect(('192.0.2.1', port)); return s
for _ in range(50):
    try: first = connect(8080); break
    except OSError: time.sleep(0.1)
first.send(b'a'); assert first.recv(9) == b'a'
try: connect(8081).send(b'x')
except OSError as error: print('second:', error)
for _ in range(3):
    time.sleep(0.2); first.send(b'b'); assert first.recv(9) == b'b', 'the first connection died'
print('first goes on')
\"",
    )?;
    assert!(report.contains("first goes on"), "{report}");
    it.lab.finish()
}
