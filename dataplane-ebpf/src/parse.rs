//! The parsed view of a packet that the jobs work on.

use dataplane_common::{
    abi::{Address, DropReason, Tuple},
    packet::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Icmp, Ipv4, Ipv6, Ipv6Extension, Ports, Sctp, Tcp, Udp,
        icmp, icmpv6, protocol,
    },
};

use crate::{maps, packet::Headers, verdict::Outcome};

/// Where the IP header begins: every device that weft serves speaks Ethernet.
pub const NETWORK: usize = Ethernet::LENGTH;

/// IPv6 extension headers that are looked through. More than a sender has reason to use are an attack on those who
/// parse them (RFC 7045 section 2.1, RFC 8883).
const MOST_EXTENSIONS: u32 = 4;
/// In place of an echo's remote port: the local end asks. The identifier is the local port.
const LOCAL_QUERY: u16 = 0;
/// The remote end asks: two queries with one identifier have nothing to do with one another.
const REMOTE_QUERY: u16 = 1;

/// Which end of the packet is `local` in the tuple that is made of it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The source, on the way from a container.
    Source,
    /// The destination, on the way in.
    Destination,
}

/// Which part of a datagram the packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first of several, with the transport header.
    First,
    /// A later one.
    Later,
}

/// What the jobs need to know of a packet.
///
/// It lies in a map, not on the stack: the verifier knows nothing of what is in a map, so that the ways a packet may have
/// come through the parser (two families, four extension headers, three kinds of fragment) are one way behind it. With
/// values it remembers each of them would be followed to the end of the program.
#[repr(C)]
pub struct Parsed {
    /// Addresses and ports. Ports are 0 where there are none.
    pub tuple: Tuple,
    /// Identification of the datagram that a fragment belongs to.
    pub identification: u32,
    /// The one that it gets where its source is translated.
    pub new_identification: u32,
    transport: u16,
    /// EtherType.
    pub ether_type: u16,
    // Four octets in one word, which is cleared by one store.
    /// TCP control bits, or 0.
    pub tcp_flags: u8,
    fragment: u8,
    /// Has the tuple ports that translation may rely on? Not in ICMP errors, other protocols, and a later fragment
    /// whose datagram is not known.
    pub has_ports: bool,
    /// An ICMP message that quotes a packet.
    pub is_icmp_error: bool,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    local: u8,
    /// IPv6.
    pub is_v6: bool,
}

impl Parsed {
    /// Offset of the transport header from the start of the packet. The mask is a bound that the verifier can see.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        (self.transport & 0x3fff) as usize
    }

    /// Which end of the packet is `tuple.local`.
    #[inline(always)]
    pub fn local(&self) -> Side {
        if self.local == Side::Source as u8 { Side::Source } else { Side::Destination }
    }

    /// Which part of a datagram it is.
    #[inline(always)]
    pub fn fragment(&self) -> Fragment {
        match self.fragment {
            0 => Fragment::Whole,
            1 => Fragment::First,
            _ => Fragment::Later,
        }
    }

    /// Whether it is an echo request of the remote end, or the answer to one.
    #[inline(always)]
    pub fn is_remote_query(&self) -> bool {
        protocol::is_icmp(self.tuple.protocol) && self.tuple.remote_port == REMOTE_QUERY
    }

    /// Looks at the same packet from its other end.
    #[inline(always)]
    pub fn turn(&mut self) {
        core::mem::swap(&mut self.tuple.local, &mut self.tuple.remote);
        if !protocol::is_icmp(self.tuple.protocol) {
            core::mem::swap(&mut self.tuple.local_port, &mut self.tuple.remote_port);
        } else if self.has_ports {
            self.tuple.remote_port ^= REMOTE_QUERY;
        }
        self.local ^= Side::Source as u8 ^ Side::Destination as u8;
    }

    #[inline(always)]
    fn begin(&mut self, ether_type: u16, local: Side) {
        self.ether_type = ether_type;
        self.local = local as u8;
        self.is_v6 = ether_type == ETHERTYPE_IPV6;
        self.tuple.local_port = 0;
        self.tuple.remote_port = 0;
        self.tuple.reserved = [0; 3];
        self.tcp_flags = 0;
        self.fragment = Fragment::Whole as u8;
        self.has_ports = false;
        self.is_icmp_error = false;
    }
}

