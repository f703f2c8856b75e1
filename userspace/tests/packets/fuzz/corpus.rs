//! Frames for each way that the programs know, in both families, and what comes back of them.

use dataplane_common::abi::flags;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, icmpv4,
    icmpv6::{self, DestUnreachableCode},
};

use super::wire::{self, ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::{
    Result,
    encapsulation::vxlan_header,
    frames::{Frame, arp},
    host::{self, Host},
    ipv6::{
        self,
        bridge::PADDING,
        frame::{DESTINATION_OPTIONS, Frame as Frame6, HOP_BY_HOP, ROUTING},
        topology as v6,
    },
    outcome::Verdict,
    topology::{
        A, B, C, CONTAINERS, Container, FAR, FAR_MAC, HOST, HOST_2, M, MESH, NETWORKS, PEER, REMOTE,
        REMOTE_2, ROUTER_MAC, UPLINK_MAC, VXLAN_PORT,
    },
};

/// Frames, each with who sends it.
#[derive(Debug, Default)]
pub struct Corpus {
    /// What containers send.
    pub containers: Vec<(&'static Container, Vec<u8>)>,
    /// What the world sends.
    pub world: Vec<Vec<u8>>,
    /// Addresses that mean something, as bytes of a header.
    pub addresses: Vec<Vec<u8>>,
}

/// Ports of this host that lead to `A`, `B` and `C`, in both families.
pub fn publish(host: &mut Host) -> Result {
    for (protocol, port, to, member) in [
        (host::TCP, 8080, &A, &v6::A),
        (host::UDP, 8080, &A, &v6::A),
        (host::TCP, 80, &B, &v6::B),
        (host::UDP, 53, &C, &v6::C),
    ] {
        host.publish(protocol, None, port, (to, port))?;
        v6::publish(host, protocol, port, (member, port))?;
    }
    ipv6::routed::publish(host, host::TCP, &v6::A, 8081)?;
    host.change_flags(M.device, 0, flags::PUBLISHED)
}

impl Corpus {
    /// Sends every frame once, so that there are flows, and adds what the other ends answer.
    pub fn played(host: &mut Host) -> Result<Self> {
        let mut corpus = Self { addresses: addresses(), ..Self::default() };
        corpus.containers = first_of_containers();
        corpus.world = first_of_world();
        for (container, frame) in corpus.containers.clone() {
            let outcome = host.container_sends_bytes(container, &frame)?;
            if outcome.verdict == Verdict::Redirect && outcome.drop.is_none() {
                corpus.add_answers(&outcome.frame);
            }
        }
        for frame in corpus.world.clone() {
            let outcome = host.world_sends_bytes(&frame)?;
            if outcome.verdict == Verdict::Redirect && outcome.drop.is_none() {
                corpus.add_answers(&outcome.frame);
            }
        }
        Ok(corpus)
    }

    /// What the receiver of a frame says: an answer, and errors that quote it.
    fn add_answers(&mut self, frame: &[u8]) {
        let receiver = CONTAINERS.iter().find(|container| container.mac == frame[..6]);
        for mut answer in answer(frame).into_iter().chain(errors(frame)) {
            match receiver {
                Some(container) => self.containers.push((container, answer)),
                None => {
                    answer[..6].copy_from_slice(&UPLINK_MAC);
                    answer[6..12].copy_from_slice(&ROUTER_MAC);
                    self.world.push(answer);
                }
            }
        }
    }
}

fn first_of_containers() -> Vec<(&'static Container, Vec<u8>)> {
    let mut all = Vec::new();
    let a = (A.address, 25_000);
    let mut v4 = |container: &'static Container, frame: Frame| all.push((container, frame.bytes()));
    for frame in [
        Frame::syn(a, (REMOTE, 443)),
        Frame::tcp(a, (REMOTE, 443)).options(&[1; 8]),
        Frame::udp(a, (REMOTE, 443)).options(&[1; 12]),
        Frame::udp(a, (REMOTE, 444)).without_checksum(),
        Frame::echo_request(a.0, REMOTE, 1),
        Frame::udp(a, (REMOTE, 443)).fragment(0, true),
        Frame::ip(IpNumber::UDP, a.0, REMOTE).fragment(10, false),
        Frame::ip(IpNumber(SCTP), a.0, REMOTE).payload(&[7; 40]),
        Frame::udp(a, (HOST, 53)),
        Frame::udp(a, (HOST_2, 9)),
        Frame::syn(a, (HOST, 80)),
        Frame::syn(a, (HOST, 8080)),
        Frame::syn(a, (C.address, 53)),
        Frame::echo_request(a.0, A.network.gateway, 4),
    ] {
        v4(&A, frame.sent_by(&A));
    }
    v4(&A, Frame::udp(a, (B.address, 53)).macs(A.mac, B.mac));
    v4(&B, Frame::syn((B.address, 25_001), (HOST, 8080)).sent_by(&B));
    v4(&C, Frame::udp((C.address, 25_001), (HOST, 8080)).sent_by(&C));
    v4(&C, Frame::syn((C.address, 25_001), (A.address, 8081)).sent_by(&C));
    v4(&M, Frame::udp((M.address, 4000), (FAR, 80)).macs(M.mac, FAR_MAC));
    all.push((&A, arp(A.mac, A.mac, A.address, B.address)));

    let a = (v6::A.address, 25_000);
    let (remote, gateway) = (v6::REMOTE, v6::gateway(1));
    let mut v6 = |container: &'static Container, frame: Frame6| all.push((container, frame.bytes()));
    for frame in [
        Frame6::syn(a, (remote, 443)),
        Frame6::tcp(a, (remote, 443)).extension(DESTINATION_OPTIONS, &PADDING),
        Frame6::udp(a, (remote, 443)),
        Frame6::udp(a, (remote, 443)).extension(HOP_BY_HOP, &PADDING).extension(ROUTING, &PADDING),
        Frame6::echo_request(a.0, remote, 1),
        Frame6::udp(a, (remote, 443)).fragment(0, true, 1),
        Frame6::udp(a, (remote, 443)).fragment(0, false, 2),
        Frame6::raw(IpNumber::UDP, a.0, remote).fragment(10, false, 1),
        Frame6::raw(IpNumber::UDP, a.0, remote).extension(HOP_BY_HOP, &PADDING).fragment(10, true, 3),
        Frame6::raw(IpNumber(SCTP), a.0, remote).payload(&[7; 40]),
        Frame6::udp(a, (v6::HOST, 53)),
        Frame6::udp(a, (v6::HOST, 9)),
        Frame6::syn(a, (v6::HOST, 80)),
        Frame6::syn(a, (v6::HOST, 8080)),
        Frame6::syn(a, (v6::C.address, 53)),
        Frame6::echo_request(a.0, gateway, 4),
    ] {
        v6(&A, frame.sent_by(&v6::A));
    }
    v6(&A, Frame6::udp(a, (v6::B.address, 53)).macs(A.mac, B.mac));
    v6(&A, Frame6::udp(a, (v6::B.address, 53)).extension(HOP_BY_HOP, &PADDING).macs(A.mac, B.mac));
    v6(&B, Frame6::syn((v6::B.address, 25_001), (v6::HOST, 8080)).sent_by(&v6::B));
    v6(&C, Frame6::udp((v6::C.address, 25_001), (v6::HOST, 8080)).sent_by(&v6::C));
    v6(&C, Frame6::syn((v6::C.address, 25_001), (v6::A.address, 8081)).sent_by(&v6::C));
    v6(&M, Frame6::udp((v6::M.address, 4000), (v6::FAR, 80)).macs(M.mac, FAR_MAC));
    v6(&M, Frame6::udp((v6::M.address, 4000), (v6::FAR, 80)).fragment(0, true, 4).macs(M.mac, FAR_MAC));
    for (kind, from, target, option) in [
        (133, v6::A.link_local(), None, 1),
        (135, v6::A.address, Some(v6::B.address), 1),
        (135, v6::A.link_local(), Some(gateway), 1),
        (136, v6::A.address, Some(v6::A.address), 2),
        (136, v6::A.link_local(), Some(v6::A.link_local()), 2),
        (134, v6::A.link_local(), None, 1),
        (137, v6::A.link_local(), Some(v6::B.address), 2),
    ] {
        let option = [&[option, 1], A.mac.as_slice()].concat();
        v6(&A, ipv6::bridge::discovery(kind, from, target, &option));
    }
    // Whether gateway and neighbour are still there.
    for to in [gateway, v6::B.address] {
        let mut probe =
            ipv6::bridge::discovery(135, v6::A.link_local(), Some(to), &[&[1, 1], &A.mac[..]].concat());
        probe.ip.destination = to.octets();
        v6(&A, probe.macs(A.mac, A.network.gateway_mac));
    }
    // Listener reports (RFC 3810) are the bridge's, too.
    let report = Icmpv6Type::Unknown { type_u8: 143, code_u8: 0, bytes5to8: [0, 0, 0, 1] };
    let all_routers = "ff02::16".parse().expect("an address");
    v6(&A, Frame6::icmp(report, v6::A.link_local(), all_routers).macs(A.mac, [0x33, 0x33, 0, 0, 0, 0x16]));
    all
}

fn first_of_world() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut v4 = |frame: Frame| all.push(frame.by_router().bytes());
    v4(Frame::syn((REMOTE, 1), (HOST, 80)));
    v4(Frame::syn((REMOTE_2, 1), (HOST_2, 8080)));
    v4(Frame::udp((REMOTE, 1), (HOST, 53)).options(&[1; 12]));
    v4(Frame::udp((REMOTE, 1), (HOST, 53)).fragment(0, true));
    v4(Frame::ip(IpNumber::UDP, REMOTE, HOST).fragment(10, false));
    v4(Frame::udp((REMOTE_2, 443), (HOST, 25_000)));
    v4(Frame::syn((REMOTE, 1), (A.address, 8081)));
    v4(Frame::udp((REMOTE, 1), (A.address, 9)));
    v4(Frame::echo_request(REMOTE, A.address, 9));
    v4(Frame::echo_request(REMOTE, HOST, 9));
    all.push(arp(ROUTER_MAC, ROUTER_MAC, REMOTE, HOST));

    let mut v6 = |frame: Frame6| all.push(frame.by_router().bytes());
    v6(Frame6::syn((v6::REMOTE, 1), (v6::HOST, 80)));
    v6(Frame6::syn((v6::REMOTE_2, 1), (v6::HOST, 8080)));
    v6(Frame6::udp((v6::REMOTE, 1), (v6::HOST, 53)).extension(HOP_BY_HOP, &PADDING));
    v6(Frame6::udp((v6::REMOTE, 1), (v6::HOST, 53)).fragment(0, true, 1));
    v6(Frame6::raw(IpNumber::UDP, v6::REMOTE, v6::HOST).fragment(10, false, 1));
    v6(Frame6::udp((v6::REMOTE_2, 443), (v6::HOST, 25_000)));
    v6(Frame6::syn((v6::REMOTE, 1), (v6::A.address, 8081)));
    v6(Frame6::udp((v6::REMOTE, 1), (v6::A.address, 9)));
    v6(Frame6::echo_request(v6::REMOTE, v6::A.address, 9));
    v6(Frame6::echo_request(v6::REMOTE, v6::HOST, 9));

    let far = [
        Frame::udp((FAR, 1), (M.address, 4000)).macs(FAR_MAC, M.mac).bytes(),
        Frame::tcp((FAR, 1), (M.address, 4000)).options(&[1; 8]).macs(FAR_MAC, M.mac).bytes(),
        Frame6::udp((v6::FAR, 1), (v6::M.address, 4000)).macs(FAR_MAC, M.mac).bytes(),
        Frame6::tcp((v6::FAR, 1), (v6::M.address, 4000))
            .extension(DESTINATION_OPTIONS, &PADDING)
            .macs(FAR_MAC, M.mac)
            .bytes(),
    ];
    for inner in far {
        let payload = [vxlan_header(MESH.vni).as_slice(), &inner].concat();
        all.push(Frame::udp((PEER, 50_000), (HOST, VXLAN_PORT)).payload(&payload).by_router().bytes());
        all.push(
            Frame6::udp((v6::PEER, 50_000), (v6::HOST, VXLAN_PORT)).payload(&payload).by_router().bytes(),
        );
    }
    all
}

/// The same packet the other way: every checksum stays what it is, but for an echo, which becomes a reply.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let wire = wire::read(frame)?;
    let mut answer = frame.to_vec();
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&frame[..6]);
    let addresses = &mut answer[wire.addresses()];
    addresses.rotate_left(addresses.len() / 2);
    if wire.part == wire::Part::Later {
        return Some(answer);
    }
    match wire.protocol {
        TCP | UDP | SCTP => answer[wire.ports()].rotate_left(2),
        ICMP | ICMPV6 => {
            let (request, reply) = if wire.is_v6 { (128, 129) } else { (8, 0) };
            let kind = answer.get_mut(wire.transport)?;
            if *kind != request {
                return None;
            }
            *kind = reply;
            // RFC 1624: what the type has lost the checksum gains.
            let at = wire.checksum()?;
            let sum = u32::from(u16::from_be_bytes([answer[at.start], answer[at.start + 1]]));
            let sum = sum + (u32::from(request) << 8) + 0xffff - (u32::from(reply) << 8);
            let sum = (sum & 0xffff) + (sum >> 16);
            answer[at].copy_from_slice(&((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
        }
        _ => return None,
    }
    Some(answer)
}

/// Errors of whoever got this frame, each quoting it so far.
fn errors(frame: &[u8]) -> Vec<Vec<u8>> {
    let Some(wire) = wire::read(frame) else { return Vec::new() };
    let macs: ([u8; 6], [u8; 6]) =
        (frame[..6].try_into().expect("six bytes"), frame[6..12].try_into().expect("six bytes"));
    let quoted = |length: usize| &frame[14..frame.len().min(14 + length)];
    match (wire.source, wire.destination) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => [28, 40, 500]
            .into_iter()
            .flat_map(|length| {
                [
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
                    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
                ]
                .map(|kind| Frame::icmp(kind, destination, source).payload(quoted(length)))
            })
            .map(|frame| frame.macs(macs.0, macs.1).bytes())
            .collect(),
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => [48, 60, 500]
            .into_iter()
            .flat_map(|length| {
                [
                    Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
                    Icmpv6Type::PacketTooBig { mtu: 1280 },
                    Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
                ]
                .map(|kind| Frame6::icmp(kind, destination, source).payload(quoted(length)))
            })
            .map(|frame| frame.macs(macs.0, macs.1).bytes())
            .collect(),
        _ => Vec::new(),
    }
}

fn addresses() -> Vec<Vec<u8>> {
    let v4 = CONTAINERS.iter().map(|container| container.address);
    let v4 = v4.chain(NETWORKS.iter().map(|network| network.gateway));
    let v4 = v4.chain([HOST, HOST_2, REMOTE, REMOTE_2, FAR, PEER]);
    let v4 = v4.chain([[0; 4].into(), [127, 0, 0, 1].into(), [224, 0, 0, 1].into(), [255; 4].into()]);
    let v6 = [&v6::A, &v6::B, &v6::C, &v6::M].into_iter().flat_map(|it| [it.address, it.link_local()]);
    let v6 = v6.chain([1, 2, 3].map(v6::gateway));
    let v6 = v6.chain([v6::HOST, v6::REMOTE, v6::REMOTE_2, v6::FAR, v6::PEER]);
    let special =
        ["::", "::1", "ff02::1", "fe80::1", "::ffff:10.10.0.10", "::ffff:192.0.2.1", "fd00:1::ffff"];
    let v6 = v6.chain(special.map(|text| text.parse().expect("an address")));
    v4.map(|address| address.octets().to_vec()).chain(v6.map(|address| address.octets().to_vec())).collect()
}
