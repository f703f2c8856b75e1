//! RFC 7348, VXLAN, on the wire: a host of weft's, and two peers that are stations. docs/rfc.md lists what is tried.

mod common;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result};
use common::{
    drops,
    nat::{QUIET, Station, at},
    packet::{Packet, UDP},
    within,
};
use tests::{Container, Daemon, Lab};

const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 5);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 6);
const MAC_HERE: [u8; 6] = [2, 0x42, 10, 20, 0, 5];
const MAC_THERE: [u8; 6] = [2, 0x42, 10, 20, 0, 6];
const BROADCAST: [u8; 6] = [0xff; 6];
const VNI: u32 = 4097;
const OTHER_VNI: u32 = 4098;
const IPV4: u16 = 0x0800;

const FILE: &str = r#"
networks:
  mesh:
    driver: overlay
    driver_opts: { com.docker.network.driver.overlay.vxlanid_list: "4097" }
    ipam: { config: [ { subnet: 10.20.0.0/24 } ] }
  other:
    driver: overlay
    driver_opts: { com.docker.network.driver.overlay.vxlanid_list: "4098" }
    ipam: { config: [ { subnet: 10.21.0.0/24 } ] }
services:
  here: { networks: { mesh: { ipv4_address: 10.20.0.5, mac_address: "02:42:0a:14:00:05" } }, x-weft: { netns: here } }
x-weft:
  uplinks: [ eth0 ]
  vtep: 192.0.2.1
  vxlan_port: 4789
  peers:
    - { vtep: 192.0.2.2, network: mesh, endpoints: [ { name: there, ipv4_address: 10.20.0.6, mac_address: "02:42:0a:14:00:06" } ] }
    - { vtep: 192.0.2.2, network: other, endpoints: [ { name: elsewhere, ipv4_address: 10.21.0.6, mac_address: "02:42:0a:15:00:06" } ] }
    - { vtep: 192.0.2.3, network: mesh, endpoints: [ { name: third, ipv4_address: 10.20.0.7, mac_address: "02:42:0a:14:00:07" } ] }
"#;

struct Overlay {
    lab: Lab,
    daemon: Daemon,
    container: Container,
    here: Station,
    peer: Station,
    second: Station,
    stranger: Station,
    port: u16,
}

/// A frame as VXLAN carries it.
struct Frame {
    destination: [u8; 6],
    source: [u8; 6],
    ether_type: u16,
    body: Vec<u8>,
}

impl Frame {
    fn new(destination: [u8; 6], source: [u8; 6], packet: &Packet) -> Self {
        Self { destination, source, ether_type: IPV4, body: packet.bytes() }
    }

    /// In a datagram of a tunnel end.
    fn encapsulated(&self, header: [u8; 8], from: SocketAddrV4, to: SocketAddrV4) -> Packet {
        let mut data = header.to_vec();
        data.extend(self.destination);
        data.extend(self.source);
        data.extend(self.ether_type.to_be_bytes());
        data.extend(&self.body);
        Packet::udp(from, to, &data)
    }

    /// VXLAN header and frame of such a datagram.
    fn of(packet: &Packet) -> ([u8; 8], Self) {
        let data = packet.data();
        let array = |at: usize| std::array::from_fn(|index| data[at + index]);
        let frame = Self {
            destination: array(8),
            source: array(14),
            ether_type: u16::from_be_bytes([data[20], data[21]]),
            body: data[22..].to_vec(),
        };
        (std::array::from_fn(|index| data[index]), frame)
    }
}

/// The header with the I flag, and all else zero.
fn header(vni: u32) -> [u8; 8] {
    let [_, a, b, c] = vni.to_be_bytes();
    [8, 0, 0, 0, a, b, c, 0]
}