/// What stands in place of the remote port of an echo: who asks. `None`: the message is no echo. A query of the local end
/// goes out as a request and comes back as a reply.
#[inline(always)]
pub fn asker(kind: u8, is_v6: bool, local: Side) -> Option<u16> {
    let (request, reply) = if is_v6 {
        (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY)
    } else {
        (icmp::ECHO_REQUEST, icmp::ECHO_REPLY)
    };
    let (of_local, of_remote) = if local == Side::Source { (request, reply) } else { (reply, request) };
    match kind {
        kind if kind == of_local => Some(LOCAL_QUERY),
        kind if kind == of_remote => Some(REMOTE_QUERY),
        _ => None,
    }
}

/// Parses an IPv4 header behind an Ethernet header, and what follows.
#[inline(always)]
pub fn parse_ipv4<'a>(packet: &impl Headers, local: Side) -> Outcome<&'a mut Parsed> {
    let parsed = &mut maps::scratch().ok_or(DropReason::HelperFailed)?.parsed;
    parsed.begin(ETHERTYPE_IPV4, local);
    packet.linearise(NETWORK + Ipv4::LENGTH);
    let ip = packet.read::<Ipv4>(NETWORK)?;
    let header_length = ((ip.version_and_length & 0x0f) as usize) * 4;
    if ip.version_and_length >> 4 != 4 || header_length < Ipv4::LENGTH {
        return Err(DropReason::Malformed);
    }
    let total_length = ip.total_length.get() as usize;
    // A GSO packet beyond 64 KiB (BIG TCP) has total length 0. What is behind the end of any other is padding.
    let end =
        if total_length == 0 && packet.is_gso() { packet.length() as usize } else { NETWORK + total_length };
    if end < NETWORK + header_length || end > packet.length() as usize {
        return Err(DropReason::Malformed);
    }
    let (near, far) = match local {
        Side::Source => (ip.source.raw(), ip.destination.raw()),
        Side::Destination => (ip.destination.raw(), ip.source.raw()),
    };
    parsed.tuple.local = Address::from_v4_network_order(near);
    parsed.tuple.remote = Address::from_v4_network_order(far);
    parsed.tuple.protocol = ip.protocol;
    parsed.transport = (NETWORK + header_length) as u16;
    parsed.hop_limit = ip.time_to_live;
    let fragment = ip.fragment.get();
    if fragment & (Ipv4::OFFSET_MASK | Ipv4::MORE_FRAGMENTS) != 0 {
        parsed.identification = ip.identification.get() as u32;
        parsed.new_identification = parsed.identification;
        let is_later = fragment & Ipv4::OFFSET_MASK != 0;
        parsed.fragment = if is_later { Fragment::Later } else { Fragment::First } as u8;
        if fragment & Ipv4::OFFSET_MASK == 1 && ip.protocol == protocol::TCP {
            // It would overwrite the TCP header's flags (RFC 1858 section 4.2).
            return Err(DropReason::Fragment);
        }
    }
    transport(packet, parsed, end)?;
    Ok(parsed)
}

/// Parses an IPv6 header, its extension headers, and what follows.
#[inline(always)]
pub fn parse_ipv6<'a>(packet: &impl Headers, local: Side) -> Outcome<&'a mut Parsed> {
    let parsed = &mut maps::scratch().ok_or(DropReason::HelperFailed)?.parsed;
    parsed.begin(ETHERTYPE_IPV6, local);
    packet.linearise(NETWORK + Ipv6::LENGTH);
    let ip = packet.read::<Ipv6>(NETWORK)?;
    if ip.version_class_flow.get() >> 28 != 6 {
        return Err(DropReason::Malformed);
    }
    let payload_length = ip.payload_length.get() as usize;
    let end = if payload_length == 0 && packet.is_gso() {
        packet.length() as usize
    } else {
        NETWORK + Ipv6::LENGTH + payload_length
    };
    if end > packet.length() as usize {
        return Err(DropReason::Malformed);
    }
    (parsed.tuple.local, parsed.tuple.remote) = match local {
        Side::Source => (ip.source, ip.destination),
        Side::Destination => (ip.destination, ip.source),
    };
    if parsed.tuple.local.is_v4() || parsed.tuple.remote.is_v4() {
        // Mapped addresses stand for IPv4 in weft's maps, and never belong on a wire (draft-itojun-v6ops-v4mapped-harmful).
        return Err(DropReason::Malformed);
    }
    parsed.tuple.protocol = ip.next_header;
    parsed.transport = (NETWORK + Ipv6::LENGTH) as u16;
    parsed.hop_limit = ip.hop_limit;
    extensions(packet, parsed)?;
    if parsed.transport() > end {
        // An extension header in what is padding.
        return Err(DropReason::Malformed);
    }
    transport(packet, parsed, end)?;
    Ok(parsed)
}

