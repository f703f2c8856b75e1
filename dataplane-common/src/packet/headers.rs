//! Headers. Multi-byte fields are [`Be16`] and [`Be32`]: network order is a type here, not a habit.
//!
//! The structs have natural alignment although an IP header behind an Ethernet header is not aligned to four bytes:
//! BPF on x86-64 loads unaligned words, and byte-wise access would cost four times the instructions.

use super::Crc32c;
use crate::abi::{Address, MacAddress};

/// A 16-bit integer in network order.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Be16(u16);

impl Be16 {
    /// From host order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }
    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
    /// As it lies in the packet, for checksums.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// From what lies in a packet.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

/// A 32-bit integer in network order.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Be32(u32);

impl Be32 {
    /// From host order.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be())
    }
    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
    /// As it lies in the packet.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }
    /// From what lies in a packet.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;

    /// Whether it is the ICMP of some family.
    #[inline(always)]
    pub const fn is_icmp(protocol: u8) -> bool {
        matches!(protocol, ICMP | ICMPV6)
    }
}

/// Bits of [`Tcp::flags`] (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledgement.
    pub const ACK: u8 = 16;
}

/// ICMP types and codes (RFC 792, RFC 1812 section 5.2.7.1).
pub mod icmp {
    /// Type of an echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`]: fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of [`UNREACHABLE`]: communication administratively prohibited.
    pub const PROHIBITED: u8 = 13;
    /// Type of an echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Type: time exceeded; code 0 in transit.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;

    /// Whether a message of this type quotes the packet that it is about.
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// ICMPv6 types and codes (RFC 4443, RFC 4861).
pub mod icmpv6 {
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Code of [`UNREACHABLE`]: communication administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Type: packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Type: time exceeded; code 0 in transit.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Type of an echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Type of an echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Type of a router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Type of a router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Type of a neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Type of a neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Type of a redirect.
    pub const REDIRECT: u8 = 137;

    /// Whether a message of this type quotes the packet that it is about.
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// By how much an overlay's MTU is less than that of its uplink, in bytes (RFC 7348 section 4.3): outer IPv4, UDP and VXLAN
/// headers and the inner Ethernet header. No MTU counts the outer Ethernet header.
pub const VXLAN_OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// The same over IPv6.
pub const VXLAN_OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;

/// Ethernet II header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ethernet {
    /// Destination.
    pub destination: MacAddress,
    /// Source.
    pub source: MacAddress,
    /// EtherType.
    pub ether_type: Be16,
}

impl Ethernet {
    /// Length in bytes.
    pub const LENGTH: usize = 14;
}

/// IPv4 header without options (RFC 791).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ipv4 {
    /// Version (high nibble) and header length in 32-bit words.
    pub version_and_length: u8,
    /// DSCP and ECN.
    pub type_of_service: u8,
    /// Length of header and payload in bytes.
    pub total_length: Be16,
    /// Fragment identification.
    pub identification: Be16,
    /// Flags (3 bits) and fragment offset in units of 8 bytes.
    pub fragment: Be16,
    /// Time to live.
    pub time_to_live: u8,
    /// Payload protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: Be16,
    /// Source address.
    pub source: Be32,
    /// Destination address.
    pub destination: Be32,
}

impl Ipv4 {
    /// Length in bytes without options.
    pub const LENGTH: usize = 20;
    /// Do not fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// More fragments follow.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// Bits of the offset.
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// IPv6 header (RFC 8200 section 3).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: Be32,
    /// Bytes behind this header.
    pub payload_length: Be16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
}

impl Ipv6 {
    /// Length in bytes.
    pub const LENGTH: usize = 40;

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }
}

/// The beginning of an IPv6 extension header; of a fragment header all of it (RFC 8200 section 4.5).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ipv6Extension {
    /// Type of the next header.
    pub next_header: u8,
    /// Length in 8-byte units behind the first; reserved in a fragment header.
    pub length: u8,
    /// Fragment header: offset in 8-byte units (13 bits), two reserved bits, "more fragments".
    pub fragment: Be16,
    /// Fragment header: identification.
    pub identification: Be32,
}

/// The first four bytes of TCP, UDP and SCTP.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
}

/// TCP header without options (RFC 9293).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Tcp {
    /// Ports.
    pub ports: Ports,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgement number.
    pub acknowledgement: Be32,
    /// Header length (high nibble, in 32-bit words).
    pub data_offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Receive window.
    pub window: Be16,
    /// Checksum.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// UDP header (RFC 768).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Udp {
    /// Ports.
    pub ports: Ports,
    /// Length of header and payload.
    pub length: Be16,
    /// Checksum; zero means none over IPv4.
    pub checksum: Be16,
}

impl Udp {
    /// Length in bytes.
    pub const LENGTH: usize = 8;
}

/// SCTP common header (RFC 9260 section 3.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sctp {
    /// Ports.
    pub ports: Ports,
    /// What shows that the packet is of this association.
    pub verification_tag: Be32,
    /// Checksum over header and chunks, but no IP addresses.
    pub checksum: Crc32c,
}

