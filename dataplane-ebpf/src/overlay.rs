//! VXLAN (RFC 7348): frames for containers on other hosts, without a tunnel device.

use dataplane_common::{
    abi::{Address, Device, DropReason, MacAddress, Path, Remote, flags},
    packet::{
        Be16, Be32, ChecksumDelta, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN,
        Ethernet, Ipv4, Ipv6, Ports, Udp, VXLAN_OVERHEAD, Vxlan, protocol,
    },
};

use crate::{
    helpers, maps,
    packet::Packet,
    parse::{Fragment, Parsed},
    redirect,
    verdict::{Outcome, Verdict},
};

/// Offset of the VXLAN header behind plain outer headers.
const VXLAN_AT: usize = 42;
/// Offset of the inner Ethernet header: what is in front of it is the overhead.
const INNER_AT: usize = VXLAN_OVERHEAD;
/// Longest packet whose outer length still fits 16 bits.
const LONGEST: usize = 65_535 + Ethernet::LENGTH - VXLAN_OVERHEAD;

/// `BPF_F_ADJ_ROOM_FIXED_GSO`: segments stay as long as they are; the overlay's MTU leaves room for the headers.
const FIXED_GSO: u64 = 1 << 0;
/// `BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | _ENCAP_L4_UDP | _ENCAP_L2_ETH | _ENCAP_L2(14)`: whoever segments the packet later
/// must know what the headers in front are (kernel commit d01b59c9ae94).
const ENCAPSULATE: u64 = FIXED_GSO | 1 << 1 | 1 << 4 | 1 << 6 | (Ethernet::LENGTH as u64) << 56;

/// ECN field of a packet that met congestion (RFC 3168 section 5).
const CONGESTION_EXPERIENCED: u8 = 3;

/// Sends a container's frame to the host of the container it is for.
#[inline(never)]
pub fn encapsulate(packet: Packet, parsed: &Parsed, device: &Device, remote: &Remote) -> Outcome<Verdict> {
    let packet = &packet;
    let peer = maps::peer(remote.peer).ok_or(DropReason::UnknownPeer)?;
    if packet.length() as usize > LONGEST {
        return Err(DropReason::BadEncapsulation);
    }
    if peer.mtu != 0
        && packet.segment_length(parsed) + (VXLAN_OVERHEAD - Ethernet::LENGTH) > peer.mtu as usize
    {
        // A tunnel endpoint does not fragment (RFC 7348 section 4.3): the container has to send less.
        if let Some(scratch) = maps::scratch() {
            scratch.mtu = peer.mtu.wrapping_sub(VXLAN_OVERHEAD as u16);
        }
        return Err(DropReason::TooBig);
    }
    let source = packet.read::<Ethernet>(0)?.source;
    let (ether_type, type_of_service) = if parsed.is_v6 {
        let ip = packet.read::<Ipv6>(Ethernet::LENGTH)?;
        (ETHERTYPE_IPV6, (ip.version_class_flow.get() >> 20) as u8)
    } else {
        (ETHERTYPE_IPV4, packet.read::<Ipv4>(Ethernet::LENGTH)?.type_of_service)
    };
    // The inner flow's hash spreads flows over the queues and links in between (RFC 7348 section 5).
    let source_port = 0xc000 | (helpers::flow_hash(packet.skb) >> 16) as u16 & 0x3fff;
    if !helpers::adjust_room(packet.skb, VXLAN_OVERHEAD as i32, ENCAPSULATE) {
        return Err(DropReason::HelperFailed);
    }
    let total_length = (packet.length() as usize - Ethernet::LENGTH) as u16;

    let ip = packet.write::<Ipv4>(Ethernet::LENGTH)?;
    ip.version_and_length = 0x45;
    // RFC 6040 section 4.1, normal mode: congestion marks are copied, the rest of the byte is not.
    ip.type_of_service = type_of_service & 0x03;
    ip.total_length = Be16::new(total_length);
    // An atomic datagram: DF set, so the identification means nothing (RFC 6864).
    ip.identification = Be16::new(0);
    ip.fragment = Be16::new(Ipv4::DONT_FRAGMENT);
    ip.time_to_live = 64;
    ip.protocol = protocol::UDP;
    ip.source = Be32::from_raw(peer.local.v4_network_order());
    ip.destination = Be32::from_raw(peer.remote.v4_network_order());
    ip.checksum = Be16::from_raw(
        ChecksumDelta::new()
            .replace_u16(0, u16::from_ne_bytes([0x45, ip.type_of_service]))
            .replace_u16(0, ip.total_length.raw())
            .replace_u16(0, ip.fragment.raw())
            .replace_u16(0, u16::from_ne_bytes([64, protocol::UDP]))
            .replace_u32(0, ip.source.raw())
            .replace_u32(0, ip.destination.raw())
            .apply(0xffff),
    );
    let udp = packet.write::<Udp>(Ethernet::LENGTH + Ipv4::LENGTH)?;
    udp.ports = Ports { source: Be16::new(source_port), destination: Be16::new(peer.port) };
    udp.length = Be16::new(total_length - Ipv4::LENGTH as u16);
    udp.checksum = Be16::new(0);
    let vxlan = packet.write::<Vxlan>(VXLAN_AT)?;
    vxlan.flags = Be32::new(Vxlan::VNI_VALID);
    vxlan.vni = Be32::new(device.vni << 8);
    let inner = packet.write::<Ethernet>(INNER_AT)?;
    inner.destination = remote.mac;
    inner.source = source;
    inner.ether_type = Be16::new(ether_type);

    redirect::to_uplink(peer.ifindex, Path::Encapsulate)
}

