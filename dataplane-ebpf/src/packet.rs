//! The packet: the one place with bounds checks, and the parsed view that the jobs work on.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use dataplane_common::{
    abi::{Address, Counter, DropReason, Tuple},
    packet::{
        ETHERTYPE_IPV4, Ethernet, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, Icmp, Ipv4, Ports, Tcp, Udp, protocol,
    },
};

use crate::{helpers, verdict::Outcome};

/// A packet at a tc hook.
pub struct Packet {
    /// The program's context.
    pub skb: *mut __sk_buff,
}

impl Packet {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// A header at an offset from the start of the Ethernet header, if all of it is in the linear part.
    ///
    /// Helpers that change the packet make earlier pointers invalid (the verifier refuses their use).
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        // SAFETY: the context's fields are always readable.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        if data + offset + size_of::<T>() > end { None } else { Some((data + offset) as *mut T) }
    }

    /// Like [`Self::at`], for reading; a packet that is too short is malformed.
    #[inline(always)]
    pub fn read<T>(&self, offset: usize) -> Outcome<&T> {
        match self.at::<T>(offset) {
            // SAFETY: in bounds; the verifier allows unaligned access and so does the CPU.
            Some(header) => Ok(unsafe { &*header }),
            None => Err(DropReason::Malformed),
        }
    }

    /// Like [`Self::at`], for writing after the last check: failure is the kernel's.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the packet is the kernel's memory, not this struct's")]
    pub fn write<T>(&self, offset: usize) -> Outcome<&mut T> {
        match self.at::<T>(offset) {
            // SAFETY: as for `read`; the program is the only writer.
            Some(header) => Ok(unsafe { &mut *header }),
            None => Err(DropReason::HelperFailed),
        }
    }

    /// Sees to it that this many bytes are in the linear part. A shorter packet stays as it is and fails when read.
    /// Makes earlier pointers invalid.
    #[inline(always)]
    pub fn linearise(&self, bytes: usize) {
        // SAFETY: as for `at`.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        if data + bytes > end && self.length() as usize >= bytes {
            helpers::pull(self.skb, bytes as u32);
        }
    }

    /// Bytes, Ethernet header included.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        // SAFETY: as for `at`.
        unsafe { (*self.skb).len }
    }

    /// What it counts as: a GSO packet as the segments it stands for, and its bytes as they are.
    #[inline(always)]
    pub fn size(&self) -> Counter {
        // SAFETY: as for `at`.
        let (bytes, segments, segment) =
            unsafe { ((*self.skb).len, (*self.skb).gso_segs, (*self.skb).gso_size) };
        let packets = match (segments, segment) {
            (0, 0) => 1,
            // `bpf_skb_adjust_room` leaves the number unset, so what was encapsulated on this machine has none.
            (0, segment) => bytes / segment + 1,
            (segments, _) => segments,
        };
        Counter { packets: u64::from(packets), bytes: u64::from(bytes) }
    }

    /// Whether a NIC or the kernel will cut it into segments.
    #[inline(always)]
    pub fn is_gso(&self) -> bool {
        // SAFETY: as for `at`.
        unsafe { (*self.skb).gso_size != 0 }
    }

    /// Whether it carries a VLAN tag. The kernel keeps the tag beside the packet, where no header shows it.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: as for `at`.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// Whether its Ethernet destination is another host (`PACKET_OTHERHOST` of linux/if_packet.h).
    #[inline(always)]
    pub fn is_for_another_host(&self) -> bool {
        // SAFETY: as for `at`.
        unsafe { (*self.skb).pkt_type == 3 }
    }

    /// The device whose hook runs.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        // SAFETY: as for `at`.
        unsafe { (*self.skb).ifindex }
    }

    /// The device it came in by; 0 if this host made it.
    #[inline(always)]
    pub fn came_in_by(&self) -> u32 {
        // SAFETY: as for `at`.
        unsafe { (*self.skb).ingress_ifindex }
    }
}

/// Which end of the packet is `local` in the tuple that is made of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source, on the way from a container.
    Source,
    /// The destination, on the way in.
    Destination,
}

