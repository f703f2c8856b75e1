//! A packet at an XDP hook: bytes as a NIC's driver received them, before the kernel makes a packet of its own of them.

use core::{arch::asm, hint::cold_path, mem::offset_of};

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use dataplane_common::abi::{Counter, DropReason};

use crate::{
    packet::{Headers, header_at},
    verdict::Outcome,
};

/// A packet at an XDP hook.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Frame {
    /// The program's context.
    pub xdp: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { xdp: ctx.ctx }
    }

    /// A 32-bit field of the context, as in `Packet`.
    #[inline(always)]
    fn field<const OFFSET: usize>(&self) -> u64 {
        let value: u64;
        // SAFETY: the context's fields are always readable.
        unsafe {
            asm!(
                "{value} = *(u32 *)({context} + {offset})",
                value = out(reg) value,
                context = in(reg) self.xdp,
                offset = const OFFSET,
                options(readonly, nostack, preserves_flags)
            );
        }
        value
    }

    /// Like `Packet::at`.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.field::<{ offset_of!(xdp_md, data) }>() as usize;
        header_at(start, self.field::<{ offset_of!(xdp_md, data_end) }>() as usize, offset)
    }

    /// What it counts as.
    #[inline(always)]
    pub fn size(&self) -> Counter {
        Counter { packets: 1, bytes: u64::from(self.length()) }
    }

    /// The device that received it.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.field::<{ offset_of!(xdp_md, ingress_ifindex) }>() as u32
    }
}

impl Headers for Frame {
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

    #[inline(always)]
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

    #[inline(always)]
    fn linearise(&self, _bytes: usize) {}

    #[inline(always)]
    fn length(&self) -> u32 {
        let start = self.field::<{ offset_of!(xdp_md, data) }>();
        (self.field::<{ offset_of!(xdp_md, data_end) }>() - start) as u32
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        false
    }
}
