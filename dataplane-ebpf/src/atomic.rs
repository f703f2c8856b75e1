//! Atomic operations on map values. The BPF target of rustc declares none although BPF v3 has them, so these are the
//! compiler's intrinsics (rust-lang/rust#58331 tracks the target's atomics).

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg, atomic_xadd};

/// Adds to a counter that several CPUs share.
///
/// # Safety
/// `counter` is an aligned field of a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u32, u32, { Relaxed }>(counter, value) };
}

/// Writes `new` if the field still holds `old`. Answers whether it did.
///
/// # Safety
/// `field` is an aligned field of a map value.
#[inline(always)]
pub unsafe fn replace(field: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(field, old, new) }.1
}