impl Overlay {
    fn new(title: &str, port: u16) -> Result<Self> {
        let lab = Lab::new(title)?;
        let wire = lab.segment("192.0.2.0/24")?;
        let a = lab.host("a")?.on(&wire, "192.0.2.1/24")?.default_via("192.0.2.2")?;
        let mut hosts = Vec::new();
        for (name, address) in [("peer", PEER), ("second", SECOND), ("stranger", STRANGER)] {
            hosts.push((lab.host(name)?.on(&wire, &format!("{address}/24"))?, address));
        }
        let container = a.container("here")?;
        let daemon = a.weft(&FILE.replace("4789", &port.to_string()))?;
        // Neighbours are known, so that nothing but what is sent is on the wire.
        container.ip("neighbour replace 10.20.0.6 lladdr 02:42:0a:14:00:06 dev eth0")?;
        let mut stations = Vec::new();
        for (host, address) in &hosts {
            stations.push(Station::new(host, *address)?);
        }
        let [peer, second, stranger] = <[Station; 3]>::try_from(stations).ok().context("three stations")?;
        let here = Station::new(&container, HERE)?;
        Ok(Self { lab, daemon, container, here, peer, second, stranger, port })
    }

    /// What a station hears of the tunnel that carries IPv4.
    fn tunnelled(&self, at: &Station, limit: Duration) -> Result<Option<Packet>> {
        at.hear(limit, |packet| {
            packet.protocol == UDP && packet.to_port() == self.port && Frame::of(packet).1.ether_type == IPV4
        })
    }

    /// The container's packet as the peer hears it.
    fn out(&self, packet: &Packet) -> Result<Packet> {
        self.here.send(packet)?;
        self.tunnelled(&self.peer, Duration::from_secs(3))?
            .with_context(|| format!("{packet:?} did not arrive"))
    }

    /// A frame for the container, from a station, with this header; what is heard inside.
    fn inside(
        &self,
        from: &Station,
        header: [u8; 8],
        frame: &Frame,
        source_port: u16,
    ) -> Result<Option<Packet>> {
        self.here.drain();
        from.send(&frame.encapsulated(header, from.at(source_port), at(VTEP, self.port)))?;
        self.here.hear(QUIET, |packet| packet.protocol == UDP)
    }

    fn finish(self) -> Result<()> {
        self.lab.finish()
    }
}

fn outward(port: u16) -> Packet {
    Packet::udp(at(HERE, port), at(THERE, 7), b"out")
}

fn inward() -> Packet {
    Packet::udp(at(THERE, 7), at(HERE, 7), b"in")
}

/// Sections 4.3 and 5: flags, VNI, reserved bits, ports, addresses, no fragmentation, no checksum, and the inner frame as it
/// was, with fifty bytes more in all.
#[test]
fn what_is_sent() -> Result<()> {
    for port in [4789, 8472] {
        let it = Overlay::new("vxlansent", port)?;
        let sent = outward(20_001);
        let got = it.out(&sent)?;
        let (vxlan, frame) = Frame::of(&got);
        assert_eq!(vxlan, header(VNI));
        assert_eq!((got.source, got.destination, got.to_port()), (VTEP, PEER, port));
        assert!(got.source_port() >= 49_152);
        assert_eq!(&got.payload[6..8], [0, 0], "no UDP checksum");
        assert!(got.dont_fragment && !got.more_fragments && got.offset == 0);
        assert_eq!((frame.source, frame.destination, frame.ether_type), (MAC_HERE, MAC_THERE, IPV4));
        assert_eq!(frame.body, sent.bytes(), "the time to live included: it is bridged");
        assert_eq!(got.bytes().len() + 14, sent.bytes().len() + 14 + 50);
        it.finish()?;
    }
    Ok(())
}

/// Section 5: the source port is the flow's, and spreads flows.
#[test]
fn source_ports_spread_flows() -> Result<()> {
    const FLOWS: u16 = 8000;
    let it = Overlay::new("vxlanports", 4789)?;
    let mut used: HashMap<u16, f64> = HashMap::new();
    for flow in 0..FLOWS {
        let port = it.out(&outward(1024 + flow))?.source_port();
        assert!(port >= 49_152);
        *used.entry(port).or_default() += 1.0;
        if flow % 100 == 0 {
            assert_eq!(it.out(&outward(1024 + flow))?.source_port(), port, "of one flow");
        }
    }
    let total = f64::from(FLOWS);
    let entropy: f64 = used.values().map(|count| -(count / total) * (count / total).log2()).sum();
    assert!(entropy >= 0.9 * total.log2(), "{entropy} bits of {}", total.log2());
    it.finish()
}

