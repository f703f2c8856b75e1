//! XDP programs of a few instructions: the generator, and the floors that weft is compared with.

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

/// Answers of a program (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The driver frees the packet.
    Drop = 1,
    /// It goes back out by the device.
    Transmit = 3,
}

/// Bytes of the packet that the generator writes.
pub const FRAME: usize = 60;

/// Frames of one batch; the kernel's default.
const BATCH: u32 = 64;

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// `struct bpf_insn` as a number: opcode, registers, offset and constant.
const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    opcode as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (constant as u32 as u64) << 32
}

const RETURN: u64 = instruction(0x95, 0, 0, 0, 0);

const fn answer(action: Action) -> u64 {
    instruction(0xb7, 0, 0, 0, action as i32)
}

impl Program {
    /// One that always answers this.
    pub fn always(action: Action) -> io::Result<Self> {
        Self::load(&[answer(action), RETURN])
    }

    /// One that sends all out by this device.
    pub fn redirecting(ifindex: u32) -> io::Result<Self> {
        const BPF_REDIRECT: i32 = 23;
        Self::load(&[
            instruction(0xb7, 1, 0, 0, ifindex as i32),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0x85, 0, 0, 0, BPF_REDIRECT),
            RETURN,
        ])
    }

    /// One that writes this frame, and sends it out by the device it came in by. Each time: the kernel gives it the same
    /// pages again, as the receiver has left them.
    pub fn generator(frame: &[u8; FRAME]) -> io::Result<Self> {
        let mut code = vec![
            // r2 = data, r3 = data_end, r4 = data + FRAME.
            instruction(0x61, 2, 1, 0, 0),
            instruction(0x61, 3, 1, 4, 0),
            instruction(0xbf, 4, 2, 0, 0),
            instruction(0x07, 4, 0, 0, FRAME as i32),
            answer(Action::Drop),
        ];
        let (words, rest) = frame.as_chunks::<8>();
        let after = 3 * words.len() + 2;
        // If r4 > r3 leave.
        code.push(instruction(0x2d, 4, 3, i16::try_from(after).unwrap_or(i16::MAX), 0));
        for (at, word) in (0..).step_by(8).zip(words) {
            let word = u64::from_ne_bytes(*word);
            code.push(instruction(0x18, 5, 0, 0, word as u32 as i32));
            code.push(instruction(0, 0, 0, 0, (word >> 32) as u32 as i32));
            code.push(instruction(0x7b, 2, 5, at, 0));
        }
        let last = rest.first_chunk().map_or(0, |last| i32::from_ne_bytes(*last));
        code.push(instruction(0x62, 2, 0, (FRAME - 4) as i16, last));
        code.push(answer(Action::Transmit));
        code.push(RETURN);
        Self::load(&code)
    }

    fn load(code: &[u64]) -> io::Result<Self> {
        let mut attr = zeroed_attr();
        // SAFETY: the fields of this command; all are integers.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
        load.insn_cnt = code.len() as u32;
        load.insns = code.as_ptr() as u64;
        load.license = c"GPL".as_ptr() as u64;
        load.expected_attach_type = bpf_attach_type::BPF_XDP as u32;
        bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(Self)
    }

    /// Has the driver of a device of this thread's namespace run it, until the answer is dropped.
    pub fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        const DRIVER_MODE: u32 = 1 << 2;
        let mut attr = zeroed_attr();
        attr.link_create.__bindgen_anon_1.prog_fd = self.0.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
        attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
        attr.link_create.flags = DRIVER_MODE;
        bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
    }

    /// Runs it on so many packets that this device of this thread's namespace seems to have received; what it does with them
    /// is done.
    pub fn run_live(&self, ifindex: u32, packets: u32) -> io::Result<()> {
        let frame = [0_u8; FRAME];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, FRAME as u32, 0, ifindex, 0, 0];
        let mut attr = zeroed_attr();
        // SAFETY: as in `load`.
        let test = unsafe { &mut attr.test };
        test.prog_fd = self.0.as_raw_fd() as u32;
        test.data_in = frame.as_ptr() as u64;
        test.data_size_in = FRAME as u32;
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
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the callers in this file; their addresses outlive the call.
    match unsafe { call(command, attr) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: new, and nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}
