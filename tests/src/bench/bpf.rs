//! bpf(2), as far as the benchmarks need it: programs of a few instructions, and the time that programs take. Written out here,
//! but for the kernel's own types: the tests are to depend on nothing that weft's programs are made with.

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

/// Frames of one batch; the kernel's default.
const BATCH: u32 = 64;

/// Where a program runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    /// A device's driver.
    Xdp,
    /// tc, on what comes in.
    TcxIngress,
}

impl Hook {
    const fn program(self) -> bpf_prog_type {
        match self {
            Self::Xdp => bpf_prog_type::BPF_PROG_TYPE_XDP,
            Self::TcxIngress => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
        }
    }

    const fn attach(self) -> (bpf_attach_type, u32) {
        const DRIVER_MODE: u32 = 1 << 2;
        match self {
            Self::Xdp => (bpf_attach_type::BPF_XDP, DRIVER_MODE),
            Self::TcxIngress => (bpf_attach_type::BPF_TCX_INGRESS, 0),
        }
    }
}

/// Helpers that send a packet elsewhere (linux/bpf.h).
#[derive(Debug, Clone, Copy)]
pub(super) enum Redirect {
    /// Out by a device.
    Out = 23,
    /// In by the device's peer in another namespace.
    Peer = 155,
}

/// `struct bpf_insn` as a number: opcode, registers, offset and constant.
pub(super) const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    opcode as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (constant as u32 as u64) << 32
}

pub(super) const RETURN: u64 = instruction(0x95, 0, 0, 0, 0);

/// A loaded program.
#[derive(Debug)]
pub(super) struct Program {
    hook: Hook,
    descriptor: OwnedFd,
}

impl Program {
    pub(super) fn load(hook: Hook, code: &[u64]) -> io::Result<Self> {
        let mut attr = zeroed_attr();
        // SAFETY: the fields of this command; all are integers.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = hook.program() as u32;
        load.insn_cnt = code.len() as u32;
        load.insns = code.as_ptr() as u64;
        load.license = c"GPL".as_ptr() as u64;
        load.expected_attach_type = hook.attach().0 as u32;
        Ok(Self { hook, descriptor: command(bpf_cmd::BPF_PROG_LOAD, &mut attr)? })
    }

    /// One that sends all to this device.
    pub(super) fn redirecting(hook: Hook, helper: Redirect, ifindex: u32) -> io::Result<Self> {
        let code = [
            instruction(0xb7, 1, 0, 0, ifindex as i32),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0x85, 0, 0, 0, helper as i32),
            RETURN,
        ];
        Self::load(hook, &code)
    }

    /// Has a device of this thread's namespace run it, until the answer is dropped.
    pub(super) fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        let (attach, flags) = self.hook.attach();
        let mut attr = zeroed_attr();
        attr.link_create.__bindgen_anon_1.prog_fd = self.descriptor.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
        attr.link_create.attach_type = attach as u32;
        attr.link_create.flags = flags;
        command(bpf_cmd::BPF_LINK_CREATE, &mut attr)
    }

    /// Runs it on so many copies of a frame that this device of this thread's namespace seems to have received; what it does
    /// with them is done.
    pub(super) fn run_live(&self, frame: &[u8], ifindex: u32, packets: u32) -> io::Result<()> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let mut attr = zeroed_attr();
        // SAFETY: as in `load`.
        let test = unsafe { &mut attr.test };
        test.prog_fd = self.descriptor.as_raw_fd() as u32;
        test.data_in = frame.as_ptr() as u64;
        test.data_size_in = frame.len() as u32;
        test.ctx_in = context.as_ptr() as u64;
        test.ctx_size_in = size_of_val(&context) as u32;
        test.repeat = packets;
        test.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
        test.batch_size = BATCH;
        // SAFETY: a whole attribute, with addresses of what outlives the call.
        match unsafe { call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Has the kernel count the time of every eBPF program as long as it is kept. That costs each run of a program some 20 ns.
pub(super) fn count_time() -> io::Result<OwnedFd> {
    // BPF_STATS_RUN_TIME is 0.
    command(bpf_cmd::BPF_ENABLE_STATS, &mut zeroed_attr())
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of integers.
    unsafe { zeroed() }
}

/// # Safety
/// Every address in it must be valid for what the command does with it.
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> libc::c_long {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>()) }
}

/// For commands that answer a descriptor.
fn command(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the callers in this file; their addresses outlive the call.
    match unsafe { call(command, attr) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: new, and nobody else's.
        descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) }),
    }
}
