//! The packet: the one place with bounds checks. `frame` has what differs at an XDP hook.

use core::hint::cold_path;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use dataplane_common::{
    abi::{Counter, DropReason},
    packet::{Sctp, Tcp, Udp, protocol},
};

use crate::{helpers, parse::Parsed, verdict::Outcome};

/// `gso_size` of SCTP: segments of any size, each made for the path MTU that SCTP has found. How long they are cannot be read
/// here; what is sent again later is no GSO packet, and hears of a smaller MTU.
const GSO_BY_FRAGS: usize = 0xffff;

/// A 32-bit field of a program's context.
///
/// In assembly, since the compiler would compute the field's address, keep it, and load through it later; the kernel
/// verifies loads from the context only with a constant offset ("dereference of modified ctx ptr").
macro_rules! context_field {
    ($context:expr, $kind:ty, $field:ident) => {{
        let context: *mut $kind = $context;
        let value: u64;
        // SAFETY: the context's fields are always readable.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({context} + {offset})",
                value = out(reg) value,
                context = in(reg) context,
                offset = const core::mem::offset_of!($kind, $field),
                options(readonly, nostack, preserves_flags)
            );
        }
        value
    }};
}
pub(crate) use context_field;

/// What can be read and written of a packet, whatever kind of hook it is at.
pub trait Headers: Copy {
    /// Start and end of the bytes that can be read.
    fn bounds(&self) -> (usize, usize);

    /// Sees to it that this many bytes can be read. A shorter packet stays as it is and fails when read. Makes earlier
    /// pointers invalid.
    fn linearise(&self, bytes: usize);

    /// Bytes, Ethernet header included.
    fn length(&self) -> u32;

    /// Whether a NIC or the kernel will cut it into segments.
    fn is_gso(&self) -> bool;

    /// A header at an offset from the start of the Ethernet header, if all of it can be read.
    ///
    /// Helpers that change the packet make earlier pointers invalid (the verifier refuses their use).
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let (start, end) = self.bounds();
        if start + offset + size_of::<T>() > end { None } else { Some((start + offset) as *mut T) }
    }

    /// Like [`Self::at`], for reading; a packet that is too short is malformed.
    #[inline(always)]
    fn read<T>(&self, offset: usize) -> Outcome<&T> {
        match self.at::<T>(offset) {
            // SAFETY: in bounds; the verifier allows unaligned access and so does the CPU.
            Some(header) => Ok(unsafe { &*header }),
            None => {
                cold_path();
                Err(DropReason::Malformed)
            }
        }
    }

    /// Like [`Self::at`], for writing after the last check: failure is the kernel's.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the packet is the kernel's memory, not this struct's")]
    fn write<T>(&self, offset: usize) -> Outcome<&mut T> {
        match self.at::<T>(offset) {
            // SAFETY: as for `read`; the program is the only writer.
            Some(header) => Ok(unsafe { &mut *header }),
            None => {
                cold_path();
                Err(DropReason::HelperFailed)
            }
        }
    }
}

/// A packet at a tc hook.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Packet {
    /// The program's context.
    pub skb: *mut __sk_buff,
}

impl Packet {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// What it counts as: a GSO packet as the segments it stands for, and its bytes as they are.
    #[inline(always)]
    pub fn size(&self) -> Counter {
        let bytes = self.length();
        let segments = context_field!(self.skb, __sk_buff, gso_segs) as u32;
        let segment = context_field!(self.skb, __sk_buff, gso_size) as u32;
        let packets = match (segments, segment) {
            (0, 0) => 1,
            // `bpf_skb_adjust_room` leaves the number unset, so what was encapsulated on this machine has none.
            (0, segment) => bytes / segment + 1,
            (segments, _) => segments,
        };
        Counter { packets: u64::from(packets), bytes: u64::from(bytes) }
    }

    /// Bytes of the longest packet that will leave, Ethernet header included: a segment where it is to be cut.
    #[inline(always)]
    pub fn segment_length(&self, parsed: &Parsed) -> usize {
        let size = context_field!(self.skb, __sk_buff, gso_size) as usize;
        if size == 0 {
            return self.length() as usize;
        }
        if size == GSO_BY_FRAGS {
            return parsed.transport() + Sctp::LENGTH;
        }
        let header = match parsed.tuple.protocol {
            protocol::TCP => match self.read::<Tcp>(parsed.transport()) {
                Ok(tcp) => ((tcp.data_offset >> 4) as usize) * 4,
                Err(_) => 0,
            },
            _ => Udp::LENGTH,
        };
        parsed.transport() + header + size
    }

    /// Whether it carries a VLAN tag. The kernel keeps the tag beside the packet, where no header shows it.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        context_field!(self.skb, __sk_buff, vlan_present) != 0
    }

    /// Whether its Ethernet destination is another host (`PACKET_OTHERHOST` of linux/if_packet.h).
    #[inline(always)]
    pub fn is_for_another_host(&self) -> bool {
        context_field!(self.skb, __sk_buff, pkt_type) == 3
    }

    /// `skb->mark`, which this host's own programs and rules set.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        context_field!(self.skb, __sk_buff, mark) as u32
    }

    /// `skb->tc_index`: 16 bits.
    #[inline(always)]
    pub fn tc_index(&self) -> u32 {
        context_field!(self.skb, __sk_buff, tc_index) as u32
    }

    /// The device whose hook runs.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        context_field!(self.skb, __sk_buff, ifindex) as u32
    }

    /// The device it came in by; 0 if this host made it.
    #[inline(always)]
    pub fn came_in_by(&self) -> u32 {
        context_field!(self.skb, __sk_buff, ingress_ifindex) as u32
    }
}

impl Headers for Packet {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let start = context_field!(self.skb, __sk_buff, data);
        (start as usize, context_field!(self.skb, __sk_buff, data_end) as usize)
    }

    #[inline(always)]
    fn linearise(&self, bytes: usize) {
        let (start, end) = self.bounds();
        if start + bytes > end && self.length() as usize >= bytes {
            cold_path();
            helpers::pull(self.skb, bytes as u32);
        }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        context_field!(self.skb, __sk_buff, len) as u32
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        context_field!(self.skb, __sk_buff, gso_size) != 0
    }
}