/// Takes a VXLAN packet for one of weft's networks apart. `Pass`: the vxlan device's business (broadcast, unknown
/// containers), or another's (foreign VNI).
#[inline(always)]
pub fn decapsulate(packet: &Packet, parsed: &Parsed) -> Outcome<Verdict> {
    if parsed.transport() != Ethernet::LENGTH + Ipv4::LENGTH || parsed.fragment() != Fragment::Whole {
        // A tunnel endpoint sends neither options nor fragments (RFC 7348 section 4.3); passed on, the stack would
        // reassemble them for the vxlan device, which does not know the peers.
        return Err(DropReason::BadEncapsulation);
    }
    packet.linearise(INNER_AT + Ethernet::LENGTH + Ipv4::LENGTH);
    let udp_length = packet.read::<Udp>(Ethernet::LENGTH + Ipv4::LENGTH)?.length.get();
    let vxlan = packet.read::<Vxlan>(VXLAN_AT).map_err(|_| DropReason::BadEncapsulation)?;
    if vxlan.flags.get() & Vxlan::VNI_VALID == 0 {
        return Err(DropReason::BadEncapsulation);
    }
    let vni = vxlan.vni.get() >> 8;
    let Some(network) = maps::vxlan_network(vni, &parsed.tuple.remote) else {
        return match maps::vxlan_network(vni, &Address::UNSPECIFIED) {
            Some(_) => Err(DropReason::UnknownPeer),
            None => Ok(Verdict::Pass(Path::NotOurs)),
        };
    };
    let inner = packet.read::<Ethernet>(INNER_AT).map_err(|_| DropReason::BadEncapsulation)?;
    let ether_type = inner.ether_type.get();
    let (destination, source): (MacAddress, MacAddress) = (inner.destination, inner.source);
    let (address, inner_protocol, inner_length) = match ether_type {
        ETHERTYPE_IPV4 => {
            let ip =
                packet.read::<Ipv4>(INNER_AT + Ethernet::LENGTH).map_err(|_| DropReason::BadEncapsulation)?;
            let address = Address::from_v4_network_order(ip.destination.raw());
            (address, ip.protocol, ip.total_length.get() as usize)
        }
        ETHERTYPE_IPV6 => {
            packet.linearise(INNER_AT + Ethernet::LENGTH + Ipv6::LENGTH);
            let ip =
                packet.read::<Ipv6>(INNER_AT + Ethernet::LENGTH).map_err(|_| DropReason::BadEncapsulation)?;
            if ip.destination.is_multicast_v6() || ip.destination.is_link_local() || ip.destination.is_v4() {
                return Ok(Verdict::Pass(Path::SlowPath));
            }
            (ip.destination, ip.next_header, ip.payload_length.get() as usize + Ipv6::LENGTH)
        }
        // No frame of a peer has a tag (RFC 7348 section 6.1), and the bridge would hand it to the containers.
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => return Err(DropReason::BadEncapsulation),
        _ => return Ok(Verdict::Pass(Path::SlowPath)),
    };
    // The inner packet must lie within the outer datagram, and both within what was received.
    if udp_length as usize + Ethernet::LENGTH + Ipv4::LENGTH > packet.length() as usize
        || inner_length + Udp::LENGTH + Vxlan::LENGTH + Ethernet::LENGTH > udp_length as usize
    {
        return Err(DropReason::BadEncapsulation);
    }
    if packet.read::<Ipv4>(Ethernet::LENGTH)?.type_of_service & CONGESTION_EXPERIENCED
        == CONGESTION_EXPERIENCED
    {
        // The mark belongs on the inner packet, or drops it (RFC 6040 section 4.2): the vxlan device does either.
        return Ok(Verdict::Pass(Path::SlowPath));
    }
    if packet.is_gso() && inner_protocol == protocol::UDP {
        // `bpf_skb_adjust_room` leaves the tunnel mark in the packet's GSO type. TCP does not look at it, but a UDP
        // receiver cuts the packet into datagrams and fails; the vxlan device takes the mark off and keeps the GSO.
        return Ok(Verdict::Pass(Path::SlowPath));
    }
    let endpoint = match maps::endpoint(network, &address) {
        Some(endpoint) if endpoint.mac == destination => endpoint,
        _ => return Ok(Verdict::Pass(Path::SlowPath)),
    };
    if endpoint.flags & flags::INTER_CONTAINER == 0 {
        return Err(DropReason::InterContainerDisabled);
    }
    if !helpers::adjust_room(packet.skb, -(VXLAN_OVERHEAD as i32), FIXED_GSO) {
        return Err(DropReason::HelperFailed);
    }
    redirect::to_container(packet, endpoint, source, Path::Decapsulate)
}