/// Section 5: the I flag must be set, everything reserved is ignored, and the source port means nothing.
#[test]
fn what_is_received() -> Result<()> {
    let it = Overlay::new("vxlanreceived", 4789)?;
    let frame = Frame::new(MAC_HERE, MAC_THERE, &inward());
    for port in [49_152, 1024, 4789, 65_535] {
        let got = it.inside(&it.peer, header(VNI), &frame, port)?.context("a frame is lost")?;
        assert_eq!(got, inward());
    }
    let [_, _, _, _, a, b, c, _] = header(VNI);
    for reserved in
        [[0xff, 0, 0, 0, a, b, c, 0], [8, 0xff, 0xff, 0xff, a, b, c, 0xff], [0xff, 1, 2, 3, a, b, c, 4]]
    {
        assert_eq!(it.inside(&it.peer, reserved, &frame, 50_000)?, Some(inward()), "{reserved:?}");
    }
    let before = drops(&it.daemon, "bad_encapsulation")?;
    for without in [[0, 0, 0, 0, a, b, c, 0], [0xf7, 0, 0, 0, a, b, c, 0]] {
        assert_eq!(it.inside(&it.peer, without, &frame, 50_000)?, None, "{without:?}");
    }
    assert_eq!(drops(&it.daemon, "bad_encapsulation")?, before + 2);
    it.finish()
}

/// Section 5: a UDP checksum of zero is accepted, and so is one that is right.
#[test]
fn checksums_of_the_outer_header() -> Result<()> {
    let it = Overlay::new("vxlanchecksum", 4789)?;
    let frame = Frame::new(MAC_HERE, MAC_THERE, &inward());
    let with = frame.encapsulated(header(VNI), it.peer.at(50_000), at(VTEP, 4789));
    let without = with.clone().without_checksum();
    for packet in [with, without] {
        assert_eq!(it.peer.reach(&it.here, &packet)?, inward());
    }
    it.finish()
}

/// Section 4.3: a tunnel end does not fragment, tells the container instead, and takes no fragments.
#[test]
fn nothing_is_fragmented() -> Result<()> {
    let mut it = Overlay::new("vxlanfragments", 4789)?;
    assert!(it.container.ip("link show dev eth0")?.contains("mtu 1450"));
    let longest = Packet::udp(at(HERE, 20_001), at(THERE, 7), &[0; 1450 - 28]);
    assert_eq!(it.out(&longest)?.bytes().len(), 1500);
    // The daemon would put the MTU right again.
    it.daemon.terminate()?;
    it.container.ip("link set dev eth0 mtu 1500")?;
    let longer = Packet::udp(at(HERE, 20_001), at(THERE, 7), &[0; 1451 - 28]);
    it.here.send(&longer)?;
    let error = it.here.expect("the error")?;
    assert_eq!((error.kind(), &error.payload[6..8]), ((3, 4), 1450_u16.to_be_bytes().as_slice()));
    assert_eq!(error.quoted()?.to(), longer.to());
    assert!(it.tunnelled(&it.peer, QUIET)?.is_none());
    let frame = Frame::new(MAC_HERE, MAC_THERE, &Packet::udp(at(THERE, 7), at(HERE, 7), &[1; 600]));
    assert!(it.inside(&it.peer, header(VNI), &frame, 50_000)?.is_some(), "whole it arrives");
    for piece in frame.encapsulated(header(VNI), it.peer.at(50_000), at(VTEP, 4789)).fragments(400) {
        it.peer.send(&piece)?;
    }
    assert_eq!(it.here.hear(QUIET, |packet| packet.protocol == UDP)?, None);
    it.finish()
}

