//! The one translation: the addresses and ports of a packet become those of the other tuple of its flow.

use dataplane_common::{
    abi::{Address, DropReason, Tuple},
    packet::{Be16, Be32, ChecksumDelta, Icmp, Ipv4, Ipv6, Ports, protocol},
};

use crate::{
    helpers::{self, IPV6, PSEUDO_HEADER, UDP},
    packet::Packet,
    parse::{Fragment, NETWORK, Parsed, Side},
    verdict::Outcome,
};

/// Rewrites a packet behind a plain Ethernet header so that its tuple becomes `to`, and takes one hop from its time to
/// live (RFC 1812 section 5.3.1). The caller has checked everything else that may speak against sending it.
///
/// A function of its own, and not inlined: it is used in many places and most of what the programs are made of.
#[inline(never)]
pub fn rewrite(packet: Packet, parsed: &Parsed, to: &Tuple) -> Outcome<()> {
    let packet = &packet;
    let local = parsed.local();
    if parsed.hop_limit <= 1 {
        return Err(DropReason::TimeToLive);
    }
    // A later fragment has no transport header.
    if parsed.fragment() != Fragment::Later {
        transport(packet, parsed, local, to)?;
    }
    let (source, destination) = match local {
        Side::Source => (&to.local, &to.remote),
        Side::Destination => (&to.remote, &to.local),
    };
    network(packet, parsed, local, source, destination)
}

/// What a new pair of addresses adds to a checksum that covers them.
#[inline(always)]
pub fn addresses(from: &Tuple, to: &Tuple, is_v6: bool) -> ChecksumDelta {
    let delta = ChecksumDelta::new();
    if is_v6 {
        replace_v6(replace_v6(delta, &from.local, &to.local), &from.remote, &to.remote)
    } else {
        delta
            .replace_u32(from.local.v4_network_order(), to.local.v4_network_order())
            .replace_u32(from.remote.v4_network_order(), to.remote.v4_network_order())
    }
}

#[inline(always)]
pub fn replace_v6(delta: ChecksumDelta, old: &Address, new: &Address) -> ChecksumDelta {
    let ([a, b, c, d], [e, f, g, h]) = (old.words(), new.words());
    delta.replace_u32(a, e).replace_u32(b, f).replace_u32(c, g).replace_u32(d, h)
}

/// What new ports add to a checksum.
#[inline(always)]
pub fn ports(from: &Tuple, to: &Tuple) -> ChecksumDelta {
    ChecksumDelta::new()
        .replace_u16(from.local_port.to_be(), to.local_port.to_be())
        .replace_u16(from.remote_port.to_be(), to.remote_port.to_be())
}

#[inline(always)]
fn transport(packet: &Packet, parsed: &Parsed, local: Side, to: &Tuple) -> Outcome<()> {
    let from = &parsed.tuple;
    let ports_differ = from.local_port != to.local_port || from.remote_port != to.remote_port;
    let family = if parsed.is_v6 { IPV6 } else { 0 };
    match from.protocol {
        protocol::ICMP => {
            // No pseudo-header (RFC 792).
            if ports_differ {
                update(packet, parsed.transport() + 2, ports(from, to), 0)?;
            }
        }
        protocol::ICMPV6 => {
            update(packet, parsed.transport() + 2, addresses(from, to, true), PSEUDO_HEADER | IPV6)?;
            if ports_differ {
                update(packet, parsed.transport() + 2, ports(from, to), 0)?;
            }
        }
        protocol::TCP | protocol::UDP => {
            let (at, flags) = if from.protocol == protocol::TCP { (16, 0) } else { (6, UDP) };
            let delta = addresses(from, to, parsed.is_v6);
            update(packet, parsed.transport() + at, delta, PSEUDO_HEADER | flags | family)?;
            if ports_differ {
                update(packet, parsed.transport() + at, ports(from, to), flags)?;
            }
        }
        // Its CRC32c covers the ports, but no addresses (RFC 9260 section 6.8).
        protocol::SCTP if !ports_differ => {}
        protocol::SCTP => return Err(DropReason::SctpPort),
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    if ports_differ {
        if matches!(from.protocol, protocol::ICMP | protocol::ICMPV6) {
            packet.write::<Icmp>(parsed.transport())?.identifier = Be16::new(to.local_port);
        } else {
            let header = packet.write::<Ports>(parsed.transport())?;
            (header.source, header.destination) = match local {
                Side::Source => (Be16::new(to.local_port), Be16::new(to.remote_port)),
                Side::Destination => (Be16::new(to.remote_port), Be16::new(to.local_port)),
            };
        }
    }
    Ok(())
}

/// The IP header: addresses, one hop less, and where the source is translated the identification of a fragment.
#[inline(always)]
pub fn network(
    packet: &Packet,
    parsed: &Parsed,
    local: Side,
    source: &Address,
    destination: &Address,
) -> Outcome<()> {
    if parsed.is_v6 {
        let ip = packet.write::<Ipv6>(NETWORK)?;
        ip.source = *source;
        ip.destination = *destination;
        ip.hop_limit = parsed.hop_limit - 1;
        return Ok(());
    }
    let ip = packet.write::<Ipv4>(NETWORK)?;
    let mut delta = ChecksumDelta::new()
        .replace_u32(ip.source.raw(), source.v4_network_order())
        .replace_u32(ip.destination.raw(), destination.v4_network_order());
    ip.source = Be32::from_raw(source.v4_network_order());
    ip.destination = Be32::from_raw(destination.v4_network_order());
    if parsed.fragment() != Fragment::Whole && local == Side::Source {
        let identification = Be16::new(parsed.new_identification as u16);
        delta = delta.replace_u16(ip.identification.raw(), identification.raw());
        ip.identification = identification;
    }
    let hop = u16::from_ne_bytes([parsed.hop_limit, ip.protocol]);
    ip.time_to_live = parsed.hop_limit - 1;
    let next_hop = u16::from_ne_bytes([ip.time_to_live, ip.protocol]);
    ip.checksum = Be16::from_raw(delta.replace_u16(hop, next_hop).apply(ip.checksum.raw()));
    Ok(())
}

#[inline(always)]
pub fn update(packet: &Packet, offset: usize, delta: ChecksumDelta, flags: u64) -> Outcome<()> {
    if helpers::update_checksum(packet.skb, offset as u32, delta.to_u32(), flags) {
        Ok(())
    } else {
        Err(DropReason::HelperFailed)
    }
}
