//! Incremental update of the CRC32c of SCTP (RFC 9260 section 6.8 and appendix A).

use super::Ports;

/// The generator polynomial of CRC32c less its x^32, coefficients reflected: bit 31 is that of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// Multiplication by x^(8 * 2^n), which is what 2^n bytes do to a change. For each n and each of the eight digits of four bits
/// that the other factor has, the sixteen products; the rest is their sum. No loop over bits: the kernel's verifier follows each
/// outcome of a mask, and a CPU would guess.
static BYTES: [[[u32; 16]; 8]; 16] = bytes();

/// The checksum of an SCTP packet as it lies in its header: unlike all other fields in little-endian order (appendix A).
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// As it lies in the packet, for the checksums that cover it.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether it is still to be made, over a field of zero, by who sends the packet at last (`CHECKSUM_PARTIAL` with
    /// `csum_not_inet`, sctp_packet_transmit), or by agreement never (RFC 9653).
    #[inline(always)]
    pub const fn is_absent(self) -> bool {
        self.0 == 0
    }

    /// The checksum of the packet after a change.
    #[inline(always)]
    pub const fn apply(self, delta: Crc32cDelta) -> Self {
        Self((u32::from_le(self.0) ^ delta.0).to_le())
    }
}

/// By how much a change of a packet changes its checksum.
///
/// A CRC is linear: the checksums of two messages of one length differ by the remainder of the messages' difference, since
/// initial value and complement are the same for both.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32cDelta(u32);

impl Crc32cDelta {
    /// Of other ports, were they all of the message: the bit that is sent first, the lowest of the first byte, has the
    /// highest power.
    #[inline(always)]
    pub const fn ports(old: Ports, new: Ports) -> Self {
        let source = old.source.get() ^ new.source.get();
        let destination = old.destination.get() ^ new.destination.get();
        Self(source.swap_bytes() as u32 | (destination.swap_bytes() as u32) << 16)
    }

    /// As a number.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// From [`Self::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// Of a message that begins with this change, and is of so many bytes: it is multiplied by x for each of their bits.
    #[inline(always)]
    pub fn of_message(self, length: u16) -> Self {
        let mut remainder = self.0;
        let mut bit = 0;
        while bit < BYTES.len() {
            if length >> bit & 1 == 1 {
                let products = &BYTES[bit];
                let mut product = 0;
                let mut digit = 0;
                while digit < products.len() {
                    product ^= products[digit][(remainder >> (4 * digit) & 15) as usize];
                    digit += 1;
                }
                remainder = product;
            }
            bit += 1;
        }
        Self(remainder)
    }
}

const fn times_x(polynomial: u32) -> u32 {
    if polynomial & 1 == 1 { polynomial >> 1 ^ POLYNOMIAL } else { polynomial >> 1 }
}

/// The product of two polynomials modulo the generator.
const fn multiply(mut left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    while right != 0 {
        if right >> 31 == 1 {
            product ^= left;
        }
        right <<= 1;
        left = times_x(left);
    }
    product
}

const fn bytes() -> [[[u32; 16]; 8]; 16] {
    let mut table = [[[0; 16]; 8]; 16];
    // x^8.
    let mut factor = ONE >> 8;
    let mut bit = 0;
    while bit < 16 {
        let mut digit = 0;
        while digit < 8 {
            let mut value = 0;
            while value < 16 {
                table[bit][digit][value] = multiply(factor, (value as u32) << (4 * digit));
                value += 1;
            }
            digit += 1;
        }
        factor = multiply(factor, factor);
        bit += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Be16;
    use proptest::prelude::*;

    /// The checksum by its definition: a division, bit by bit (RFC 9260 appendix A).
    fn checksum(message: &[u8]) -> u32 {
        let mut register = u32::MAX;
        for byte in message {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                register = if register & 1 == 1 { register >> 1 ^ POLYNOMIAL } else { register >> 1 };
            }
        }
        !register
    }

    fn with_ports(packet: &[u8], ports: [u16; 2]) -> Vec<u8> {
        let [source, destination] = ports.map(u16::to_be_bytes);
        [&source[..], &destination[..], &packet[4..]].concat()
    }

    fn parsed([source, destination]: [u16; 2]) -> Ports {
        Ports { source: Be16::new(source), destination: Be16::new(destination) }
    }

    /// The examples of RFC 3720 appendix B.4, and the one that every list of CRCs has.
    #[test]
    fn the_reference_is_crc32c() {
        let ascending: Vec<u8> = (0..32).collect();
        for (message, expected) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(checksum(message), expected);
        }
    }

    #[test]
    fn every_length_to_the_longest() {
        let change = Crc32cDelta::ports(parsed([0x1234, 0xabcd]), parsed([0, 7]));
        let mut expected = change.0;
        for length in 0..=if cfg!(miri) { 300 } else { u16::MAX } {
            assert_eq!(change.of_message(length).0, expected, "{length} bytes");
            expected = (0..8).fold(expected, |remainder, _| times_x(remainder));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]
        #[test]
        fn replacement_equals_recomputation(
            packet in prop::collection::vec(any::<u8>(), 12..1600),
            before in any::<[u16; 2]>(),
            after in any::<[u16; 2]>(),
        ) {
            let mut old = with_ports(&packet, before);
            old[8..12].fill(0);
            let field = Crc32c(checksum(&old).to_le());
            let new = with_ports(&old, after);
            let delta = Crc32cDelta::ports(parsed(before), parsed(after)).of_message(new.len() as u16);
            prop_assert_eq!(field.apply(delta), Crc32c(checksum(&new).to_le()));
        }
    }
}