/// Section 4: who has another VNI is in another network, whatever addresses it uses.
#[test]
fn networks_are_isolated_by_their_vni() -> Result<()> {
    let it = Overlay::new("vxlanvni", 4789)?;
    let frame = Frame::new(MAC_HERE, MAC_THERE, &inward());
    for vni in [OTHER_VNI, 5000, VNI << 8 & 0xff_ffff, 0] {
        assert_eq!(it.inside(&it.peer, header(vni), &frame, 50_000)?, None, "{vni}");
    }
    assert_eq!(it.inside(&it.peer, header(VNI), &frame, 50_000)?, Some(inward()));
    it.finish()
}

/// Section 6.1: a frame with a VLAN tag inside is discarded.
#[test]
fn inner_tags_are_discarded() -> Result<()> {
    let it = Overlay::new("vxlantag", 4789)?;
    let before = drops(&it.daemon, "bad_encapsulation")?;
    let heard = common::capture(&it.container, 2, "ether src 02:42:0a:14:00:06")?;
    for (ether_type, destination) in [(0x8100, MAC_HERE), (0x88a8, MAC_HERE), (0x8100, BROADCAST)] {
        let tagged = [[0, 5, 8, 0].to_vec(), inward().bytes()].concat();
        let frame = Frame { destination, source: MAC_THERE, ether_type, body: tagged };
        it.inside(&it.peer, header(VNI), &frame, 50_000)?;
    }
    common::nothing_captured(heard)?;
    assert_eq!(drops(&it.daemon, "bad_encapsulation")?, before + 3);
    it.finish()
}

/// Section 4.2: what is for everybody goes once to each peer of the network, and what came from a peer to none.
#[test]
fn broadcasts_reach_every_peer_once_and_are_not_reflected() -> Result<()> {
    let it = Overlay::new("vxlanbroadcast", 4789)?;
    it.container.run("ping -c 1 -W 1 -b 10.20.0.255 >/dev/null 2>&1")?;
    for peer in [&it.peer, &it.second] {
        let got = it.tunnelled(peer, Duration::from_secs(2))?.context("a broadcast is lost")?;
        assert_eq!((Frame::of(&got).1.destination, got.source), (BROADCAST, VTEP));
        assert!(it.tunnelled(peer, QUIET)?.is_none(), "twice");
    }
    assert!(it.tunnelled(&it.stranger, QUIET)?.is_none());
    let packet = Packet::udp(at(THERE, 7), at(Ipv4Addr::new(10, 20, 0, 255), 7), b"all");
    it.peer.send(&Frame::new(BROADCAST, MAC_THERE, &packet).encapsulated(
        header(VNI),
        it.peer.at(50_000),
        at(VTEP, 4789),
    ))?;
    within(Duration::from_secs(3), "the container hears it", || Ok(it.here.overheard()?.contains(&packet)))?;
    for peer in [&it.peer, &it.second] {
        assert!(it.tunnelled(peer, QUIET)?.is_none(), "reflected");
    }
    it.finish()
}

/// Section 7: there is no authentication, so whoever is no peer of the network is not heard.
#[test]
fn strangers_are_not_heard() -> Result<()> {
    let it = Overlay::new("vxlanstranger", 4789)?;
    let frame = Frame::new(MAC_HERE, MAC_THERE, &inward());
    let before = drops(&it.daemon, "unknown_peer")?;
    for destination in [MAC_HERE, BROADCAST] {
        let frame = Frame { destination, ..Frame::new(MAC_HERE, MAC_THERE, &inward()) };
        assert_eq!(it.inside(&it.stranger, header(VNI), &frame, 50_000)?, None);
    }
    // A peer of one network is a stranger to the other.
    assert_eq!(it.inside(&it.second, header(OTHER_VNI), &frame, 50_000)?, None);
    assert_eq!(drops(&it.daemon, "unknown_peer")?, before + 3);
    it.finish()
}
