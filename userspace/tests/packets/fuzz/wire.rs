//! What a packet says, read without a line of the programs' code.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use crate::{frames::crc32c, outcome::sum};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// Which part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

/// An IP packet in a frame. Places count from the beginning of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    pub is_v6: bool,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hops: u8,
    /// Behind all extension headers.
    pub protocol: u8,
    pub part: Part,
    /// Of the IP header.
    pub network: usize,
    /// Of the transport header.
    pub transport: usize,
    /// Where the packet ends, by its own word.
    pub end: usize,
}

/// The packet of an Ethernet frame; `None`: not IP, or not one that can be read.
pub fn read(frame: &[u8]) -> Option<Wire> {
    let wire = match (frame.get(12..14)?, frame.get(14)? >> 4) {
        ([0x08, 0x00], 4) => read_v4(frame, 14),
        ([0x86, 0xdd], 6) => read_v6(frame, 14),
        _ => None,
    }?;
    (wire.end <= frame.len() && wire.transport <= wire.end).then_some(wire)
}

fn word(frame: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?)))
}

/// The IPv4 packet here, which may be longer than what is there: an error quotes the beginning. Whether it says that it is
/// one is the reader's business.
pub fn read_v4(frame: &[u8], at: usize) -> Option<Wire> {
    let header = frame.get(at..at + 20)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if length < 20 {
        return None;
    }
    let fragment = word(frame, at + 6)?;
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    Some(Wire {
        is_v6: false,
        source: address(12).into(),
        destination: address(16).into(),
        hops: header[8],
        protocol: header[9],
        part: part(fragment & 0x1fff, fragment & 0x2000 != 0),
        network: at,
        transport: at + length,
        end: at + word(frame, at + 2)?,
    })
}

/// The same for IPv6. Of a later fragment the transport is what is behind the fragment header.
pub fn read_v6(frame: &[u8], at: usize) -> Option<Wire> {
    let header = frame.get(at..at + 40)?;
    let address = |at: usize| -> Option<Ipv6Addr> { Some(Ipv6Addr::from(*header.get(at..)?.first_chunk()?)) };
    let (mut protocol, mut transport, mut which) = (header[6], at + 40, Part::Whole);
    while matches!(protocol, 0 | 43 | 44 | 60) && which != Part::Later {
        let extension = frame.get(transport..transport + 8)?;
        let mut length = 8 + 8 * usize::from(extension[1]);
        if protocol == 44 {
            if which != Part::Whole {
                // A fragment of a fragment is nothing (RFC 8200 section 4.5).
                return None;
            }
            let fragment = word(extension, 2)?;
            (length, which) = (8, part(fragment >> 3, fragment & 1 != 0));
        }
        (protocol, transport) = (extension[0], transport + length);
    }
    Some(Wire {
        is_v6: true,
        source: address(8)?.into(),
        destination: address(24)?.into(),
        hops: header[7],
        protocol,
        part: which,
        network: at,
        transport,
        end: at + 40 + word(frame, at + 4)?,
    })
}

fn part(offset: usize, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    }
}

impl Wire {
    /// Where the addresses are.
    pub fn addresses(&self) -> Range<usize> {
        let (at, length) = if self.is_v6 { (8, 32) } else { (12, 8) };
        self.network + at..self.network + at + length
    }

    /// Where the time to live or hop limit is.
    pub fn hops_at(&self) -> usize {
        self.network + if self.is_v6 { 7 } else { 8 }
    }

    /// Where the ports are, or the identifier of an echo.
    pub fn ports(&self) -> Range<usize> {
        match self.protocol {
            ICMP | ICMPV6 => self.transport + 4..self.transport + 6,
            _ => self.transport..self.transport + 4,
        }
    }

    /// Where the transport checksum is, of a protocol whose checksum covers what translation changes.
    pub fn checksum(&self) -> Option<Range<usize>> {
        let at = self.transport
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                ICMP | ICMPV6 => 2,
                SCTP => return Some(self.transport + 8..self.transport + 12),
                _ => return None,
            };
        Some(at..at + 2)
    }

    /// What the IPv4 header sums up to, checksum included; right ones all to the same.
    pub fn header_sum(&self, frame: &[u8]) -> Option<u16> {
        let header = frame.get(self.network..self.network + usize::from(frame[self.network] & 0x0f) * 4)?;
        Some(sum(header) % 0xffff)
    }

    /// By how much a whole packet's SCTP checksum is wrong; `None`: there is none, or not all of what it covers.
    pub fn sctp_error(&self, frame: &[u8]) -> Option<u32> {
        let at = self.checksum().filter(|_| self.part == Part::Whole)?;
        let mut message = frame.get(self.transport..self.end)?.to_vec();
        let field = message.get_mut(at.start - self.transport..at.end - self.transport)?;
        let told = u32::from_le_bytes(*field.first_chunk()?);
        field.fill(0);
        (told != 0).then(|| told ^ crc32c(&message))
    }

    /// What pseudo-header and transport sum up to, checksum included, as far as they are there.
    pub fn transport_sum(&self, frame: &[u8]) -> u16 {
        let end = self.end.min(frame.len());
        let mut covered = frame[self.transport..end.max(self.transport)].to_vec();
        if self.protocol != ICMP {
            // An even number of bytes in front, or they would change places with their neighbours.
            let pseudo = [&frame[self.addresses()], &[0, self.protocol]].concat();
            covered.splice(0..0, pseudo);
        }
        sum(&covered) % 0xffff
    }
}
