//! The one translation: the addresses and ports of a packet become those of the other tuple of its flow.

use dataplane_common::{
    abi::{DropReason, Tuple},
    packet::{Be16, Be32, ChecksumDelta, Icmp, Ipv4, Ports, protocol},
};

use crate::{
    helpers,
    packet::{Packet, Parsed, Side},
    verdict::Outcome,
};

/// `BPF_F_PSEUDO_HDR`: the difference is in addresses, which a partial checksum covers already.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: an absent UDP checksum stays absent.
const UDP: u64 = 1 << 5;

/// Rewrites an IPv4 packet behind a plain Ethernet header so that its tuple becomes `to`, and takes one hop from its
/// time to live (RFC 1812 section 5.3.1). The caller has checked everything that may speak against sending it.
#[inline(always)]
pub fn rewrite(packet: &Packet, parsed: &Parsed, local: Side, to: &Tuple) -> Outcome<()> {
    let from = &parsed.tuple;
    if parsed.time_to_live <= 1 {
        return Err(DropReason::TimeToLive);
    }
    let addresses = ChecksumDelta::new()
        .replace_u32(from.local.v4_network_order(), to.local.v4_network_order())
        .replace_u32(from.remote.v4_network_order(), to.remote.v4_network_order());
    let ports = ChecksumDelta::new()
        .replace_u16(from.local_port.to_be(), to.local_port.to_be())
        .replace_u16(from.remote_port.to_be(), to.remote_port.to_be());
    let ports_differ = from.local_port != to.local_port || from.remote_port != to.remote_port;

    match from.protocol {
        protocol::ICMP => {
            // No pseudo-header (RFC 792).
            if ports_differ {
                update(packet, parsed.transport + 2, ports, 0)?;
            }
        }
        protocol::TCP | protocol::UDP => {
            let (at, flags) = if from.protocol == protocol::TCP { (16, 0) } else { (6, UDP) };
            update(packet, parsed.transport + at, addresses, PSEUDO_HEADER | flags)?;
            if ports_differ {
                update(packet, parsed.transport + at, ports, flags)?;
            }
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    }

    if ports_differ {
        if from.protocol == protocol::ICMP {
            packet.write::<Icmp>(parsed.transport)?.identifier = Be16::new(to.local_port);
        } else {
            let header = packet.write::<Ports>(parsed.transport)?;
            (header.source, header.destination) = match local {
                Side::Source => (Be16::new(to.local_port), Be16::new(to.remote_port)),
                Side::Destination => (Be16::new(to.remote_port), Be16::new(to.local_port)),
            };
        }
    }
    let ip = packet.write::<Ipv4>(14)?;
    let (near, far) =
        (Be32::from_raw(to.local.v4_network_order()), Be32::from_raw(to.remote.v4_network_order()));
    (ip.source, ip.destination) = match local {
        Side::Source => (near, far),
        Side::Destination => (far, near),
    };
    let hop = u16::from_ne_bytes([parsed.time_to_live, ip.protocol]);
    ip.time_to_live = parsed.time_to_live - 1;
    let next_hop = u16::from_ne_bytes([ip.time_to_live, ip.protocol]);
    ip.checksum = Be16::from_raw(addresses.replace_u16(hop, next_hop).apply(ip.checksum.raw()));
    Ok(())
}

#[inline(always)]
fn update(packet: &Packet, offset: usize, delta: ChecksumDelta, flags: u64) -> Outcome<()> {
    if helpers::update_checksum(packet.skb, offset as u32, delta.to_u32(), flags) {
        Ok(())
    } else {
        Err(DropReason::HelperFailed)
    }
}
