//! Network and link-layer addresses.

use super::pod;

pod! {
    /// An IPv6 address in network order; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2), `::ffff:a.b.c.d`.
    ///
    /// One representation for both families keeps one set of maps and one code path; what it costs is hashing
    /// 24 more bytes for each flow lookup (docs/architecture.md has the figure).
    pub struct Address [16] {
        /// Four 32-bit words as they lie in memory, that is in network order.
        pub words: [u32; 4],
    }

    /// An Ethernet address in transmission order.
    pub struct MacAddress [6] {
        /// The six octets.
        pub octets: [u8; 6],
    }
}

/// `::ffff:0:0` as it lies in memory.
const V4_MAPPED: u32 = u32::from_be(0x0000_ffff);

impl Address {
    /// `::`, which stands for "any" in keys.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// The address of an IPv4 header field, given as it lies in the packet.
    #[inline(always)]
    pub const fn from_v4_network_order(word: u32) -> Self {
        Self { words: [0, 0, V4_MAPPED, word] }
    }

    /// The IPv4 address as it lies in a packet; meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_network_order(&self) -> u32 {
        self.words[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == V4_MAPPED
    }

    /// The sixteen bytes.
    pub const fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        let mut word = 0;
        while word < 4 {
            let bytes = self.words[word].to_ne_bytes();
            let mut byte = 0;
            while byte < 4 {
                octets[word * 4 + byte] = bytes[byte];
                byte += 1;
            }
            word += 1;
        }
        octets
    }

    /// From sixteen bytes.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut word = 0;
        while word < 4 {
            let at = word * 4;
            words[word] = u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
            word += 1;
        }
        Self { words }
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        for text in ["10.10.0.10", "255.255.255.255", "2001:db8::1", "::"] {
            let address: IpAddr = text.parse().expect("literal");
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn v4_word_is_the_one_in_the_header() {
        let address = Address::from(IpAddr::from([192, 0, 2, 1]));
        assert!(address.is_v4());
        assert_eq!(address.v4_network_order().to_ne_bytes(), [192, 0, 2, 1]);
        assert_eq!(Address::from_v4_network_order(u32::from_ne_bytes([192, 0, 2, 1])), address);
        assert!(!Address::UNSPECIFIED.is_v4());
    }
}
