//! Telling the sender: some drops are answered by an ICMP error, as a router would (RFC 1812 section 4.3, RFC 5508
//! REQ-8). The packet itself becomes the answer.

use dataplane_common::{
    abi::{Address, Device, DeviceRole, DropReason, MacAddress, Tuple},
    packet::{Be16, Be32, ChecksumDelta, Ethernet, Icmp, Ipv4, Ipv6, icmp, icmpv6, protocol},
};

use crate::{
    helpers, maps,
    packet::{Headers, Packet},
    parse::{Fragment, NETWORK, Parsed, Side},
    verdict::Verdict,
};

/// ICMP errors that leave by one device in a second, and at once: half of what Linux allows itself (`icmp_msgs_per_sec`,
/// `icmp_msgs_burst`). Each device has its own, so that no container uses up what another's path MTU discovery needs.
const ERRORS_PER_SECOND: u64 = 500;
const BURST: u64 = 50;
const INTERVAL_NS: u64 = 1_000_000_000 / ERRORS_PER_SECOND;

/// Type, code and the last 16 bits of the second word of an error.
struct Message {
    kind: u8,
    code: u8,
    mtu: u16,
}

/// Answers a packet that is dropped for this reason, if it is one that senders are told of. The packet is as it came.
#[inline(always)]
pub fn refuse(packet: &Packet, reason: DropReason) -> Verdict {
    let told = matches!(
        reason,
        DropReason::TimeToLive | DropReason::TooBig | DropReason::PortsExhausted | DropReason::FlowTableFull
    );
    if told && answer(*packet, reason) {
        Verdict::Refuse(reason, helpers::redirect(packet.device(), 0))
    } else {
        Verdict::Drop(reason)
    }
}

/// Makes the answer of the packet. False: the packet is not worth one.
#[inline(never)]
fn answer(packet: Packet, reason: DropReason) -> bool {
    let packet = &packet;
    let (Some(scratch), Some(device)) = (maps::scratch(), maps::device(packet.device())) else {
        return false;
    };
    let parsed = &scratch.parsed;
    let source = router(parsed, device);
    if source.is_any() {
        // An uplink of a routed network needs no address of its own.
        return false;
    }
    let Some(message) = message(reason, parsed.is_v6, scratch.mtu) else { return false };
    if parsed.fragment() == Fragment::Later || parsed.is_icmp_error || !may_send(packet.device()) {
        return false;
    }
    let sender = if parsed.local() == Side::Source { &parsed.tuple.local } else { &parsed.tuple.remote };
    let made = if parsed.is_v6 {
        answer_v6(packet, parsed, &message, source, sender)
    } else {
        answer_v4(packet, parsed, &message, source, sender)
    };
    made.is_some()
}

/// The address of this host that the sender knows: a container its gateway, others the one that they have sent to, or the
/// uplink's where that is a container's own.
#[inline(always)]
fn router<'a>(parsed: &'a Parsed, device: &'a Device) -> &'a Address {
    if device.role != DeviceRole::UPLINK {
        return device.gateway_of(parsed.is_v6);
    }
    let sent_to = &parsed.tuple.local;
    if maps::is_host_address(sent_to) { sent_to } else { device.address_of(parsed.is_v6) }
}

#[inline(always)]
fn message(reason: DropReason, is_v6: bool, mtu: u16) -> Option<Message> {
    Some(match (reason, is_v6) {
        (DropReason::TimeToLive, false) => Message { kind: icmp::TIME_EXCEEDED, code: 0, mtu: 0 },
        (DropReason::TimeToLive, true) => Message { kind: icmpv6::TIME_EXCEEDED, code: 0, mtu: 0 },
        (DropReason::TooBig, false) => {
            Message { kind: icmp::UNREACHABLE, code: icmp::FRAGMENTATION_NEEDED, mtu }
        }
        (DropReason::TooBig, true) => Message { kind: icmpv6::PACKET_TOO_BIG, code: 0, mtu },
        (DropReason::PortsExhausted | DropReason::FlowTableFull, false) => {
            Message { kind: icmp::UNREACHABLE, code: icmp::PROHIBITED, mtu: 0 }
        }
        (DropReason::PortsExhausted | DropReason::FlowTableFull, true) => {
            Message { kind: icmpv6::UNREACHABLE, code: icmpv6::PROHIBITED, mtu: 0 }
        }
        _ => return None,
    })
}

