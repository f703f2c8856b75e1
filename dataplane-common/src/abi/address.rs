//! Network and link-layer addresses.

use super::pod;

pod! {
    /// An Ethernet address in transmission order.
    pub struct MacAddress [6] {
        /// The six octets.
        pub octets: [u8; 6],
    }
}

impl MacAddress {
    /// What an IPv6 multicast packet is sent to (RFC 2464 section 7).
    #[inline(always)]
    pub const fn of_group(group: &Address) -> Self {
        let [.., a, b, c, d] = group.octets;
        Self { octets: [0x33, 0x33, a, b, c, d] }
    }
}

/// An IPv6 address in network order; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2), `::ffff:a.b.c.d`. 16 bytes.
///
/// One representation for both families keeps one set of maps and one code path; what it costs is hashing 24 more
/// bytes for each flow lookup (docs/architecture.md has the figure). Octets, so that `bpftool map dump` prints what
/// people recognise; aligned to four bytes, so that programs copy and compare words.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, Eq)]
pub struct Address {
    /// The sixteen octets.
    pub octets: [u8; 16],
}

const _: () = assert!(size_of::<Address>() == 16);
// SAFETY: repr(C), sixteen bytes and no padding; the alignment divides the size.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Address {}
// SAFETY: as above, and all-zero bytes are `::`.
#[cfg(feature = "user")]
unsafe impl bytemuck::Zeroable for Address {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl bytemuck::Pod for Address {}

/// `::ffff:0:0` as it lies in memory.
const V4_MAPPED: u32 = u32::from_be(0x0000_ffff);

impl Address {
    /// `::`, which stands for "any" in keys; in those of published ports for any IPv6 address.
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    /// `::ffff:0.0.0.0`, which stands for "any IPv4 address" in keys.
    pub const V4_UNSPECIFIED: Self = Self::from_v4_network_order(0);

    /// Four 32-bit words as they lie in memory, that is in network order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        // SAFETY: same size, and every bit pattern is valid for both.
        unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.octets) }
    }

    /// From four words as they lie in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: as in `words`.
        Self { octets: unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) } }
    }

    /// The address of an IPv4 header field, given as it lies in the packet.
    #[inline(always)]
    pub const fn from_v4_network_order(word: u32) -> Self {
        Self::from_words([0, 0, V4_MAPPED, word])
    }

    /// The IPv4 address as it lies in a packet; meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_network_order(&self) -> u32 {
        self.words()[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words();
        a | b == 0 && c == V4_MAPPED
    }

    /// The link-local IPv6 address that a device makes of its MAC address (RFC 4291 appendix A).
    #[inline(always)]
    pub const fn link_local(mac: &MacAddress) -> Self {
        let [a, b, c, d, e, f] = mac.octets;
        Self { octets: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f] }
    }

    /// The group that is asked for the holder of an IPv6 address (RFC 4291 section 2.7.1).
    #[inline(always)]
    pub const fn solicited_node(&self) -> Self {
        let [.., a, b, c] = self.octets;
        Self { octets: [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c] }
    }

    /// Whether this is an IPv6 link-local address, fe80::/10.
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        self.octets[0] == 0xfe && self.octets[1] & 0xc0 == 0x80
    }

    /// Whether this is an IPv6 multicast address, ff00::/8.
    #[inline(always)]
    pub const fn is_multicast_v6(&self) -> bool {
        self.octets[0] == 0xff
    }

    /// Whether another address has the same first bits.
    #[inline(always)]
    pub const fn shares_prefix(&self, other: &Self, prefix_length: u32) -> bool {
        let (ours, theirs) = (self.words(), other.words());
        let (mut index, mut rest, mut difference) = (0, prefix_length, 0);
        while index < 4 {
            let bits = if rest > 32 { 32 } else { rest };
            rest -= bits;
            // In 64 bits, since a shift by 32 is none.
            let mask = !(u32::MAX as u64 >> bits) as u32;
            difference |= u32::from_be(ours[index] ^ theirs[index]) & mask;
            index += 1;
        }
        difference == 0
    }

    /// Whether this is `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | c | d == 0
    }

    /// Whether it stands for "any" or "none" in its family: `::`, or `0.0.0.0` as mapped.
    #[inline(always)]
    pub const fn is_any(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | d == 0 && (c == 0 || c == V4_MAPPED)
    }
}

impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        // Word by word: comparing byte arrays becomes a call of memcmp on the BPF target.
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), other.words());
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

impl core::hash::Hash for Address {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self { octets: v4.to_ipv6_mapped().octets() },
            core::net::IpAddr::V6(v6) => Self { octets: v6.octets() },
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use std::collections::HashSet;

    /// Every pair of addresses of these words: equal, alike, and such that words cancel out.
    #[test]
    fn questions_are_answered_by_the_octets() {
        let words = [0, 0xffff_u32, 0x8000_0001].map(u32::to_be);
        let all =
            || (0..81).map(|number| Address::from_words([27, 9, 3, 1].map(|unit| words[number / unit % 3])));
        for one in all() {
            let left = u128::from_be_bytes(one.octets);
            assert_eq!(one.is_unspecified(), left == 0, "{one:?}");
            assert_eq!(one.is_v4(), left >> 32 == 0xffff, "{one:?}");
            assert_eq!(one.is_any(), left == 0 || left == 0xffff << 32, "{one:?}");
            for other in all() {
                let right = u128::from_be_bytes(other.octets);
                assert_eq!(one == other, left == right, "{one:?} {other:?}");
                for bits in [0, 1, 31, 32, 33, 63, 64, 95, 96, 127, 128] {
                    let shared = (left ^ right).checked_shr(128 - bits).unwrap_or(0) == 0;
                    assert_eq!(one.shares_prefix(&other, bits), shared, "{one:?} {other:?} {bits}");
                }
            }
        }
    }

    #[test]
    fn hashes_differ() {
        use core::hash::BuildHasher as _;
        let hasher = std::hash::RandomState::new();
        let hashes: HashSet<u64> =
            (0..100).map(|word| hasher.hash_one(Address::from_v4_network_order(word))).collect();
        assert!(hashes.len() > 90, "{} of 100", hashes.len());
    }

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        for text in ["10.10.0.10", "255.255.255.255", "2001:db8::1", "::"] {
            let address: IpAddr = text.parse().expect("literal");
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn prefixes_and_kinds() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("literal"));
        let (one, other) = (address("fd00:1:2:3::1"), address("fd00:1:2:3:8000::1"));
        assert!(
            one.shares_prefix(&other, 0) && one.shares_prefix(&other, 64) && !one.shares_prefix(&other, 65)
        );
        assert!(one.shares_prefix(&one, 128) && !one.shares_prefix(&address("fd00:1:2:3::"), 128));
        assert!(address("10.0.0.1").shares_prefix(&address("10.0.0.2"), 96 + 30));
        let mac = MacAddress { octets: [0x02, 0x42, 10, 10, 0, 99] };
        assert_eq!(Address::link_local(&mac), address("fe80::42:aff:fe0a:63"));
        assert_eq!(address("fd00:10::12:3456:789a").solicited_node(), address("ff02::1:ff56:789a"));
        let group = MacAddress::of_group(&address("ff02::1:ff56:789a"));
        assert_eq!(group, MacAddress { octets: [0x33, 0x33, 0xff, 0x56, 0x78, 0x9a] });
        assert!(address("febf::1").is_link_local() && !address("fec0::1").is_link_local());
        assert!(address("ff02::1").is_multicast_v6() && !one.is_multicast_v6());
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
