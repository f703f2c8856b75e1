//! Whether the checksum of a UDP datagram is right.
//!
//! A NIC's packets have complete checksums, but those that a socket of this machine has sent through a veth or a virtual
//! machine's device do not: the kernel keeps beside the packet what is still to be done, an XDP program does not see that,
//! and it is lost where XDP sends the packet on.

use core::arch::asm;

use dataplane_common::packet::{Ipv4, Ipv6, Udp, protocol};

use crate::{frame::Frame, helpers, packet::Headers};

/// Longest datagram that is looked at: longer than what fits an Ethernet frame.
pub const LONGEST: usize = 2047;

/// Whether the datagram behind the IP header at `network`, with no options or extension headers, is whole, and its
/// checksum right or absent. False also where nothing can be said.
///
/// A function of its own: the verifier forgets behind it which way the program took through it.
#[inline(never)]
pub fn is_right(frame: Frame, network: usize, is_v6: bool) -> bool {
    judge(&frame, network & 0xff, is_v6).unwrap_or(false)
}

#[inline(always)]
fn judge(frame: &Frame, network: usize, is_v6: bool) -> Option<bool> {
    // Source and destination lie side by side in both headers.
    let (at, length, addresses) = if is_v6 {
        let ip = frame.read::<Ipv6>(network).ok()?;
        if ip.next_header != protocol::UDP {
            return None;
        }
        (network + Ipv6::LENGTH, ip.payload_length.get() as usize, words::<4>(frame, network + 8)?)
    } else {
        let ip = frame.read::<Ipv4>(network).ok()?;
        let is_whole = ip.fragment.get() & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) == 0;
        if ip.protocol != protocol::UDP || ip.version_and_length != 0x45 || !is_whole {
            return None;
        }
        let length = (ip.total_length.get() as usize).wrapping_sub(Ipv4::LENGTH);
        (network + Ipv4::LENGTH, length, words::<1>(frame, network + 12)?)
    };
    let udp = frame.read::<Udp>(at).ok()?;
    if udp.length.get() as usize != length || !(Udp::LENGTH..=LONGEST).contains(&length) {
        return None;
    }
    if udp.checksum.raw() == 0 {
        // Allowed over IPv4 (RFC 768). Over IPv6 the stack decides.
        return Some(!is_v6);
    }
    let length = length & LONGEST;
    let mut sum = addresses;
    if length & 1024 != 0 {
        sum += u64::from(helpers::sum(frame.at::<[u8; 512]>(at)?));
        sum += u64::from(helpers::sum(frame.at::<[u8; 512]>(at + 512)?));
    }
    for bytes in [512, 256, 128] {
        if length & bytes != 0 {
            let start = start_of(at, length, bytes);
            sum += u64::from(match bytes {
                512 => helpers::sum(frame.at::<[u8; 512]>(start)?),
                256 => helpers::sum(frame.at::<[u8; 256]>(start)?),
                _ => helpers::sum(frame.at::<[u8; 128]>(start)?),
            });
        }
    }
    // Short ones without the helper, which costs as much as adding them here.
    if length & 64 != 0 {
        sum += words::<8>(frame, start_of(at, length, 64))?;
    }
    if length & 32 != 0 {
        sum += words::<4>(frame, start_of(at, length, 32))?;
    }
    if length & 16 != 0 {
        sum += words::<2>(frame, start_of(at, length, 16))?;
    }
    if length & 8 != 0 {
        sum += words::<1>(frame, start_of(at, length, 8))?;
    }
    if length & 4 != 0 {
        sum += u64::from(*frame.read::<u32>(start_of(at, length, 4)).ok()?);
    }
    // The last one to three bytes: the end of the last word, whose beginning has been added. A datagram has eight at least.
    let last = u64::from(*frame.read::<u32>(four_before(at + length)).ok()?);
    let rest = if length & 3 == 0 { 0 } else { last >> (8 * (4 - (length & 3))) };
    let pseudo = u64::from((length as u16).to_be()) + u64::from(u16::from(protocol::UDP).to_be());
    let mut total = sum + rest + pseudo;
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    Some(total == 0xffff)
}

/// Four less, in assembly: the compiler would check the end and then load from four bytes before it, which the verifier
/// does not follow.
#[inline(always)]
fn four_before(mut offset: usize) -> usize {
    // SAFETY: arithmetic.
    unsafe { asm!("{0} += -4", inout(reg) offset, options(pure, nomem, nostack, preserves_flags)) };
    offset
}

/// Where those bytes begin that a length has at its bit of this worth. It does not depend on the way through the program, so
/// the verifier goes through it once.
#[inline(always)]
fn start_of(at: usize, length: usize, bytes: usize) -> usize {
    at + (length & (LONGEST & !(2 * bytes - 1)))
}

/// The sum of so many words of eight bytes.
#[inline(always)]
fn words<const WORDS: usize>(frame: &Frame, at: usize) -> Option<u64> {
    let words = frame.read::<[u64; WORDS]>(at).ok()?;
    Some(words.iter().map(|word| (word & 0xffff_ffff) + (word >> 32)).sum())
}
