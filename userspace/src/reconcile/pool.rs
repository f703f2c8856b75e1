//! Which external ports masquerade may use.

use crate::model::PortRange;

/// First port that is not "well known" (RFC 6335 section 6); masquerade leaves those to servers (RFC 4787 REQ-3).
const FIRST: u16 = 1024;

/// The larger part of 1024 to 65535 outside the host's own ephemeral range: the kernel picks from there for the
/// host's own connections without asking weft.
pub fn default_pool(ephemeral: PortRange) -> PortRange {
    let below = ephemeral.first.saturating_sub(FIRST);
    let above = u16::MAX - ephemeral.last;
    if below == 0 && above == 0 {
        // The host takes everything for itself. Sharing is all that is left; bound ports are kept out one by one.
        return PortRange { first: FIRST, last: u16::MAX };
    }
    if below >= above {
        PortRange { first: FIRST, last: ephemeral.first - 1 }
    } else {
        PortRange { first: (ephemeral.last + 1).max(FIRST), last: u16::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_larger_part_outside_the_ephemeral_range() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(default_pool(range(32768, 60999)), range(1024, 32767));
        assert_eq!(default_pool(range(1024, 40000)), range(40001, 65535));
        assert_eq!(default_pool(range(20000, 65535)), range(1024, 19999));
        assert_eq!(default_pool(range(1, 65535)), range(1024, 65535));
    }

    proptest! {
        #[test]
        fn pool_and_ephemeral_range_are_apart(a in 1_u16.., b in 1_u16..) {
            let ephemeral = PortRange { first: a.min(b), last: a.max(b) };
            let pool = default_pool(ephemeral);
            prop_assert!(pool.first >= FIRST && pool.first <= pool.last);
            let everything = ephemeral.first <= FIRST && ephemeral.last == u16::MAX;
            prop_assert!(everything || !pool.overlaps(ephemeral));
        }
    }
}
