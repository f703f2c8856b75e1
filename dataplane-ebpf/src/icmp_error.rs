//! ICMP errors about packets of a flow: the quoted packet is translated like the packet itself was, the other way round
//! (RFC 5508 section 4, RFC 5382 REQ-9). An error neither keeps a flow alive nor ends it (RFC 5508 REQ-6).

use dataplane_common::{
    abi::{Address, Device, DropReason, Endpoint, Flow, FlowKind, Path, Tuple, flags},
    packet::{Be16, Be32, ChecksumDelta, Crc32c, Crc32cDelta, Icmp, Ipv4, Ipv6, Ports, Sctp, Udp, protocol},
};

use crate::{
    flows,
    helpers::{IPV6, PSEUDO_HEADER},
    maps,
    packet::{Headers, Packet},
    parse::{Parsed, Side, asker},
    redirect, translate,
    verdict::{Outcome, Verdict},
};

/// The packet that an ICMP error quotes. In a map for the reason that [`Parsed`] is.
#[repr(C)]
pub struct Quoted {
    /// Its tuple, with the given end as `local`.
    tuple: Tuple,
    network: u16,
    transport: u16,
    checksum: u16,
    /// What the checksum of its IPv4 header becomes, as it lies in the packet.
    new_header_checksum: u16,
    /// What its transport checksum becomes.
    new_checksum: u16,
    /// What it becomes in SCTP.
    new_crc32c: Crc32c,
    /// What all changes add to the checksum of the error.
    change: ChecksumDelta,
}

impl Quoted {
    /// Offset of its IP header.
    #[inline(always)]
    fn network(&self) -> usize {
        (self.network & 0x3fff) as usize
    }

    /// Offset of its transport header.
    #[inline(always)]
    fn transport(&self) -> usize {
        (self.transport & 0x3fff) as usize
    }

    /// Offset of its transport checksum, if the quotation reaches that far; else 0.
    #[inline(always)]
    fn checksum(&self) -> usize {
        (self.checksum & 0x3fff) as usize
    }
}

