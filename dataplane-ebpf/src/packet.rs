//! The packet: the one place with bounds checks, but for `frame`, which is the same for XDP.

use core::{arch::asm, hint::cold_path, mem::offset_of};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use dataplane_common::{
    abi::{Counter, DropReason},
    packet::{Sctp, Tcp, Udp, protocol},
};

use crate::{helpers, parse::Parsed, verdict::Outcome};

/// `gso_size` of SCTP: segments of any size, each made for the path MTU that SCTP has found. How long they are cannot be read
/// here; what is sent again later is no GSO packet, and hears of a smaller MTU.
const GSO_BY_FRAGS: usize = 0xffff;

/// A header at an offset from `start`, if all of it is before `end`.
#[inline(always)]
pub fn header_at<T>(start: usize, end: usize, offset: usize) -> Option<*mut T> {
    if start + offset + size_of::<T>() > end { None } else { Some((start + offset) as *mut T) }
}

/// What the parser needs of a packet, whatever kind of hook it is at. See the methods of [`Packet`].
pub trait Headers {
    fn read<T>(&self, offset: usize) -> Outcome<&T>;
    #[expect(clippy::mut_from_ref, reason = "the packet is the kernel's memory, not this struct's")]
    fn write<T>(&self, offset: usize) -> Outcome<&mut T>;
    fn linearise(&self, bytes: usize);
    fn length(&self) -> u32;
    fn is_gso(&self) -> bool;
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

    /// A 32-bit field of the context, at its offset in bytes.
    ///
    /// In assembly, since the compiler would compute the field's address, keep it, and load through it later; the kernel
    /// verifies loads from the context only with a constant offset ("dereference of modified ctx ptr").
    #[inline(always)]
    fn field<const OFFSET: usize>(&self) -> u64 {
        let value: u64;
        // SAFETY: the context's fields are always readable.
        unsafe {
            asm!(
                "{value} = *(u32 *)({context} + {offset})",
                value = out(reg) value,
                context = in(reg) self.skb,
                offset = const OFFSET,
                options(readonly, nostack, preserves_flags)
            );
        }
        value
    }

    /// Start and end of the linear part.
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        let start = self.field::<{ offset_of!(__sk_buff, data) }>();
        (start as usize, self.field::<{ offset_of!(__sk_buff, data_end) }>() as usize)
    }

    /// A header at an offset from the start of the Ethernet header, if all of it is in the linear part.
    ///
    /// Helpers that change the packet make earlier pointers invalid (the verifier refuses their use).
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let (data, end) = self.linear();
        header_at(data, end, offset)
    }

    /// Like [`Self::at`], for reading; a packet that is too short is malformed.
    #[inline(always)]
    pub fn read<T>(&self, offset: usize) -> Outcome<&T> {
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
    pub fn write<T>(&self, offset: usize) -> Outcome<&mut T> {
        match self.at::<T>(offset) {
            // SAFETY: as for `read`; the program is the only writer.
            Some(header) => Ok(unsafe { &mut *header }),
            None => {
                cold_path();
                Err(DropReason::HelperFailed)
            }
        }
    }

    /// Sees to it that this many bytes are in the linear part. A shorter packet stays as it is and fails when read.
    /// Makes earlier pointers invalid.
    #[inline(always)]
    pub fn linearise(&self, bytes: usize) {
        let (data, end) = self.linear();
        if data + bytes > end && self.length() as usize >= bytes {
            cold_path();
            helpers::pull(self.skb, bytes as u32);
        }
    }

    /// Bytes, Ethernet header included.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, len) }>() as u32
    }

    /// What it counts as: a GSO packet as the segments it stands for, and its bytes as they are.
    #[inline(always)]
    pub fn size(&self) -> Counter {
        let bytes = self.length();
        let segments = self.field::<{ offset_of!(__sk_buff, gso_segs) }>() as u32;
        let segment = self.field::<{ offset_of!(__sk_buff, gso_size) }>() as u32;
        let packets = match (segments, segment) {
            (0, 0) => 1,
            // `bpf_skb_adjust_room` leaves the number unset, so what was encapsulated on this machine has none.
            (0, segment) => bytes / segment + 1,
            (segments, _) => segments,
        };
        Counter { packets: u64::from(packets), bytes: u64::from(bytes) }
    }

    /// Whether a NIC or the kernel will cut it into segments.
    #[inline(always)]
    pub fn is_gso(&self) -> bool {
        self.field::<{ offset_of!(__sk_buff, gso_size) }>() != 0
    }

    /// Bytes of the longest packet that will leave, Ethernet header included: a segment where it is to be cut.
    #[inline(always)]
    pub fn segment_length(&self, parsed: &Parsed) -> usize {
        let size = self.field::<{ offset_of!(__sk_buff, gso_size) }>() as usize;
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
        self.field::<{ offset_of!(__sk_buff, vlan_present) }>() != 0
    }

    /// Whether its Ethernet destination is another host (`PACKET_OTHERHOST` of linux/if_packet.h).
    #[inline(always)]
    pub fn is_for_another_host(&self) -> bool {
        self.field::<{ offset_of!(__sk_buff, pkt_type) }>() == 3
    }

    /// `skb->mark`, which this host's own programs and rules set.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, mark) }>() as u32
    }

    /// `skb->tc_index`: 16 bits.
    #[inline(always)]
    pub fn tc_index(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, tc_index) }>() as u32
    }

    /// The device whose hook runs.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, ifindex) }>() as u32
    }

    /// The device it came in by; 0 if this host made it.
    #[inline(always)]
    pub fn came_in_by(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, ingress_ifindex) }>() as u32
    }
}

impl Headers for Packet {
    #[inline(always)]
    fn read<T>(&self, offset: usize) -> Outcome<&T> {
        self.read(offset)
    }

    #[inline(always)]
    fn write<T>(&self, offset: usize) -> Outcome<&mut T> {
        self.write(offset)
    }

    #[inline(always)]
    fn linearise(&self, bytes: usize) {
        self.linearise(bytes);
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.length()
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        self.is_gso()
    }
}
