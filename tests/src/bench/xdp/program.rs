//! XDP programs of a few instructions: the generator, and the floors that weft is compared with.

use std::io;

use crate::bench::bpf::{Hook, Program, RETURN, instruction};

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

const fn answer(action: Action) -> u64 {
    instruction(0xb7, 0, 0, 0, action as i32)
}

/// One that always answers this.
pub(super) fn always(action: Action) -> io::Result<Program> {
    Program::load(Hook::Xdp, &[answer(action), RETURN])
}

/// One that writes this frame, and sends it out by the device it came in by. Each time: the kernel gives it the same pages
/// again, as the receiver has left them.
pub(super) fn generator(frame: &[u8; FRAME]) -> io::Result<Program> {
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
    Program::load(Hook::Xdp, &code)
}
