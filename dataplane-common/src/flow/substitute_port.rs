//! Ports for clients that cannot have their own: below those that clients choose (RFC 6056 section 3.2,
//! `ip_local_port_range`), so that one hardly ever is another of the same client's.

use core::ops::Range;

/// Where they are.
const PORTS: Range<u16> = 1024..32_768;

/// One of them, for 32 random bits.
#[inline(always)]
pub const fn at_random(random: u32) -> u16 {
    // Scaling a random 16-bit number needs no division.
    PORTS.start + (((random & 0xffff) * (PORTS.end - PORTS.start) as u32) >> 16) as u16
}

/// The one for a client's own port: each of those that clients choose has one of its own. By chance a later connection would
/// get an earlier one's, which the server still has in TIME-WAIT (RFC 9293 section 3.4.2), and whose SYN it answers with the
/// earlier one's numbers.
#[inline(always)]
pub const fn of(own: u16) -> u16 {
    PORTS.start + own.wrapping_sub(PORTS.end) % (PORTS.end - PORTS.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Miri takes minutes for all numbers of 16 bits.
    const STEP: usize = if cfg!(miri) { 251 } else { 1 };

    #[test]
    fn every_port_that_clients_choose_has_one_of_its_own() {
        // `ip_local_port_range` as the kernel sets it.
        let chosen = || (32_768..=60_999).step_by(STEP);
        let substitutes: HashSet<u16> = chosen().map(of).collect();
        assert_eq!(substitutes.len(), chosen().count());
        assert!((0..=u16::MAX).step_by(STEP).all(|own| PORTS.contains(&of(own))));
        assert_eq!(of(32_768), 1024);
        // There are 1,024 ports more from 32,768 on than below it: the last ones begin anew.
        assert_eq!(of(u16::MAX), 1024 + 1023);
    }

    #[test]
    fn random_ones_are_anywhere_in_the_range() {
        assert_eq!(at_random(0), 1024);
        assert_eq!(at_random(u32::MAX), 32_767);
        let all: HashSet<u16> = (0..=0xffff).step_by(STEP).map(at_random).collect();
        assert!(
            all.len() >= PORTS.len() / STEP && all.iter().all(|port| PORTS.contains(port)),
            "{}",
            all.len()
        );
    }
}
