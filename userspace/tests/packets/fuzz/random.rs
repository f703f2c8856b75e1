//! Random bytes that can be had again, and frames that are nearly right.

use super::wire;
use crate::harness::shortest;

/// splitmix64 (Steele, Lea, Flood 2014): reproducible by its seed.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Numbers of IPv6 extension headers, and some that are none.
const EXTENSIONS: [u8; 7] = [0, 43, 44, 60, 50, 59, 135];
/// What a byte of a header is most likely compared with.
const EDGES: [u8; 8] = [0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xff];

/// A frame that is nearly this one, or nothing but noise.
pub fn mutated(random: &mut Random, frame: &[u8], addresses: &[Vec<u8>]) -> Vec<u8> {
    if random.one_in(16) {
        let length = 14 + random.below(150);
        let mut frame = random.bytes(length);
        match random.below(3) {
            0 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
            1 => frame[12..14].copy_from_slice(&[0x08, 0x00]),
            _ => {}
        }
        frame.resize(length.max(shortest(&frame)), 0);
        return frame;
    }
    let mut frame = frame.to_vec();
    for _ in 0..random.below(4) {
        match random.below(8) {
            0 => extend(random, &mut frame),
            1 => readdress(random, &mut frame, addresses),
            2 => relength(random, &mut frame),
            3 => {
                // The transport header, or what an error quotes.
                let at = wire::read(&frame).map_or(14, |wire| wire.transport) + random.below(60);
                if at < frame.len() {
                    frame[at] = random.next() as u8;
                }
            }
            4 => {
                let at = random.below(frame.len().min(100));
                frame[at] = *random.one_of(&EDGES);
            }
            5 => {
                let at = random.below(frame.len().min(100));
                frame[at] ^= 1 << random.below(8);
            }
            _ => {
                // Headers, mostly.
                let at = 12 + random.below(frame.len().min(110) - 12);
                frame[at] = random.next() as u8;
            }
        }
    }
    match random.below(8) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => {
            let count = random.below(40);
            frame.extend(random.bytes(count));
        }
        _ => {}
    }
    frame.resize(frame.len().max(shortest(&frame)), 0);
    frame
}

/// One more extension header right behind the IPv6 header, fragment headers among them.
fn extend(random: &mut Random, frame: &mut Vec<u8>) {
    if frame[12..14] != [0x86, 0xdd] || frame.len() < 54 {
        return;
    }
    let number = *random.one_of(&EXTENSIONS);
    let units = if random.one_in(3) { random.below(4) } else { 0 };
    let mut extension = random.bytes(8 + 8 * units);
    extension[0] = frame[20];
    extension[1] = units as u8;
    if number == 44 {
        // A whole packet's, the first fragment's, a later one's.
        (extension[2], extension[3]) = (0, *random.one_of(&[0, 1, 8, 9]));
        extension[4..8].copy_from_slice(&[0, 0, 0, random.next() as u8 & 3]);
        extension.truncate(8);
    }
    frame[20] = number;
    let length = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(extension.len() as u16);
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame.splice(54..54, extension);
}

/// Another address that means something here.
fn readdress(random: &mut Random, frame: &mut [u8], addresses: &[Vec<u8>]) {
    let address = random.one_of(addresses);
    let first = match (&frame[12..14], address.len()) {
        ([0x08, 0x00], 4) => 26,
        ([0x86, 0xdd], 16) => 22,
        _ => return,
    };
    let at = first + address.len() * random.below(2);
    if let Some(place) = frame.get_mut(at..at + address.len()) {
        place.copy_from_slice(address);
    }
}

/// A length that is a little wrong.
fn relength(random: &mut Random, frame: &mut [u8]) {
    let at = if frame[12] == 0x08 { 16 } else { 18 };
    let Some([high, low]) = frame.get(at..at + 2) else { return };
    let length = u16::from_be_bytes([*high, *low]).wrapping_add(random.below(20) as u16).wrapping_sub(10);
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
}
