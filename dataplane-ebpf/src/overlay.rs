//! VXLAN (RFC 7348): frames for containers on other hosts, without a tunnel device.

use core::hint::cold_path;

use dataplane_common::{
    abi::{Address, Device, DropReason, Endpoint, MacAddress, Path, Peer, Remote, flags},
    packet::{
        Be16, Be32, ChecksumDelta, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN,
        Ethernet, Ipv4, Ipv6, Ports, Udp, VXLAN_OVERHEAD, VXLAN_OVERHEAD_V6, Vxlan, protocol,
    },
};

use crate::{
    clock, helpers, maps,
    packet::{Headers, Packet},
    parse::{Fragment, Parsed},
    redirect, route,
    verdict::{Outcome, Verdict},
};

/// `BPF_F_ADJ_ROOM_FIXED_GSO`: segments stay as long as they are; the overlay's MTU leaves room for the headers.
const FIXED_GSO: u64 = 1 << 0;
/// `BPF_F_ADJ_ROOM_ENCAP_L4_UDP | _ENCAP_L2_ETH | _ENCAP_L2(14)`: whoever segments the packet later must know what the
/// headers in front are (kernel commit d01b59c9ae94).
const ENCAPSULATE: u64 = FIXED_GSO | 1 << 4 | 1 << 6 | (Ethernet::LENGTH as u64) << 56;
/// `BPF_F_ADJ_ROOM_ENCAP_L3_IPV4`.
const ENCAPSULATE_V4: u64 = ENCAPSULATE | 1 << 1;
/// `BPF_F_ADJ_ROOM_ENCAP_L3_IPV6`.
const ENCAPSULATE_V6: u64 = ENCAPSULATE | 1 << 2;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` and `_IPV6`: what the inner packet is, where the outer one is of the other family.
const DECAPSULATE_V4: u64 = FIXED_GSO | 1 << 7;
const DECAPSULATE_V6: u64 = FIXED_GSO | 1 << 8;

/// How long a next hop is not asked for again.
const NEXT_HOP_VALID_NS: u64 = 1_000_000_000;

/// Time to live or hop limit of the outer packet.
const HOPS: u8 = 64;

/// ECN field of a packet that met congestion (RFC 3168 section 5).
const CONGESTION_EXPERIENCED: u8 = 3;

/// Where things are in the outer packet: its IP header is that of IPv4 or that of IPv6.
#[derive(Clone, Copy)]
struct Outer {
    ip_length: usize,
}

impl Outer {
    const V4: Self = Self { ip_length: Ipv4::LENGTH };
    const V6: Self = Self { ip_length: Ipv6::LENGTH };

    /// Offset of the UDP header.
    #[inline(always)]
    const fn udp(self) -> usize {
        Ethernet::LENGTH + self.ip_length
    }

    /// Offset of the VXLAN header.
    #[inline(always)]
    const fn vxlan(self) -> usize {
        self.udp() + Udp::LENGTH
    }

    /// Offset of the inner frame, which is what the encapsulation adds in front of it.
    #[inline(always)]
    const fn inner(self) -> usize {
        self.vxlan() + size_of::<Vxlan>()
    }

    /// Longest packet whose outer length still fits 16 bits. (IPv6 does not count its own header, so it is shorter than
    /// it would have to be.)
    #[inline(always)]
    const fn longest(self) -> usize {
        65_535 + Ethernet::LENGTH - self.inner()
    }
}

// What is added in front of the inner frame is as long as what an overlay's MTU leaves room for.
const _: () =
    assert!(Outer::V4.inner() == VXLAN_OVERHEAD as usize && Outer::V6.inner() == VXLAN_OVERHEAD_V6 as usize);

/// What of an inner packet shows outside.
struct Inner {
    source: MacAddress,
    ether_type: u16,
    type_of_service: u8,
    /// Of the flow: spreads flows over the queues and links in between (RFC 7348 section 5).
    hash: u32,
}

/// Sends a container's frame to the host of the container it is for.
#[inline(never)]
pub fn encapsulate(packet: Packet, parsed: &Parsed, device: &Device, remote: &Remote) -> Outcome<Verdict> {
    let packet = &packet;
    let peer = maps::peer(remote.peer).ok_or(DropReason::UnknownPeer)?;
    let is_v4 = peer.remote.is_v4();
    let outer = if is_v4 { Outer::V4 } else { Outer::V6 };
    if packet.length() as usize > outer.longest() {
        return Err(DropReason::BadEncapsulation);
    }
    if peer.mtu != 0 && packet.segment_length(parsed) + (outer.inner() - Ethernet::LENGTH) > peer.mtu as usize
    {
        // A tunnel endpoint does not fragment (RFC 7348 section 4.3): the container has to send less.
        if let Some(scratch) = maps::scratch() {
            scratch.mtu = peer.mtu.wrapping_sub(outer.inner() as u16);
        }
        return Err(DropReason::TooBig);
    }
    let source = packet.read::<Ethernet>(0)?.source;
    let (ether_type, type_of_service) = if parsed.is_v6 {
        (ETHERTYPE_IPV6, packet.read::<Ipv6>(Ethernet::LENGTH)?.traffic_class())
    } else {
        (ETHERTYPE_IPV4, packet.read::<Ipv4>(Ethernet::LENGTH)?.type_of_service)
    };
    let inner = Inner { source, ether_type, type_of_service, hash: helpers::flow_hash(packet.skb) };
    if is_v4 {
        if !helpers::adjust_room(packet.skb, Outer::V4.inner() as i32, ENCAPSULATE_V4) {
            return Err(DropReason::HelperFailed);
        }
        packet.write::<Ethernet>(0)?.ether_type = Be16::new(ETHERTYPE_IPV4);
        outer_v4(packet, peer, &inner)?;
    } else {
        if !helpers::adjust_room(packet.skb, Outer::V6.inner() as i32, ENCAPSULATE_V6) {
            return Err(DropReason::HelperFailed);
        }
        packet.write::<Ethernet>(0)?.ether_type = Be16::new(ETHERTYPE_IPV6);
        outer_v6(packet, peer, &inner)?;
    }
    let vxlan = packet.write::<Vxlan>(outer.vxlan())?;
    vxlan.flags = Be32::new(Vxlan::VNI_VALID);
    vxlan.vni = Be32::new(device.vni << 8);
    let ethernet = packet.write::<Ethernet>(outer.inner())?;
    ethernet.destination = remote.mac;
    ethernet.source = inner.source;
    ethernet.ether_type = Be16::new(inner.ether_type);

    leave(packet, remote.peer, peer)
}

/// To the next hop towards the peer, which is remembered for a second, see `masquerade::go_on`. What is outside never differs
/// in more than a congestion mark and a port.
#[inline(always)]
fn leave(packet: &Packet, number: u32, peer: &Peer) -> Outcome<Verdict> {
    let Some(remembered) = maps::peer_next_hop(number) else {
        return redirect::to_uplink(peer.ifindex, Path::Encapsulate);
    };
    // SAFETY: a map value.
    let remembered = unsafe { &mut *remembered };
    // A copy: another CPU may write it.
    let next_hop = *remembered;
    let now = clock::now_ns();
    if now.wrapping_sub(next_hop.asked_ns) < NEXT_HOP_VALID_NS
        && (next_hop.ifindex == peer.ifindex || next_hop.ifindex == 0)
    {
        return redirect::to_next_hop(packet, peer.ifindex, &next_hop, Path::Encapsulate);
    }
    cold_path();
    route::next_hop(*packet, peer.ifindex, now, remembered)?;
    redirect::to_uplink(peer.ifindex, Path::Encapsulate)
}

#[inline(always)]
fn outer_v4(packet: &Packet, peer: &Peer, inner: &Inner) -> Outcome<()> {
    let total_length = (packet.length() as usize - Ethernet::LENGTH) as u16;
    let ip = packet.write::<Ipv4>(Ethernet::LENGTH)?;
    ip.version_and_length = 0x45;
    // RFC 6040 section 4.1, normal mode: congestion marks are copied, the rest of the byte is not.
    ip.type_of_service = inner.type_of_service & 0x03;
    ip.total_length = Be16::new(total_length);
    // An atomic datagram: DF set, so the identification means nothing (RFC 6864).
    ip.identification = Be16::new(0);
    ip.fragment = Be16::new(Ipv4::DONT_FRAGMENT);
    ip.time_to_live = HOPS;
    ip.protocol = protocol::UDP;
    ip.source = Be32::from_raw(peer.local.v4_network_order());
    ip.destination = Be32::from_raw(peer.remote.v4_network_order());
    ip.checksum = Be16::from_raw(
        ChecksumDelta::new()
            .replace_u16(0, u16::from_ne_bytes([0x45, ip.type_of_service]))
            .replace_u16(0, ip.total_length.raw())
            .replace_u16(0, ip.fragment.raw())
            .replace_u16(0, u16::from_ne_bytes([HOPS, protocol::UDP]))
            .replace_u32(0, ip.source.raw())
            .replace_u32(0, ip.destination.raw())
            .apply(0xffff),
    );
    udp(packet, Outer::V4, peer, inner, total_length - Ipv4::LENGTH as u16)
}

/// The flow label stays 0: the source port says the same to those who look for it.
#[inline(always)]
fn outer_v6(packet: &Packet, peer: &Peer, inner: &Inner) -> Outcome<()> {
    let length = (packet.length() as usize - Ethernet::LENGTH - Ipv6::LENGTH) as u16;
    let ip = packet.write::<Ipv6>(Ethernet::LENGTH)?;
    ip.version_class_flow = Be32::new(0x6000_0000 | u32::from(inner.type_of_service & 0x03) << 20);
    ip.payload_length = Be16::new(length);
    ip.next_header = protocol::UDP;
    ip.hop_limit = HOPS;
    ip.source = peer.local;
    ip.destination = peer.remote;
    udp(packet, Outer::V6, peer, inner, length)
}

/// Without a checksum, over IPv6 too, where both ends of a tunnel may agree to that (RFC 6935, RFC 6936): each inner
/// packet has its own, and the kernel's vxlan device sends so as well.
#[inline(always)]
fn udp(packet: &Packet, outer: Outer, peer: &Peer, inner: &Inner, length: u16) -> Outcome<()> {
    let source_port = 0xc000 | (inner.hash >> 16) as u16 & 0x3fff;
    let udp = packet.write::<Udp>(outer.udp())?;
    udp.ports = Ports { source: Be16::new(source_port), destination: Be16::new(peer.port) };
    udp.length = Be16::new(length);
    udp.checksum = Be16::new(0);
    Ok(())
}

/// What a VXLAN packet carries to a container of this host.
pub struct Carried<'a> {
    /// The container.
    pub endpoint: &'a Endpoint,
    /// Offset of the inner frame.
    pub at: usize,
    /// The inner frame's source.
    source: MacAddress,
    /// The inner frame's EtherType.
    pub ether_type: u16,
}

/// Takes a VXLAN packet for one of weft's networks apart. `Pass`: the vxlan device's business (broadcast, unknown
/// containers), or another's (foreign VNI).
#[inline(always)]
pub fn decapsulate(packet: &Packet, parsed: &Parsed) -> Outcome<Verdict> {
    let carried = match carried(packet, parsed)? {
        Ok(carried) => carried,
        Err(path) => return Ok(Verdict::Pass(path)),
    };
    let flags = if carried.ether_type == ETHERTYPE_IPV6 { DECAPSULATE_V6 } else { DECAPSULATE_V4 };
    if !helpers::adjust_room(packet.skb, -(carried.at as i32), flags) {
        return Err(DropReason::HelperFailed);
    }
    packet.write::<Ethernet>(0)?.ether_type = Be16::new(carried.ether_type);
    redirect::to_container(packet, carried.endpoint, carried.source, Path::Decapsulate)
}

/// Looks into a VXLAN packet. `Ok(Err(path))`: it is for somebody else than a container here.
#[inline(always)]
pub fn carried<'a>(packet: &impl Headers, parsed: &Parsed) -> Outcome<Result<Carried<'a>, Path>> {
    let outer = if parsed.is_v6 { Outer::V6 } else { Outer::V4 };
    if parsed.transport() != outer.udp() || parsed.fragment() != Fragment::Whole {
        // A tunnel endpoint sends neither options nor fragments (RFC 7348 section 4.3); passed on, the stack would
        // reassemble them for the vxlan device, which does not know the peers.
        return Err(DropReason::BadEncapsulation);
    }
    let inner_ip = outer.inner() + Ethernet::LENGTH;
    packet.linearise(inner_ip + Ipv4::LENGTH);
    let udp_length = packet.read::<Udp>(outer.udp())?.length.get();
    let vxlan = packet.read::<Vxlan>(outer.vxlan()).map_err(|_| DropReason::BadEncapsulation)?;
    if vxlan.flags.get() & Vxlan::VNI_VALID == 0 {
        return Err(DropReason::BadEncapsulation);
    }
    let vni = vxlan.vni.get() >> 8;
    let Some(network) = maps::vxlan_network(vni, &parsed.tuple.remote) else {
        return match maps::vxlan_network(vni, &Address::UNSPECIFIED) {
            Some(_) => Err(DropReason::UnknownPeer),
            None => Ok(Err(Path::NotOurs)),
        };
    };
    let inner = packet.read::<Ethernet>(outer.inner()).map_err(|_| DropReason::BadEncapsulation)?;
    let ether_type = inner.ether_type.get();
    let (destination, source): (MacAddress, MacAddress) = (inner.destination, inner.source);
    let (address, inner_protocol, inner_length) = match ether_type {
        ETHERTYPE_IPV4 => {
            let ip = packet.read::<Ipv4>(inner_ip).map_err(|_| DropReason::BadEncapsulation)?;
            let address = Address::from_v4_network_order(ip.destination.raw());
            (address, ip.protocol, ip.total_length.get() as usize)
        }
        ETHERTYPE_IPV6 => {
            packet.linearise(inner_ip + Ipv6::LENGTH);
            let ip = packet.read::<Ipv6>(inner_ip).map_err(|_| DropReason::BadEncapsulation)?;
            if ip.destination.is_multicast_v6() || ip.destination.is_link_local() || ip.destination.is_v4() {
                return Ok(Err(Path::SlowPath));
            }
            (ip.destination, ip.next_header, ip.payload_length.get() as usize + Ipv6::LENGTH)
        }
        // No frame of a peer has a tag (RFC 7348 section 6.1), and the bridge would hand it to the containers.
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => return Err(DropReason::BadEncapsulation),
        _ => return Ok(Err(Path::SlowPath)),
    };
    // The inner packet must lie within the outer datagram, and both within what was received.
    if udp_length as usize + outer.udp() > packet.length() as usize
        || inner_length + Udp::LENGTH + Vxlan::LENGTH + Ethernet::LENGTH > udp_length as usize
    {
        return Err(DropReason::BadEncapsulation);
    }
    let type_of_service = if parsed.is_v6 {
        packet.read::<Ipv6>(Ethernet::LENGTH)?.traffic_class()
    } else {
        packet.read::<Ipv4>(Ethernet::LENGTH)?.type_of_service
    };
    if type_of_service & CONGESTION_EXPERIENCED == CONGESTION_EXPERIENCED {
        // The mark belongs on the inner packet, or drops it (RFC 6040 section 4.2): the vxlan device does either.
        return Ok(Err(Path::SlowPath));
    }
    if packet.is_gso() && inner_protocol == protocol::UDP {
        // `bpf_skb_adjust_room` leaves the tunnel mark in the packet's GSO type. TCP does not look at it, but a UDP
        // receiver cuts the packet into datagrams and fails; the vxlan device takes the mark off and keeps the GSO.
        return Ok(Err(Path::SlowPath));
    }
    let endpoint = match maps::endpoint(network, &address) {
        Some(endpoint) if endpoint.mac == destination => endpoint,
        _ => return Ok(Err(Path::SlowPath)),
    };
    if endpoint.flags & flags::INTER_CONTAINER == 0 {
        return Err(DropReason::InterContainerDisabled);
    }
    Ok(Ok(Carried { endpoint, at: outer.inner(), source, ether_type }))
}