impl Sctp {
    /// Length in bytes.
    pub const LENGTH: usize = 12;
}

/// ICMP query header (RFC 792).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Icmp {
    /// Message type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum over the whole message.
    pub checksum: Be16,
    /// Identifier of a query.
    pub identifier: Be16,
    /// Sequence number of a query.
    pub sequence: Be16,
}

/// VXLAN header (RFC 7348 section 5).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Vxlan {
    /// Flags and reserved bits.
    pub flags: Be32,
    /// VXLAN network identifier in the upper 24 bits.
    pub vni: Be32,
}

impl Vxlan {
    /// Length in bytes.
    pub const LENGTH: usize = 8;
    /// The VNI is valid.
    pub const VNI_VALID: u32 = 0x0800_0000;
}

/// ARP for Ethernet and IPv4 (RFC 826).
#[repr(C, packed(2))]
#[derive(Debug, Clone, Copy)]
pub struct Arp {
    /// Hardware type, 1 for Ethernet.
    pub hardware_type: Be16,
    /// Protocol type, an EtherType.
    pub protocol_type: Be16,
    /// Length of hardware addresses.
    pub hardware_length: u8,
    /// Length of protocol addresses.
    pub protocol_length: u8,
    /// 1 request, 2 reply.
    pub operation: Be16,
    /// Sender's hardware address.
    pub sender_mac: MacAddress,
    /// Sender's protocol address.
    pub sender_address: Be32,
    /// Target's hardware address.
    pub target_mac: MacAddress,
    /// Target's protocol address.
    pub target_address: Be32,
}

impl Arp {
    /// [`Self::operation`] of a request (RFC 826).
    pub const REQUEST: u16 = 1;
}

/// An option of neighbour discovery with a link-layer address (RFC 4861 section 4.6.1); others are longer or shorter.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NeighbourOption {
    /// Type.
    pub kind: u8,
    /// Length in units of eight bytes.
    pub length: u8,
    /// Link-layer address, in an option of the two kinds below.
    pub mac: MacAddress,
}

impl NeighbourOption {
    /// Type: link-layer address of the sender.
    pub const SOURCE: u8 = 1;
    /// Type: link-layer address of the target.
    pub const TARGET: u8 = 2;
}

const _: () = assert!(size_of::<NeighbourOption>() == 8);
const _: () = assert!(size_of::<Ethernet>() == Ethernet::LENGTH);
const _: () = assert!(size_of::<Ipv4>() == Ipv4::LENGTH);
const _: () = assert!(size_of::<Ipv6>() == Ipv6::LENGTH);
const _: () = assert!(size_of::<Ipv6Extension>() == 8);
const _: () = assert!(size_of::<Tcp>() == 20);
const _: () = assert!(size_of::<Udp>() == Udp::LENGTH);
const _: () = assert!(size_of::<Sctp>() == Sctp::LENGTH);
const _: () = assert!(size_of::<Icmp>() == 8);
const _: () = assert!(size_of::<Vxlan>() == Vxlan::LENGTH);
const _: () = assert!(size_of::<Arp>() == 28);

#[cfg(test)]
mod tests {
    use super::*;

    /// The octets of a header, and the integer that they stand for.
    #[test]
    fn network_order_is_kept() {
        let (short, word) = (Be16::new(0x0800), Be32::new(0x0102_0304));
        assert_eq!((short.get(), short.raw().to_ne_bytes()), (0x0800, [8, 0]));
        assert_eq!((word.get(), word.raw().to_ne_bytes()), (0x0102_0304, [1, 2, 3, 4]));
        assert_eq!((Be16::from_raw(short.raw()), Be32::from_raw(word.raw())), (short, word));
    }

    #[test]
    fn errors_quote_a_packet() {
        let errors = |is_error: fn(u8) -> bool| (0..=255).filter(|kind| is_error(*kind)).collect::<Vec<_>>();
        // Source quench and redirect are none that is translated (RFC 6633, RFC 1812 section 5.2.7.2).
        assert_eq!(errors(icmp::is_error), [3, 11, 12]);
        assert_eq!(errors(icmpv6::is_error), [1, 2, 3, 4]);
    }

    #[test]
    fn an_overlay_takes_as_much_as_its_headers() {
        let inside = (Udp::LENGTH + Vxlan::LENGTH + Ethernet::LENGTH) as u32;
        assert_eq!(VXLAN_OVERHEAD, Ipv4::LENGTH as u32 + inside);
        assert_eq!(VXLAN_OVERHEAD_V6, Ipv6::LENGTH as u32 + inside);
    }

    #[test]
    fn the_traffic_class_is_between_version_and_label() {
        let header = Ipv6 {
            version_class_flow: Be32::new(6 << 28 | 0xa5 << 20 | 0xf_ffff),
            payload_length: Be16::new(0),
            next_header: protocol::UDP,
            hop_limit: 1,
            source: Address::UNSPECIFIED,
            destination: Address::UNSPECIFIED,
        };
        assert_eq!(header.traffic_class(), 0xa5);
    }
}
