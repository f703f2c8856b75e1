//! Published ports, and the host's own sockets that use them.

use super::{Address, pod};
use crate::packet::protocol;

pod! {
    /// Key of map `published`, a longest prefix match over protocol, host address and port.
    ///
    /// The port is the last part and in *network* order, because the kernel matches prefixes byte by byte. A range of
    /// any size is at most 2 x 16 prefixes. Publications on every host address of a family have
    /// [`Address::V4_UNSPECIFIED`] or [`Address::UNSPECIFIED`]; the container's address is of the same family.
    pub struct PublicationKey [20] {
        /// IANA protocol number in the first byte, then zero.
        pub protocol: [u8; 2],
        /// Host address, as octets because the key has no alignment.
        pub address: [u8; 16],
        /// Host port in network order.
        pub port: [u8; 2],
    }

    /// Value of map `published`: where the port leads.
    pub struct Publication [28] {
        /// Container's address, words in network order.
        pub address: Address,
        /// Container's network.
        pub network: u32,
        /// First host port of the whole range.
        pub first_host_port: u16,
        /// Container port of `first_host_port`.
        pub first_container_port: u16,
        /// Number of the publication in the controller's list.
        pub publication: u32,
    }

    /// Values of map `port_sets`, key: set * 65536 / 64 + port / 64; bit port % 64.
    pub struct PortSet [8] {
        /// Sixty-four ports.
        pub bits: u64,
    }

    /// Key of map `host_sockets`: a UDP socket of the host and the container it was led to.
    pub struct HostSocketKey [28] {
        /// Socket cookie, low and high half (a u64 would need padding).
        pub cookie: [u32; 2],
        /// The container's address.
        pub address: Address,
        /// The container's port.
        pub port: u16,
        /// IANA protocol number.
        pub protocol: u8,
        /// Zero.
        pub reserved: u8,
    }

    /// Value of map `host_sockets`: what the socket asked for.
    pub struct HostSocketValue [20] {
        /// Address the process named.
        pub address: Address,
        /// Port the process named.
        pub port: u16,
        /// Zero.
        pub reserved: u16,
    }
}

impl PublicationKey {
    /// Prefix length of protocol and address, in bits.
    pub const FIXED_BITS: u32 = 8 * 18;
    /// Prefix length of a whole key, in bits.
    pub const BITS: u32 = 8 * 20;

    /// The key of one port.
    #[inline(always)]
    pub const fn new(protocol: u8, address: &Address, port: u16) -> Self {
        Self { protocol: [protocol, 0], address: address.octets, port: port.to_be_bytes() }
    }
}

impl Publication {
    /// The container port that a host port of this publication leads to.
    #[inline(always)]
    pub const fn container_port(&self, host_port: u16) -> u16 {
        host_port.wrapping_sub(self.first_host_port).wrapping_add(self.first_container_port)
    }
}

impl PortSet {
    /// TCP ports that masquerade must not use.
    pub const RESERVED_TCP: u32 = 0;
    /// UDP ports that masquerade must not use.
    pub const RESERVED_UDP: u32 = 1;
    /// SCTP ports that masquerade must not use.
    pub const RESERVED_SCTP: u32 = 2;
    /// TCP ports published on any address: what the wildcard address may not be bound to.
    pub const PUBLISHED_TCP: u32 = 3;
    /// UDP ports published on any address.
    pub const PUBLISHED_UDP: u32 = 4;
    /// SCTP ports published on any address.
    pub const PUBLISHED_SCTP: u32 = 5;
    /// Number of sets.
    pub const SETS: u32 = 6;
    /// Entries of one set.
    pub const WORDS: u32 = 65536 / 64;

    /// The set of ports of a protocol that masquerade must not use.
    #[inline(always)]
    pub const fn reserved(protocol: u8) -> u32 {
        match protocol {
            protocol::TCP => Self::RESERVED_TCP,
            protocol::SCTP => Self::RESERVED_SCTP,
            _ => Self::RESERVED_UDP,
        }
    }

    /// The set of ports of a protocol that are published on any address.
    #[inline(always)]
    pub const fn published(protocol: u8) -> u32 {
        match protocol {
            protocol::TCP => Self::PUBLISHED_TCP,
            protocol::SCTP => Self::PUBLISHED_SCTP,
            _ => Self::PUBLISHED_UDP,
        }
    }

    /// Index of the entry that holds a port.
    #[inline(always)]
    pub const fn index(set: u32, port: u16) -> u32 {
        set * Self::WORDS + port as u32 / 64
    }

    /// Whether the port is in this entry.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        self.bits >> (port % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_port_keeps_the_offset() {
        let publication = Publication {
            address: Address::UNSPECIFIED,
            network: 1,
            first_host_port: 10_000,
            first_container_port: 60_000,
            publication: 0,
        };
        assert_eq!(publication.container_port(10_000), 60_000);
        assert_eq!(publication.container_port(15_535), 65_535);
    }

    #[test]
    fn a_key_reads_as_what_is_on_the_wire() {
        let key = PublicationKey::new(17, &Address::from(core::net::IpAddr::from([192, 0, 2, 1])), 8080);
        assert_eq!(
            (key.protocol, &key.address[10..], key.port),
            ([17, 0], &[0xff, 0xff, 192, 0, 2, 1][..], [31, 144])
        );
        assert_eq!((PublicationKey::BITS, PublicationKey::FIXED_BITS), (160, 160 - 16));
    }

    /// Each port of each set has a bit of its own.
    #[test]
    fn sets_of_ports_do_not_overlap() {
        let mut next = 0;
        for set in 0..PortSet::SETS {
            for port in 0..=u16::MAX {
                let index = PortSet::index(set, port);
                assert!(index == next / 64 && index / PortSet::WORDS == set, "{set} {port}");
                let alone = PortSet { bits: 1 << (next % 64) };
                assert!(
                    alone.contains(port) && !PortSet { bits: !alone.bits }.contains(port),
                    "{set} {port}"
                );
                next += 1;
            }
        }
    }
}
