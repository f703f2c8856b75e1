//! The one translation: the addresses and ports of a packet become those of the other tuple of its flow.

use dataplane_common::{
    abi::{Address, DropReason, Tuple},
    packet::{Be16, Be32, ChecksumDelta, Crc32cDelta, Icmp, Ipv4, Ipv6, Ports, Sctp, protocol},
};

use crate::{
    helpers::{self, IPV6, PSEUDO_HEADER, UDP},
    packet::{Headers, Packet},
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
        protocol::SCTP => {
            if ports_differ {
                sctp_checksum(*packet, parsed, to)?;
            }
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    if ports_differ {
        if protocol::is_icmp(from.protocol) {
            packet.write::<Icmp>(parsed.transport())?.identifier = Be16::new(to.local_port);
        } else {
            *packet.write::<Ports>(parsed.transport())? = ports_of(to, local);
        }
    }
    Ok(())
}

/// The checksum of a whole SCTP packet whose ports become those of `to`. How much they change it depends on the length of
/// the packet, which a fragment does not tell.
#[inline(never)]
fn sctp_checksum(packet: Packet, parsed: &Parsed, to: &Tuple) -> Outcome<()> {
    if parsed.fragment() != Fragment::Whole {
        return Err(DropReason::SctpPort);
    }
    let length = transport_length(&packet, parsed.is_v6, NETWORK, parsed.transport())?;
    let header = packet.read::<Sctp>(parsed.transport())?;
    if !header.checksum.is_absent() {
        let delta = crc32c_delta(Crc32cDelta::ports(header.ports, ports_of(to, parsed.local())), length);
        let new = header.checksum.apply(delta);
        packet.write::<Sctp>(parsed.transport())?.checksum = new;
    }
    Ok(())
}

/// By how much such a change at the beginning of an SCTP packet of this length changes its checksum.
#[inline(always)]
pub fn crc32c_delta(change: Crc32cDelta, length: u16) -> Crc32cDelta {
    Crc32cDelta::from_raw(crc32c_of_message(change.raw(), u32::from(length)))
}

/// [`Crc32cDelta::of_message`] as a global function of BPF, which this linkage makes it: the verifier goes through it once, and
/// not on each of the hundreds of ways that lead here. It may have nothing but numbers as arguments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn crc32c_of_message(change: u32, length: u32) -> u32 {
    Crc32cDelta::from_raw(change).of_message(length as u16).raw()
}

/// Bytes behind the IP header at `network`, from the transport header to the end of the IP packet: padding is not covered.
#[inline(always)]
pub fn transport_length(
    packet: &impl Headers,
    is_v6: bool,
    network: usize,
    transport: usize,
) -> Outcome<u16> {
    let total = if is_v6 {
        packet.read::<Ipv6>(network)?.payload_length.get().wrapping_add(Ipv6::LENGTH as u16)
    } else {
        packet.read::<Ipv4>(network)?.total_length.get()
    };
    Ok(total.wrapping_sub((transport - network) as u16))
}

/// The ports of a tuple as they lie in a packet with this side as `local`.
#[inline(always)]
pub fn ports_of(tuple: &Tuple, local: Side) -> Ports {
    let (source, destination) = match local {
        Side::Source => (tuple.local_port, tuple.remote_port),
        Side::Destination => (tuple.remote_port, tuple.local_port),
    };
    Ports { source: Be16::new(source), destination: Be16::new(destination) }
}

/// The IP header: addresses, one hop less, and where the source is translated the identification of a fragment.
#[inline(always)]
pub fn network(
    packet: &impl Headers,
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
