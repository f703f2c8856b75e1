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
        let length = ip.payload_length.get() as usize;
        (network + Ipv6::LENGTH, length, helpers::sum(frame.at::<[u8; 32]>(network + 8)?, 0))
    } else {
        let ip = frame.read::<Ipv4>(network).ok()?;
        let is_whole = ip.fragment.get() & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) == 0;
        if ip.protocol != protocol::UDP || ip.version_and_length != 0x45 || !is_whole {
            return None;
        }
        let length = (ip.total_length.get() as usize).wrapping_sub(Ipv4::LENGTH);
        (network + Ipv4::LENGTH, length, helpers::sum(frame.at::<[u8; 8]>(network + 12)?, 0))
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
        sum = helpers::sum(frame.at::<[u8; 512]>(at)?, sum);
        sum = helpers::sum(frame.at::<[u8; 512]>(at + 512)?, sum);
    }
    sum = part::<512>(frame, at, length, sum)?;
    sum = part::<256>(frame, at, length, sum)?;
    sum = part::<128>(frame, at, length, sum)?;
    sum = part::<64>(frame, at, length, sum)?;
    sum = part::<32>(frame, at, length, sum)?;
    sum = part::<16>(frame, at, length, sum)?;
    sum = part::<8>(frame, at, length, sum)?;
    sum = part::<4>(frame, at, length, sum)?;
    // The last one to three bytes: the end of the last word, whose beginning has been added. A datagram has eight at least.
    let last = u64::from(*frame.read::<u32>(four_before(at + length)).ok()?);
    let rest = if length & 3 == 0 { 0 } else { last >> (8 * (4 - (length & 3))) };
    let pseudo = u64::from((length as u16).to_be()) + u64::from(u16::from(protocol::UDP).to_be());
    let mut total = u64::from(sum) + rest + pseudo;
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

/// Adds the `BYTES` bytes that the length has at its bit of that worth. Where they lie does not depend on the way through
/// the program, so the verifier goes through it once.
#[inline(always)]
fn part<const BYTES: usize>(frame: &Frame, at: usize, length: usize, sum: u32) -> Option<u32> {
    if length & BYTES == 0 {
        return Some(sum);
    }
    Some(helpers::sum(frame.at::<[u8; BYTES]>(at + (length & (LONGEST & !(2 * BYTES - 1))))?, sum))
}