/// Steps over IPv6 extension headers to the transport header.
#[inline(always)]
fn extensions(packet: &impl Headers, parsed: &mut Parsed) -> Outcome<()> {
    let mut count = 0;
    while matches!(
        parsed.tuple.protocol,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    ) {
        if count == MOST_EXTENSIONS {
            return Err(DropReason::UnsupportedProtocol);
        }
        count += 1;
        let at = parsed.transport();
        packet.linearise(at + size_of::<Ipv6Extension>());
        let header = packet.read::<Ipv6Extension>(at)?;
        let mut units = header.length as u16;
        if parsed.tuple.protocol == protocol::FRAGMENT {
            if parsed.fragment != Fragment::Whole as u8 {
                return Err(DropReason::Malformed);
            }
            units = 0;
            let fragment = header.fragment.get();
            parsed.identification = header.identification.get();
            if fragment & 0xfff8 != 0 {
                parsed.fragment = Fragment::Later as u8;
            } else if fragment & 1 != 0 {
                parsed.fragment = Fragment::First as u8;
            }
        }
        parsed.tuple.protocol = header.next_header;
        parsed.transport = at as u16 + 8 + 8 * units;
        if parsed.fragment == Fragment::Later as u8 {
            break;
        }
    }
    Ok(())
}

/// Reads ports, or what stands in their place.
#[inline(always)]
fn transport(packet: &impl Headers, parsed: &mut Parsed, end: usize) -> Outcome<()> {
    if parsed.fragment == Fragment::Later as u8 {
        return Ok(());
    }
    let at = parsed.transport();
    let needed = match parsed.tuple.protocol {
        protocol::TCP => at + size_of::<Tcp>(),
        protocol::UDP => at + Udp::LENGTH,
        protocol::ICMP if !parsed.is_v6 => at + size_of::<Icmp>(),
        protocol::ICMPV6 if parsed.is_v6 => at + size_of::<Icmp>(),
        protocol::SCTP => at + Sctp::LENGTH,
        _ => return Ok(()),
    };
    // A first fragment that does not hold the transport header is malformed, too (RFC 1858 section 3.2, RFC 7112).
    if needed > end {
        return Err(DropReason::Malformed);
    }
    packet.linearise(needed);
    match parsed.tuple.protocol {
        protocol::ICMP | protocol::ICMPV6 => {
            let message = packet.read::<Icmp>(at)?;
            let (kind, identifier) = (message.kind, message.identifier.get());
            parsed.is_icmp_error = if parsed.is_v6 { icmpv6::is_error(kind) } else { icmp::is_error(kind) };
            if let Some(asker) = asker(kind, parsed.is_v6, parsed.local()) {
                parsed.tuple.local_port = identifier;
                parsed.tuple.remote_port = asker;
                parsed.has_ports = true;
            }
        }
        number => {
            if number == protocol::TCP {
                parsed.tcp_flags = packet.read::<Tcp>(at)?.flags;
            }
            let ports = packet.read::<Ports>(at)?;
            let (source, destination) = (ports.source.get(), ports.destination.get());
            (parsed.tuple.local_port, parsed.tuple.remote_port) = if parsed.local == Side::Source as u8 {
                (source, destination)
            } else {
                (destination, source)
            };
            parsed.has_ports = true;
        }
    }
    Ok(())
}