/// An error from the world about a packet that a container sent. `None`: it is about nothing of weft's.
#[inline(always)]
pub fn enter(packet: &Packet, parsed: &mut Parsed) -> Outcome<Option<Verdict>> {
    let Some(quoted) = quoted(*packet, parsed)? else { return Ok(None) };
    let Some((inside, flow)) = flows::peek_outside(&quoted.tuple) else { return Ok(None) };
    if matches!(flow.kind, FlowKind::HAIRPIN | FlowKind::TURN_BACK) {
        return Err(DropReason::UnrelatedIcmp);
    }
    let endpoint = maps::endpoint(flow.network, &inside.local)
        .filter(|endpoint| endpoint.epoch == flow.epoch)
        .ok_or(DropReason::StaleFlow)?;
    if !flags::forwards(endpoint.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    rewrite(*packet, parsed, quoted, inside)?;
    redirect::to_container(packet, endpoint, endpoint.gateway_mac, Path::IcmpError).map(Some)
}

/// An error from a container about a packet that came to it through a flow of this epoch. `None`: about nothing that was
/// translated.
#[inline(always)]
pub fn leave(packet: &Packet, parsed: &mut Parsed, device: &Device, epoch: u32) -> Outcome<Option<Verdict>> {
    let Some(quoted) = quoted(*packet, parsed)? else { return Ok(None) };
    let Some(flow) = flows::peek_inside(&quoted.tuple).filter(|flow| flow.epoch == epoch) else {
        return Ok(None);
    };
    if flow.kind == FlowKind::HAIRPIN {
        let client = maps::endpoint(flow.remote_network, &flow.outside.remote)
            .filter(|client| client.epoch == flow.remote_epoch)
            .ok_or(DropReason::StaleFlow)?;
        rewrite(*packet, parsed, quoted, &flow.outside)?;
        return redirect::between_containers(packet, client, client.gateway_mac, Path::IcmpError).map(Some);
    }
    if flow.kind == FlowKind::TURN_BACK {
        let endpoint = sender(flow).ok_or(DropReason::StaleFlow)?;
        let claim = &maps::scratch().ok_or(DropReason::HelperFailed)?.claim;
        rewrite(*packet, parsed, quoted, claim)?;
        return redirect::between_containers(packet, endpoint, endpoint.gateway_mac, Path::IcmpError)
            .map(Some);
    }
    if !flags::forwards(device.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    rewrite(*packet, parsed, quoted, &flow.outside)?;
    redirect::to_uplink(flow.uplink, Path::IcmpError).map(Some)
}

/// The container that sent what came to this one from its external port (RFC 5508 REQ-7). `scratch.claim` becomes what an
/// error about that quotes: out and in again are one translation.
#[inline(never)]
fn sender<'a>(flow: &Flow) -> Option<&'a Endpoint> {
    let scratch = maps::scratch()?;
    scratch.claim = flow.outside.mirror();
    let (inside, other) = flows::peek_outside(&scratch.claim)?;
    let endpoint = maps::endpoint(other.network, &inside.local)?;
    if endpoint.epoch != other.epoch {
        return None;
    }
    scratch.claim = inside.mirror();
    Some(endpoint)
}

/// An error from the client of a hairpin flow about a packet that came from the host's port.
#[inline(always)]
pub fn turn_back(packet: &Packet, parsed: &mut Parsed, device: &Device) -> Outcome<Option<Verdict>> {
    let Some(quoted) = quoted(*packet, parsed)? else { return Ok(None) };
    let Some((inside, flow)) = flows::peek_outside(&quoted.tuple) else { return Ok(None) };
    if flow.kind != FlowKind::HAIRPIN || flow.remote_epoch != device.epoch {
        return Ok(None);
    }
    let endpoint = maps::endpoint(flow.network, &inside.local)
        .filter(|endpoint| endpoint.epoch == flow.epoch)
        .ok_or(DropReason::StaleFlow)?;
    rewrite(*packet, parsed, quoted, inside)?;
    redirect::between_containers(packet, endpoint, endpoint.gateway_mac, Path::IcmpError).map(Some)
}

/// Reads the quoted packet. `None`: cut short, a later fragment, or of a protocol that has no flows.
#[inline(always)]
fn quoted<'a>(packet: Packet, parsed: &Parsed) -> Outcome<Option<&'a mut Quoted>> {
    let quoted = &mut maps::scratch().ok_or(DropReason::HelperFailed)?.quoted;
    Ok(if read_quoted(packet, parsed, quoted)? { Some(quoted) } else { None })
}

/// Which end of the quoted packet is `local`: it went the other way than the error.
#[inline(always)]
fn quoted_side(parsed: &Parsed) -> Side {
    if parsed.local() == Side::Source { Side::Destination } else { Side::Source }
}

#[inline(never)]
fn read_quoted(packet: Packet, parsed: &Parsed, quoted: &mut Quoted) -> Outcome<bool> {
    let packet = &packet;
    let local = quoted_side(parsed);
    let network = parsed.transport() + size_of::<Icmp>();
    let mut is_first = false;
    let (source, destination, protocol, transport) = if parsed.is_v6 {
        packet.linearise(network + Ipv6::LENGTH);
        let Ok(ip) = packet.read::<Ipv6>(network) else { return Ok(false) };
        // Extension headers inside an error are not looked through: who sends them gets no errors.
        (ip.source, ip.destination, ip.next_header, network + Ipv6::LENGTH)
    } else {
        packet.linearise(network + Ipv4::LENGTH);
        let Ok(ip) = packet.read::<Ipv4>(network) else { return Ok(false) };
        let header_length = ((ip.version_and_length & 0x0f) as usize) * 4;
        if header_length < Ipv4::LENGTH {
            return Ok(false);
        }
        let fragment = ip.fragment.get();
        if fragment & Ipv4::OFFSET_MASK != 0 {
            return Ok(false);
        }
        is_first = fragment & Ipv4::MORE_FRAGMENTS != 0;
        (
            Address::from_v4_network_order(ip.source.raw()),
            Address::from_v4_network_order(ip.destination.raw()),
            ip.protocol,
            network + header_length,
        )
    };
    let length = packet.length() as usize;
    // RFC 792 and RFC 4443 promise eight bytes behind the IP header.
    if transport + Udp::LENGTH > length {
        return Ok(false);
    }
    // As far as its checksum, where the quotation has that.
    packet.linearise(if transport + 18 <= length {
        transport + 18
    } else if transport + Sctp::LENGTH <= length {
        transport + Sctp::LENGTH
    } else {
        transport + Udp::LENGTH
    });
    (quoted.tuple.local, quoted.tuple.remote) = match local {
        Side::Source => (source, destination),
        Side::Destination => (destination, source),
    };
    quoted.tuple.remote_port = 0;
    quoted.tuple.protocol = protocol;
    quoted.tuple.reserved = [0; 3];
    quoted.network = network as u16;
    quoted.transport = transport as u16;
    quoted.checksum = 0;
    let transport = quoted.transport();
    match protocol {
        protocol::ICMP | protocol::ICMPV6 => {
            let header = packet.read::<Icmp>(transport)?;
            let Some(asker) = asker(header.kind, protocol == protocol::ICMPV6, local) else {
                return Ok(false);
            };
            quoted.tuple.local_port = header.identifier.get();
            quoted.tuple.remote_port = asker;
            quoted.checksum = transport as u16 + 2;
        }
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let ports = packet.read::<Ports>(transport)?;
            let (source, destination) = (ports.source.get(), ports.destination.get());
            (quoted.tuple.local_port, quoted.tuple.remote_port) = match local {
                Side::Source => (source, destination),
                Side::Destination => (destination, source),
            };
            if protocol == protocol::UDP {
                quoted.checksum = transport as u16 + 6;
            } else if protocol == protocol::TCP && transport + 18 <= length {
                quoted.checksum = transport as u16 + 16;
            } else if protocol == protocol::SCTP && transport + Sctp::LENGTH <= length && !is_first {
                quoted.checksum = transport as u16 + 8;
            }
        }
        _ => return Ok(false),
    }
    // An error goes to the source of what it quotes. One that does not may lead anywhere.
    Ok(match parsed.local() {
        Side::Destination => parsed.tuple.local == quoted.tuple.local,
        Side::Source => parsed.tuple.remote == quoted.tuple.remote,
    } && (!parsed.is_v6 || !quoted.tuple.local.is_v4() && !quoted.tuple.remote.is_v4()))
}

/// Rewrites the error and what it quotes, so that the quoted tuple becomes `to`. In three steps, each a function of its
/// own with its own stack: together they would need more than a program may have.
#[inline(always)]
fn rewrite(packet: Packet, parsed: &mut Parsed, quoted: &mut Quoted, to: &Tuple) -> Outcome<()> {
    if parsed.hop_limit <= 1 {
        // No error about an error (RFC 1122 section 3.2.2).
        return Err(DropReason::TimeToLive);
    }
    prepare(packet, parsed, quoted, to)?;
    translate::update(&packet, parsed.transport() + 2, quoted.change, 0)?;
    rewrite_quotation(packet, parsed, quoted, to)?;
    rewrite_error(packet, parsed, quoted, to)
}

/// Computes the checksums of the quoted packet, and what their and all other changes add to the error's own. (Answers no
/// more than a register holds: what is returned by way of the stack may leave a pointer to it behind in R0, which the
/// verifier refuses.)
#[inline(never)]
fn prepare(packet: Packet, parsed: &Parsed, quoted: &mut Quoted, to: &Tuple) -> Outcome<()> {
    let packet = &packet;
    let from = &quoted.tuple;
    let addresses = translate::addresses(from, to, parsed.is_v6);
    let ports = translate::ports(from, to);
    let mut delta = addresses.join(ports);
    if !parsed.is_v6 {
        let old = packet.read::<Ipv4>(quoted.network())?.checksum;
        quoted.new_header_checksum = addresses.apply(old.raw());
        delta = delta.replace_u16(old.raw(), quoted.new_header_checksum);
    }
    if quoted.checksum() != 0 && quoted.tuple.protocol == protocol::SCTP {
        prepare_sctp(*packet, parsed, quoted, to)?;
        let old = packet.read::<Crc32c>(quoted.checksum())?;
        delta = delta.replace_u32(old.raw(), quoted.new_crc32c.raw());
    } else if quoted.checksum() != 0 {
        let old = packet.read::<Be16>(quoted.checksum())?.raw();
        if old == 0 && quoted.tuple.protocol == protocol::UDP {
            // There is none.
            quoted.checksum = 0;
        } else {
            let covered = if quoted.tuple.protocol == protocol::ICMP { ports } else { ports.join(addresses) };
            quoted.new_checksum = covered.apply(old);
            delta = delta.replace_u16(old, quoted.new_checksum);
        }
    }
    quoted.change = delta;
    Ok(())
}

/// The checksum of a quoted SCTP packet. The quotation is cut, but its IP header tells the length, and more is not needed.
/// (netfilter sums up what there is, see sctp_manip_pkt.)
#[inline(never)]
fn prepare_sctp(packet: Packet, parsed: &Parsed, quoted: &mut Quoted, to: &Tuple) -> Outcome<()> {
    let length = translate::transport_length(&packet, parsed.is_v6, quoted.network(), quoted.transport())?;
    let header = packet.read::<Sctp>(quoted.transport())?;
    quoted.new_crc32c = header.checksum;
    if !header.checksum.is_absent() {
        let change = Crc32cDelta::ports(header.ports, translate::ports_of(to, quoted_side(parsed)));
        quoted.new_crc32c = header.checksum.apply(translate::crc32c_delta(change, length));
    }
    Ok(())
}

#[inline(never)]
fn rewrite_quotation(packet: Packet, parsed: &Parsed, quoted: &Quoted, to: &Tuple) -> Outcome<()> {
    let packet = &packet;
    let local = quoted_side(parsed);
    let (source, destination) = match local {
        Side::Source => (&to.local, &to.remote),
        Side::Destination => (&to.remote, &to.local),
    };
    if parsed.is_v6 {
        let ip = packet.write::<Ipv6>(quoted.network())?;
        (ip.source, ip.destination) = (*source, *destination);
    } else {
        let ip = packet.write::<Ipv4>(quoted.network())?;
        ip.source = Be32::from_raw(source.v4_network_order());
        ip.destination = Be32::from_raw(destination.v4_network_order());
        ip.checksum = Be16::from_raw(quoted.new_header_checksum);
    }
    if protocol::is_icmp(quoted.tuple.protocol) {
        packet.write::<Icmp>(quoted.transport())?.identifier = Be16::new(to.local_port);
    } else {
        *packet.write::<Ports>(quoted.transport())? = translate::ports_of(to, local);
    }
    if quoted.checksum() != 0 && quoted.tuple.protocol == protocol::SCTP {
        *packet.write::<Crc32c>(quoted.checksum())? = quoted.new_crc32c;
    } else if quoted.checksum() != 0 {
        *packet.write::<Be16>(quoted.checksum())? = Be16::from_raw(quoted.new_checksum);
    }
    Ok(())
}

/// The addresses of the error itself: those of the flow are translated, that of a router on the way is not.
#[inline(never)]
fn rewrite_error(packet: Packet, parsed: &mut Parsed, quoted: &Quoted, to: &Tuple) -> Outcome<()> {
    let from = &quoted.tuple;
    let (mut local, mut remote) = (parsed.tuple.local, parsed.tuple.remote);
    if local == from.local {
        local = to.local;
    }
    if remote == from.remote {
        remote = to.remote;
    }
    if parsed.is_v6 {
        let delta = translate::replace_v6(ChecksumDelta::new(), &parsed.tuple.local, &local);
        let delta = translate::replace_v6(delta, &parsed.tuple.remote, &remote);
        translate::update(&packet, parsed.transport() + 2, delta, PSEUDO_HEADER | IPV6)?;
    }
    match parsed.local() {
        Side::Source => translate::network(&packet, parsed, Side::Source, &local, &remote),
        Side::Destination => translate::network(&packet, parsed, Side::Destination, &remote, &local),
    }
}
