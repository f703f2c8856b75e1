//! A packet at an XDP hook: bytes as a NIC's driver received them, before the kernel makes a packet of its own of them.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use dataplane_common::abi::Counter;

use crate::packet::{Headers, context_field};

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

    /// What it counts as.
    #[inline(always)]
    pub fn size(&self) -> Counter {
        Counter { packets: 1, bytes: u64::from(self.length()) }
    }

    /// The device that received it.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        context_field!(self.xdp, xdp_md, ingress_ifindex) as u32
    }
}

impl Headers for Frame {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let start = context_field!(self.xdp, xdp_md, data);
        (start as usize, context_field!(self.xdp, xdp_md, data_end) as usize)
    }

    /// Nothing: what is not in the first buffer is left to tc.
    #[inline(always)]
    fn linearise(&self, _bytes: usize) {}

    #[inline(always)]
    fn length(&self) -> u32 {
        let (start, end) = self.bounds();
        (end - start) as u32
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        false
    }
}
