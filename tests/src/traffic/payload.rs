//! Payloads that prove themselves: a stream with a hash at both ends, datagrams with a hash inside.

use sha2::{Digest, Sha256};

/// Bytes in front of a datagram's filling: its sequence number.
const HEADER: usize = 8;
/// Bytes behind it: the first half of a SHA-256.
const TRAILER: usize = 16;
/// Smallest datagram that carries both.
pub const SMALLEST_DATAGRAM: usize = HEADER + TRAILER;

/// Bytes that do not repeat within any packet, the same for the same seed.
pub fn pseudo_random(seed: u64, length: usize) -> Vec<u8> {
    // SplitMix64 (Steele, Lea, Flood 2014): no zeros-only output for any seed, and it need not be secret.
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(value ^ (value >> 31)).to_ne_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Makes datagrams of one size.
#[derive(Debug)]
pub struct Datagrams {
    filling: Vec<u8>,
    size: usize,
}

impl Datagrams {
    /// Of `size` bytes each, at least [`SMALLEST_DATAGRAM`].
    pub fn new(size: usize) -> Self {
        Self { filling: pseudo_random(size as u64, size + 4096), size: size.max(SMALLEST_DATAGRAM) }
    }

    /// Appends the datagram with this sequence number.
    pub fn append(&self, sequence: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&sequence.to_be_bytes());
        // Another part of the filling each time, so that neighbours cannot stand in for each other.
        let from = (sequence % 4096) as usize;
        out.extend_from_slice(&self.filling[from..from + self.size - SMALLEST_DATAGRAM]);
        let hash = Sha256::digest(&out[start..]);
        out.extend_from_slice(&hash[..TRAILER]);
    }
}

/// The sequence number of a datagram, `None` if one bit of it is not as it was sent.
pub fn verify(datagram: &[u8]) -> Option<u64> {
    let (content, trailer) = datagram.split_at_checked(datagram.len().checked_sub(TRAILER)?)?;
    let sequence = content.first_chunk::<HEADER>()?;
    (Sha256::digest(content)[..TRAILER] == *trailer).then(|| u64::from_be_bytes(*sequence))
}

/// Which sequence numbers of a datagram stream arrived.
#[derive(Debug, Default)]
pub struct Arrivals {
    seen: Vec<bool>,
    /// Datagrams that failed `verify`.
    pub corrupted: u64,
    /// Datagrams that had come before.
    pub duplicates: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// Distinct, correct datagrams.
    pub correct: u64,
}

impl Arrivals {
    /// Counts one datagram; its sequence number if it is a new, correct one.
    pub fn record(&mut self, datagram: &[u8]) -> Option<u64> {
        // A bound on memory, should a corrupted number pass for right.
        let Some(sequence) = verify(datagram).filter(|sequence| *sequence < 1 << 32) else {
            self.corrupted += 1;
            return None;
        };
        let index = sequence as usize;
        if self.seen.get(index).copied().unwrap_or(false) {
            self.duplicates += 1;
            return None;
        }
        if index < self.seen.len() {
            self.reordered += 1;
        } else {
            self.seen.resize(index + 1, false);
        }
        self.seen[index] = true;
        self.correct += 1;
        Some(sequence)
    }

    /// Numbers below the highest that have not come.
    pub fn gaps(&self) -> u64 {
        self.seen.len() as u64 - self.correct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut datagram = Vec::new();
        Datagrams::new(100).append(7, &mut datagram);
        assert_eq!((datagram.len(), verify(&datagram)), (100, Some(7)));
        for bit in 0..800 {
            datagram[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&datagram), None, "bit {bit}");
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..100 {
            assert_eq!(verify(&datagram[..length]), None, "truncated to {length}");
        }
    }

    #[test]
    fn arrivals_are_told_apart() {
        let datagrams = Datagrams::new(64);
        let mut arrivals = Arrivals::default();
        for sequence in [0, 3, 1, 3] {
            let mut datagram = Vec::new();
            datagrams.append(sequence, &mut datagram);
            arrivals.record(&datagram);
        }
        arrivals.record(b"short");
        let Arrivals { corrupted, duplicates, reordered, correct, .. } = arrivals;
        assert_eq!((corrupted, duplicates, reordered, correct), (1, 1, 1, 3));
        assert_eq!(arrivals.gaps(), 1);
    }
}
