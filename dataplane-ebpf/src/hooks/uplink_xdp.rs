//! What the world sends, before the kernel makes a packet of its own of it.
//!
//! UDP of flows that exist goes straight to the container, and so does UDP that another host's containers send through a
//! tunnel. What `from_uplink` would drop without telling anybody is dropped here. All else is passed as it came, and
//! `from_uplink` decides: what opens a flow, fragments, ICMP errors, whatever is unusual. It finds the same maps, so a
//! flow may go by either.
//!
//! TCP is not carried: the kernel makes one large packet of many segments (GRO) after this hook, which is worth more than
//! what this hook saves, and single segments must not overtake those that wait to be joined.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use dataplane_common::{
    abi::{DeviceRole, DropReason, Endpoint, Flow, FlowKind, Index, Path, flags},
    flow::Direction,
    packet::{Be16, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Udp, protocol, tcp_flags},
};

use crate::{
    flows,
    frame::Frame,
    helpers,
    hooks::from_uplink,
    maps, overlay,
    packet::Headers,
    parse::{Fragment, NETWORK, Parsed, Side, parse_ipv4, parse_ipv6},
    translate, udp_checksum,
    verdict::Outcome,
};

/// What becomes of a packet here.
enum Decision {
    /// `from_uplink` decides.
    Pass,
    /// A redirect helper has answered this.
    Redirect(Path, u32),
}

#[inline(always)]
pub fn run(frame: &Frame) -> u32 {
    let size = frame.size();
    match decide(frame) {
        Ok(Decision::Pass) => XDP_PASS,
        Ok(Decision::Redirect(path, action)) => {
            maps::count(path, size);
            maps::count(Path::Xdp, size);
            action
        }
        Err(reason) => {
            maps::count_drop(reason, size);
            maps::count(Path::Xdp, size);
            XDP_DROP
        }
    }
}

#[inline(always)]
fn decide(frame: &Frame) -> Outcome<Decision> {
    let Some(device) = maps::device(frame.device()) else { return Ok(Decision::Pass) };
    let Ok(ethernet) = frame.read::<Ethernet>(0) else { return Ok(Decision::Pass) };
    if device.role != DeviceRole::UPLINK || ethernet.destination != device.mac {
        return Ok(Decision::Pass);
    }
    let parsed = match ethernet.ether_type.get() {
        ETHERTYPE_IPV4 => parse_ipv4(frame, Side::Destination),
        ETHERTYPE_IPV6 => parse_ipv6(frame, Side::Destination),
        _ => return Ok(Decision::Pass),
    };
    let parsed = match parsed {
        Ok(parsed) => parsed,
        // As `from_uplink` says.
        Err(DropReason::UnsupportedProtocol) => return Err(DropReason::UnsupportedProtocol),
        Err(_) => return Ok(Decision::Pass),
    };
    if parsed.fragment() != Fragment::Whole || parsed.is_icmp_error || is_amid_connection(parsed) {
        return Ok(Decision::Pass);
    }
    let tuple = &parsed.tuple;
    if tuple.protocol == protocol::UDP && tuple.local_port == device.vxlan_port && device.vxlan_port != 0 {
        if !maps::is_host_address(&tuple.local) {
            return Ok(Decision::Pass);
        }
        return decapsulate(frame, parsed);
    }
    if parsed.has_ports
        && let Some(index) = maps::index(tuple)
    {
        return enter(frame, parsed, index);
    }
    from_uplink::way_in(frame.xdp.cast(), parsed).map(|_| Decision::Pass)
}

/// A TCP segment that opens nothing: not worth the time it would take to find out whose it is.
#[inline(always)]
fn is_amid_connection(parsed: &Parsed) -> bool {
    parsed.tuple.protocol == protocol::TCP
        && parsed.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) != tcp_flags::SYN
}

/// A packet from the other end of a flow, see `portmap::enter`.
#[inline(always)]
fn enter(frame: &Frame, parsed: &Parsed, index: &Index) -> Outcome<Decision> {
    if parsed.tuple.protocol != protocol::UDP || parsed.hop_limit <= 1 {
        return Ok(Decision::Pass);
    }
    let inside = &index.inside;
    let Some(record) = maps::flow(inside) else { return Ok(Decision::Pass) };
    // SAFETY: as in `flows`.
    let flow: &mut Flow = unsafe { &mut *record };
    let path = match flow.kind {
        FlowKind::MASQUERADE => Path::MasqueradeIn,
        FlowKind::PORTMAP => Path::PortmapIn,
        FlowKind::ROUTED => Path::RoutedIn,
        _ => return Ok(Decision::Pass),
    };
    if flow.outside != parsed.tuple {
        return Ok(Decision::Pass);
    }
    let endpoint = match maps::endpoint(flow.network, &inside.local) {
        Some(endpoint) if endpoint.epoch == flow.epoch => endpoint,
        _ => return Ok(Decision::Pass),
    };
    if !flags::forwards(endpoint.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    if !takes(endpoint, frame.length() as usize) || !udp_checksum::is_right(*frame, NETWORK, parsed.is_v6) {
        return Ok(Decision::Pass);
    }
    flows::touch(flow, parsed, Direction::FromOutside);

    let udp = frame.write::<Udp>(parsed.transport())?;
    if udp.checksum.raw() != 0 {
        let delta = translate::addresses(&parsed.tuple, inside, parsed.is_v6)
            .join(translate::ports(&parsed.tuple, inside));
        // A sum of 0 is sent as its other self (RFC 768).
        udp.checksum = match delta.apply(udp.checksum.raw()) {
            0 => Be16::new(0xffff),
            checksum => Be16::from_raw(checksum),
        };
    }
    udp.ports = translate::ports_of(inside, Side::Destination);
    translate::network(frame, parsed, Side::Destination, &inside.remote, &inside.local)?;
    let ethernet = frame.write::<Ethernet>(0)?;
    ethernet.destination = endpoint.mac;
    ethernet.source = endpoint.gateway_mac;
    Ok(Decision::Redirect(path, helpers::redirect_xdp(endpoint.ifindex)))
}

/// A VXLAN packet. Its inner frame goes to the container as it is.
#[inline(always)]
fn decapsulate(frame: &Frame, parsed: &Parsed) -> Outcome<Decision> {
    let Ok(carried) = overlay::carried(frame, parsed)? else { return Ok(Decision::Pass) };
    // The stack would verify it.
    let is_checked = frame.read::<Udp>(parsed.transport())?.checksum.raw() != 0;
    let network = carried.at + Ethernet::LENGTH;
    if is_checked
        || !takes(carried.endpoint, frame.length() as usize - carried.at)
        || !udp_checksum::is_right(*frame, network, carried.ether_type == ETHERTYPE_IPV6)
    {
        return Ok(Decision::Pass);
    }
    if !helpers::cut_front(frame.xdp, carried.at as i32) {
        return Err(DropReason::HelperFailed);
    }
    Ok(Decision::Redirect(Path::Decapsulate, helpers::redirect_xdp(carried.endpoint.ifindex)))
}

/// Whether a container's veth takes a packet of this length from XDP: it drops what it does not take.
#[inline(always)]
fn takes(endpoint: &Endpoint, length: usize) -> bool {
    endpoint.flags & flags::XDP_TARGET != 0
        && (length <= Endpoint::XDP_TARGET_MTU as usize + Ethernet::LENGTH || fits(endpoint, length))
}

/// Whether a longer one does.
#[inline(always)]
fn fits(endpoint: &Endpoint, length: usize) -> bool {
    maps::device(endpoint.ifindex).is_some_and(|device| length <= device.mtu as usize + Ethernet::LENGTH)
}