/// What the jobs need to know of an IPv4 packet.
pub struct Parsed {
    /// Addresses and ports. Ports are 0 where there are none.
    pub tuple: Tuple,
    /// Offset of the transport header from the start of the packet.
    pub transport: usize,
    /// TCP control bits, or 0.
    pub tcp_flags: u8,
    /// Time to live.
    pub time_to_live: u8,
    /// Has the tuple ports that translation may rely on? Not in later fragments, ICMP errors and other protocols.
    pub has_ports: bool,
    /// A fragment, the first or a later one.
    pub is_fragment: bool,
}

/// Parses the IPv4 header at `offset` (that is, behind an Ethernet header at `offset - 14`) and what follows.
#[inline(always)]
pub fn parse_ipv4(packet: &Packet, offset: usize, local: Side) -> Outcome<Parsed> {
    packet.linearise(offset + Ipv4::LENGTH);
    let ip = packet.read::<Ipv4>(offset)?;
    let header_length = ((ip.version_and_length & 0x0f) as usize) * 4;
    if ip.version_and_length >> 4 != 4 || header_length < Ipv4::LENGTH {
        return Err(DropReason::Malformed);
    }
    let total_length = ip.total_length.get() as usize;
    // A GSO packet beyond 64 KiB (BIG TCP) has total length 0. What is behind the end of any other is padding.
    let end =
        if total_length == 0 && packet.is_gso() { packet.length() as usize } else { offset + total_length };
    if end < offset + header_length || end > packet.length() as usize {
        return Err(DropReason::Malformed);
    }
    let protocol = ip.protocol;
    let (near, far) = match local {
        Side::Source => (ip.source.raw(), ip.destination.raw()),
        Side::Destination => (ip.destination.raw(), ip.source.raw()),
    };
    let fragment = ip.fragment.get();
    let mut parsed = Parsed {
        tuple: Tuple {
            local: Address::from_v4_network_order(near),
            remote: Address::from_v4_network_order(far),
            local_port: 0,
            remote_port: 0,
            protocol,
            reserved: [0; 3],
        },
        transport: offset + header_length,
        tcp_flags: 0,
        time_to_live: ip.time_to_live,
        has_ports: false,
        is_fragment: fragment & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) != 0,
    };
    if fragment & Ipv4::OFFSET_MASK != 0 {
        return Ok(parsed);
    }
    let needed = match protocol {
        protocol::TCP => parsed.transport + size_of::<Tcp>(),
        protocol::UDP | protocol::ICMP => parsed.transport + Udp::LENGTH,
        _ => return Ok(parsed),
    };
    // A first fragment that does not hold the transport header is malformed, too (RFC 1858 section 3.2).
    if needed > end {
        return Err(DropReason::Malformed);
    }
    packet.linearise(needed);
    match protocol {
        protocol::TCP | protocol::UDP => {
            let ports = if protocol == protocol::TCP {
                let tcp = packet.read::<Tcp>(parsed.transport)?;
                parsed.tcp_flags = tcp.flags;
                &tcp.ports
            } else {
                packet.read::<[Ports; 2]>(parsed.transport)?.first().ok_or(DropReason::Malformed)?
            };
            let (source, destination) = (ports.source.get(), ports.destination.get());
            (parsed.tuple.local_port, parsed.tuple.remote_port) = match local {
                Side::Source => (source, destination),
                Side::Destination => (destination, source),
            };
            parsed.has_ports = true;
        }
        protocol::ICMP => {
            let icmp = packet.read::<Icmp>(parsed.transport)?;
            // A query goes out as a request and comes back as a reply; anything else is no part of a flow.
            let expected = match local {
                Side::Source => ICMP_ECHO_REQUEST,
                Side::Destination => ICMP_ECHO_REPLY,
            };
            if icmp.kind == expected {
                parsed.tuple.local_port = icmp.identifier.get();
                parsed.has_ports = true;
            }
        }
        _ => {}
    }
    Ok(parsed)
}

/// Whether the frame carries IPv4.
#[inline(always)]
pub fn is_ipv4(ethernet: &Ethernet) -> bool {
    ethernet.ether_type.get() == ETHERTYPE_IPV4
}
