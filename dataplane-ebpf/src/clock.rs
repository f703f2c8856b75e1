//! The time, for every packet of every flow.

use crate::{helpers, maps};

/// The last look at the clock on this CPU.
#[repr(C)]
pub struct Clock {
    ticks: u64,
    now_ns: u64,
}

/// As [`helpers::now_ns`], which moves with the kernel's ticks: in the same tick it need not be asked again, and a look at the
/// ticks is no call.
#[inline(always)]
pub fn now_ns() -> u64 {
    let Some(scratch) = maps::scratch() else { return helpers::now_ns() };
    let clock = &mut scratch.clock;
    let ticks = helpers::ticks();
    if clock.ticks != ticks {
        clock.ticks = ticks;
        clock.now_ns = helpers::now_ns();
    }
    clock.now_ns
}
