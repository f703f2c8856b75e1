//! The other end of very many flows: a program that sends every UDP packet back to where it came from.

use std::{io, os::fd::OwnedFd};

use nix::net::if_::if_nametoindex;

use crate::bench::bpf::{Hook, Program, RETURN, Redirect, instruction};

/// Offsets in `struct __sk_buff`.
const DATA: i16 = 76;
const DATA_END: i16 = 80;
/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: i32 = 14 + 20 + 8;
/// What may be exchanged without a look at the checksums: each is a sum of the same numbers afterwards. Offsets of the two, and
/// the size as an opcode has it.
const EXCHANGED: [(i16, i16, u8); 4] = [
    // MAC addresses, in two parts.
    (0, 6, WORD),
    (4, 10, HALF),
    // IPv4 addresses.
    (26, 30, WORD),
    // Ports.
    (34, 36, HALF),
];
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;
/// BPF_LDX | BPF_MEM, BPF_STX | BPF_MEM.
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;

/// Attaches it to a device of this thread's namespace, until what is answered is dropped.
pub(super) fn attach(device: &str) -> io::Result<OwnedFd> {
    let ifindex = if_nametoindex(device)?;
    let exchange = EXCHANGED.iter().flat_map(|&(one, other, size)| {
        [
            instruction(LOAD | size, 4, 2, one, 0),
            instruction(LOAD | size, 5, 2, other, 0),
            instruction(STORE | size, 2, 5, one, 0),
            instruction(STORE | size, 2, 4, other, 0),
        ]
    });
    let mut code = vec![
        // r2 = data, r3 = data_end, r4 = data + HEADERS.
        instruction(LOAD, 2, 1, DATA, 0),
        instruction(LOAD, 3, 1, DATA_END, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, HEADERS),
        // Anything but UDP over IPv4 is the stack's: on to TCX_NEXT, behind the exchange and the redirect.
        instruction(0x2d, 4, 3, 4 + 16 + 4, 0),
        instruction(LOAD | HALF, 4, 2, 12, 0),
        instruction(0x55, 4, 0, 2 + 16 + 4, i32::from(0x0800_u16.to_be())),
        instruction(LOAD | BYTE, 4, 2, 23, 0),
        instruction(0x55, 4, 0, 16 + 4, 17),
    ];
    code.extend(exchange);
    code.extend([
        instruction(0xb7, 1, 0, 0, ifindex as i32),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0x85, 0, 0, 0, Redirect::Out as i32),
        RETURN,
        // TCX_NEXT.
        instruction(0xb7, 0, 0, 0, -1),
        RETURN,
    ]);
    Program::load(Hook::TcxIngress, &code)?.attach(ifindex)
}