/// Takes one token of the device's bucket.
#[inline(always)]
fn may_send(ifindex: u32) -> bool {
    let Some(budget) = maps::icmp_budget(ifindex) else { return false };
    let now = helpers::now_ns();
    let earned = now.wrapping_sub(budget.filled_ns) / INTERVAL_NS;
    if earned > 0 {
        budget.tokens = if earned > BURST { BURST } else { budget.tokens + earned };
        if budget.tokens > BURST {
            budget.tokens = BURST;
        }
        budget.filled_ns = now;
    }
    if budget.tokens == 0 {
        return false;
    }
    budget.tokens -= 1;
    true
}

/// IP header, and enough behind it for ports and checksum: 8 bytes are promised, a partial TCP checksum needs 18.
const QUOTE_SHORT: usize = Ipv4::LENGTH + 8;
const QUOTE_LONG: usize = Ipv4::LENGTH + 20;
const QUOTE_SHORT_V6: usize = Ipv6::LENGTH + 8;
const QUOTE_LONG_V6: usize = Ipv6::LENGTH + 20;

#[inline(always)]
fn answer_v4(
    packet: &Packet,
    parsed: &Parsed,
    message: &Message,
    source: &Address,
    sender: &Address,
) -> Option<()> {
    // With options the quotation would have another length; hosts do not send them.
    if parsed.transport() != NETWORK + Ipv4::LENGTH {
        return None;
    }
    let long = packet.length() as usize >= NETWORK + QUOTE_LONG;
    let quote = if long { QUOTE_LONG } else { QUOTE_SHORT };
    let added = Ipv4::LENGTH + size_of::<Icmp>();
    let (near, far) = swap_ethernet(packet)?;
    if !helpers::set_length(packet.skb, (NETWORK + quote) as u32)
        || !helpers::adjust_room(packet.skb, added as i32, 0)
    {
        return None;
    }
    packet.linearise(NETWORK + added + quote);
    let quoted = NETWORK + added;
    let mut sum = sum_of::<5>(packet, quoted)?;
    let length = packet.read::<Ipv4>(quoted).ok()?.total_length.get().wrapping_sub(Ipv4::LENGTH as u16);
    sum = sum.join(transport_sum(packet, quoted + Ipv4::LENGTH, long, &parsed.tuple, length)?);
    sum = sum.replace_u16(0, u16::from_ne_bytes([message.kind, message.code]));
    sum = sum.replace_u16(0, message.mtu.to_be());

    let ethernet = packet.write::<Ethernet>(0).ok()?;
    (ethernet.destination, ethernet.source) = (far, near);
    let header = packet.write::<Icmp>(NETWORK + Ipv4::LENGTH).ok()?;
    header.kind = message.kind;
    header.code = message.code;
    header.checksum = Be16::from_raw(sum.apply(0xffff));
    header.identifier = Be16::new(0);
    header.sequence = Be16::new(message.mtu);
    let ip = packet.write::<Ipv4>(NETWORK).ok()?;
    ip.version_and_length = 0x45;
    // RFC 1812 section 4.3.2.5: precedence 6, internetwork control.
    ip.type_of_service = 0xc0;
    ip.total_length = Be16::new((added + quote) as u16);
    ip.identification = Be16::new(0);
    ip.fragment = Be16::new(Ipv4::DONT_FRAGMENT);
    ip.time_to_live = 64;
    ip.protocol = protocol::ICMP;
    ip.source = Be32::from_raw(source.v4_network_order());
    ip.destination = Be32::from_raw(sender.v4_network_order());
    ip.checksum = Be16::new(0);
    let header = sum_of::<5>(packet, NETWORK)?;
    packet.write::<Ipv4>(NETWORK).ok()?.checksum = Be16::from_raw(header.apply(0xffff));
    Some(())
}

