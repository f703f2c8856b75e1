//! Header layouts as they lie in a packet, and checksum arithmetic.

mod checksum;
mod headers;

pub use checksum::ChecksumDelta;
pub use headers::{
    Arp, Be16, Be32, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST, Icmp, Ipv4, Ports, Tcp, Udp, VXLAN_OVERHEAD, Vxlan, protocol, tcp_flags,
};
