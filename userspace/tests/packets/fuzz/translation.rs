//! What must hold of every packet that is translated.

use super::{
    judge::{Judgement, ensure},
    wire::{self, ICMP, ICMPV6, Part, SCTP, UDP, Wire},
};

/// The packet with other addresses and ports and one hop less, and nothing else: whatever its checksums were worth, they
/// are worth the same.
pub fn translated(input: &[u8], output: &[u8]) -> Judgement {
    let before = wire::read(input).ok_or("translated, and cannot be read")?;
    let after = wire::read(output).ok_or("translated to what cannot be read")?;
    ensure(after.hops == before.hops.wrapping_sub(1) && before.hops > 1, || {
        format!("{} hops became {}", before.hops, after.hops)
    })?;
    let mut expected = input.to_vec();
    let mut may_differ = |from: usize, to: usize| {
        let to = to.min(input.len()).min(output.len());
        if from < to {
            expected[from..to].copy_from_slice(&output[from..to]);
        }
    };
    let at = before.network;
    may_differ(0, 12);
    may_differ(before.hops_at(), before.hops_at() + 1);
    may_differ(before.addresses().start, before.addresses().end);
    if !before.is_v6 {
        may_differ(at + 10, at + 12);
        if before.part != Part::Whole {
            may_differ(at + 4, at + 6);
        }
    }
    let quoted = quoted(input, &before);
    if before.part != Part::Later {
        if let Some(checksum) = before.checksum() {
            may_differ(checksum.start, checksum.end);
        }
        match quoted {
            None => may_differ(before.ports().start, before.ports().end),
            Some(quoted) => {
                may_differ(quoted.addresses().start, quoted.addresses().end);
                may_differ(quoted.ports().start, quoted.ports().end);
                if !quoted.is_v6 {
                    may_differ(quoted.network + 10, quoted.network + 12);
                }
                if let Some(checksum) = quoted.checksum() {
                    may_differ(checksum.start, checksum.end);
                }
            }
        }
    }
    ensure(expected == output, || "more has changed than addresses and ports".to_owned())?;
    match quoted {
        // The quotation reaches into what is no part of the packet, by its own word. Such a packet is nothing that anybody
        // sends, and its checksum does not cover what is translated.
        Some(quoted) if reach(&quoted, input) > before.end => return Ok(()),
        _ => sums(input, output, &before)?,
    }
    match quoted {
        Some(quoted) => sums(input, output, &quoted).map_err(|wrong| format!("quoted: {wrong}")),
        None => Ok(()),
    }
}

/// Where the part of a quoted packet ends that is translated.
fn reach(quoted: &Wire, frame: &[u8]) -> usize {
    let checksum = quoted.checksum().map_or(0, |at| at.end);
    if checksum <= frame.len() { checksum.max(quoted.transport + 8) } else { quoted.transport + 8 }
}

/// That the checksums of a packet are off by as much as they were.
fn sums(input: &[u8], output: &[u8], wire: &Wire) -> Judgement {
    if !wire.is_v6 {
        ensure(wire.header_sum(input) == wire.header_sum(output), || "the IPv4 checksum".to_owned())?;
    }
    let Some(checksum) = wire.checksum().filter(|at| at.end <= input.len()) else { return Ok(()) };
    if wire.part == Part::Later {
        return Ok(());
    }
    if wire.protocol == SCTP {
        let (before, after) = (wire.sctp_error(input), wire.sctp_error(output));
        return ensure(before == after, || format!("the SCTP checksum: {before:x?} became {after:x?}"));
    }
    let is_absent = wire.protocol == UDP && input[checksum.clone()] == [0, 0];
    if is_absent {
        return ensure(output[checksum] == [0, 0], || "a UDP checksum from nothing".to_owned());
    }
    ensure(wire.transport_sum(input) == wire.transport_sum(output), || "the transport checksum".to_owned())?;
    ensure(wire.protocol != UDP || output[checksum] != [0, 0], || "a UDP checksum became none".to_owned())
}

/// The packet that an ICMP error quotes, as far as the programs look: not behind extension headers.
fn quoted(frame: &[u8], wire: &Wire) -> Option<Wire> {
    let kind = *frame.get(wire.transport)?;
    let at = wire.transport + 8;
    if wire.part == Part::Later {
        return None;
    }
    let quoted = match (wire.protocol, wire.is_v6) {
        (ICMP, false) if matches!(kind, 3 | 4 | 5 | 11 | 12) => wire::read_v4(frame, at),
        (ICMPV6, true) if kind < 128 => wire::read_v6(frame, at),
        _ => None,
    }?;
    // The quotation ends where the frame does.
    (quoted.transport + 8 <= frame.len()).then_some(Wire { end: frame.len(), ..quoted })
}
