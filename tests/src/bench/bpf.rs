//! bpf(2), as far as the benchmarks need it.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use anyhow::Result;

/// `BPF_PROG_LOAD` and the others of include/uapi/linux/bpf.h.
pub(super) const PROG_LOAD: i32 = 5;
pub(super) const LINK_CREATE: i32 = 28;
pub(super) const ENABLE_STATS: i32 = 32;

/// A command that gives a file descriptor. The attributes are the beginning of `union bpf_attr`; what is not given is 0.
pub(super) fn command<T>(command: i32, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: The attributes, and what they point to, live until the call returns; the kernel only reads them, as many bytes
    // as it is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let descriptor = RawFd::try_from(result)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: The kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Has the kernel count the time of every eBPF program as long as it is kept. That costs each run of a program some 20 ns.
pub(super) fn count_time() -> Result<OwnedFd> {
    // BPF_STATS_RUN_TIME
    command(ENABLE_STATS, &0_u32)
}
