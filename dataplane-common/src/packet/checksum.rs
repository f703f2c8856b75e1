//! Incremental update of Internet checksums (RFC 1624).

/// What a rewrite adds to a one's complement sum. Built from the words that go and the words that come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChecksumDelta {
    sum: u64,
}

impl ChecksumDelta {
    /// No change.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { sum: 0 }
    }

    /// A 32-bit word, as it lies in the packet, is replaced.
    #[inline(always)]
    pub const fn replace_u32(self, old: u32, new: u32) -> Self {
        Self { sum: self.sum + !old as u64 + new as u64 }
    }

    /// A 16-bit word, as it lies in the packet, is replaced.
    #[inline(always)]
    pub const fn replace_u16(self, old: u16, new: u16) -> Self {
        Self { sum: self.sum + (!old) as u64 + new as u64 }
    }

    /// Both changes.
    #[inline(always)]
    pub const fn join(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum }
    }

    /// As a 32-bit sum: what `bpf_l4_csum_replace` takes as a difference.
    #[inline(always)]
    pub const fn to_u32(self) -> u32 {
        let folded = (self.sum & 0xffff_ffff) + (self.sum >> 32);
        ((folded & 0xffff_ffff) + (folded >> 32)) as u32
    }

    /// The new value of a checksum field, both as they lie in the packet.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        // At most 0x1_0000_fffe: folded once 0x1_fffe, twice 0xffff.
        let mut sum = (!checksum) as u64 + self.to_u32() as u64;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum by its definition (RFC 1071).
    fn checksum(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Where sums carry, once and again.
    #[test]
    fn carries_are_added() {
        const WORDS: [u32; 5] = [0, 1, 0xffff, 0xffff_0000, u32::MAX];
        let pairs = || WORDS.into_iter().flat_map(|old| WORDS.map(|new| (old, new)));
        for (a, b) in pairs() {
            for (c, d) in pairs() {
                for (e, f) in [(0, 0), (0xffff, 1), (0xffff, 0), (1, 0xffff)] {
                    let other = ChecksumDelta::new().replace_u32(c, d).replace_u16(e, f);
                    let delta = ChecksumDelta::new().replace_u32(a, b).join(other);
                    let sum =
                        [!a, b, !c, d, u32::from(!e), u32::from(f)].into_iter().map(u64::from).sum::<u64>();
                    // One's complement has two zeros, and a sum of anything else but zeros is the second.
                    let same = |folded: u64, sum: u64| {
                        folded % 0xffff == sum % 0xffff && (folded == 0) == (sum == 0)
                    };
                    assert!(same(delta.to_u32().into(), sum), "{a:x} {b:x} {c:x} {d:x} {e:x} {f:x}");
                    for before in [0, 1, 0x7fff, 0xfffe, 0xffff_u16] {
                        let after = u64::from(!delta.apply(before));
                        assert!(
                            same(after, u64::from(!before) + sum),
                            "{a:x} {b:x} {c:x} {d:x} {e:x} {f:x} {before:x}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn delta_equals_recomputation(mut words in prop::collection::vec(any::<u16>(), 4..40), new in any::<u32>(), small in any::<u16>()) {
            // A header of zeros alone has the one sum that RFC 1624 cannot update; version and length forbid it.
            words[3] |= 1;
            let before = checksum(&words);
            let old = u32::from(words[0]) | u32::from(words[1]) << 16;
            let delta = ChecksumDelta::new().replace_u32(old, new).replace_u16(words[2], small);
            words[0] = new as u16;
            words[1] = (new >> 16) as u16;
            words[2] = small;
            prop_assert_eq!(delta.apply(before), checksum(&words));
        }
    }
}