#[inline(always)]
fn answer_v6(
    packet: &Packet,
    parsed: &Parsed,
    message: &Message,
    source: &Address,
    sender: &Address,
) -> Option<()> {
    let long = packet.length() as usize >= NETWORK + QUOTE_LONG_V6;
    let quote = if long { QUOTE_LONG_V6 } else { QUOTE_SHORT_V6 };
    let added = Ipv6::LENGTH + size_of::<Icmp>();
    let (near, far) = swap_ethernet(packet)?;
    if !helpers::set_length(packet.skb, (NETWORK + quote) as u32)
        || !helpers::adjust_room(packet.skb, added as i32, 0)
    {
        return None;
    }
    packet.linearise(NETWORK + added + quote);
    let quoted = NETWORK + added;
    let quoted_length = packet.read::<Ipv6>(quoted).ok()?.payload_length.get();
    let length = (size_of::<Icmp>() + quote) as u16;
    let mut sum = sum_of::<10>(packet, quoted)?;
    sum = sum.join(transport_sum(packet, quoted + Ipv6::LENGTH, long, &parsed.tuple, quoted_length)?);
    sum = sum.replace_u16(0, u16::from_ne_bytes([message.kind, message.code]));
    sum = sum.replace_u16(0, message.mtu.to_be());
    sum = sum.join(pseudo_header(source, sender, protocol::ICMPV6, length));

    let ethernet = packet.write::<Ethernet>(0).ok()?;
    (ethernet.destination, ethernet.source) = (far, near);
    let header = packet.write::<Icmp>(NETWORK + Ipv6::LENGTH).ok()?;
    header.kind = message.kind;
    header.code = message.code;
    header.checksum = Be16::from_raw(sum.apply(0xffff));
    header.identifier = Be16::new(0);
    header.sequence = Be16::new(message.mtu);
    let ip = packet.write::<Ipv6>(NETWORK).ok()?;
    ip.version_class_flow = Be32::new(0x6000_0000);
    ip.payload_length = Be16::new(length);
    ip.next_header = protocol::ICMPV6;
    ip.hop_limit = 64;
    ip.source = *source;
    ip.destination = *sender;
    Some(())
}

/// Own and the sender's link-layer address, as the answer's source and destination.
#[inline(always)]
fn swap_ethernet(packet: &Packet) -> Option<(MacAddress, MacAddress)> {
    let ethernet = packet.read::<Ethernet>(0).ok()?;
    if ethernet.destination.octets[0] & 1 != 0 {
        // Broadcast and multicast are not answered (RFC 1122 section 3.2.2).
        return None;
    }
    Some((ethernet.destination, ethernet.source))
}

/// The one's complement sum of some 32-bit words.
#[inline(always)]
fn sum_of<const WORDS: usize>(packet: &Packet, at: usize) -> Option<ChecksumDelta> {
    let words = packet.read::<[u32; WORDS]>(at).ok()?;
    let mut sum = ChecksumDelta::new();
    let mut index = 0;
    while index < WORDS {
        sum = sum.replace_u32(0, words[index]);
        index += 1;
    }
    Some(sum)
}

/// The sum of the quoted transport header. If its checksum is still to be filled in by a network card, that of the
/// header as it will be then: the card makes the whole part sum up to the complement of what the field holds now
/// (Documentation/networking/checksum-offloads.rst of the kernel, LCO).
#[inline(always)]
fn transport_sum(
    packet: &Packet,
    at: usize,
    long: bool,
    tuple: &Tuple,
    length: u16,
) -> Option<ChecksumDelta> {
    let offset = match tuple.protocol {
        protocol::TCP if long => 16,
        protocol::UDP => 6,
        _ => 0,
    };
    if offset != 0 {
        let field = packet.read::<Be16>(at + offset).ok()?.raw();
        // A complete checksum looks like the sum of the pseudo-header alone once in 65,536 times.
        if !pseudo_header(&tuple.local, &tuple.remote, tuple.protocol, length).apply(0xffff) == field {
            return Some(ChecksumDelta::new().replace_u16(0, !field));
        }
    }
    if long { sum_of::<5>(packet, at) } else { sum_of::<2>(packet, at) }
}

/// The sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1). The prefix of a mapped IPv4 address adds
/// 0xffff, which is nothing.
#[inline(always)]
fn pseudo_header(source: &Address, destination: &Address, protocol: u8, length: u16) -> ChecksumDelta {
    let ([a, b, c, d], [e, f, g, h]) = (source.words(), destination.words());
    ChecksumDelta::new()
        .replace_u32(0, a)
        .replace_u32(0, b)
        .replace_u32(0, c)
        .replace_u32(0, d)
        .replace_u32(0, e)
        .replace_u32(0, f)
        .replace_u32(0, g)
        .replace_u32(0, h)
        .replace_u16(0, length.to_be())
        .replace_u16(0, u16::from(protocol).to_be())
}
