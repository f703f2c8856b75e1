//! Header layouts as they lie in a packet, and checksum arithmetic.

mod checksum;
mod crc32c;
mod headers;

pub use checksum::ChecksumDelta;
pub use crc32c::{Crc32c, Crc32cDelta};
pub use headers::{
    Arp, Be16, Be32, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN,
    Ethernet, Icmp, Ipv4, Ipv6, Ipv6Extension, NeighbourOption, Ports, Sctp, Tcp, Udp, VXLAN_OVERHEAD,
    VXLAN_OVERHEAD_V6, Vxlan, icmp, icmpv6, protocol, tcp_flags,
};
