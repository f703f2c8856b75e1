//! IPv4 packets as tests write and read them.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// An IPv4 packet. What is behind the IP header is bytes, with the accessors for what tests ask of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub type_of_service: u8,
    pub ttl: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In units of eight bytes.
    pub offset: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// The one's complement sum (RFC 1071).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Packet {
    fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        let mut packet = Self {
            source,
            destination,
            protocol,
            type_of_service: 0,
            ttl: 64,
            id: 0x1234,
            dont_fragment: true,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
            payload,
        };
        packet.fill_checksum();
        packet
    }

    pub fn udp(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Self {
        let length = u16::try_from(8 + data.len()).expect("short");
        let header = [from.port(), to.port(), length, 0];
        let header = header.into_iter().flat_map(u16::to_be_bytes);
        Self::new(*from.ip(), *to.ip(), UDP, header.chain(data.iter().copied()).collect())
    }

    pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8, data: &[u8]) -> Self {
        let mut header = Vec::new();
        header.extend(from.port().to_be_bytes());
        header.extend(to.port().to_be_bytes());
        header.extend(1000_u32.to_be_bytes());
        header.extend(if flags & ACK == 0 { [0; 4] } else { 2000_u32.to_be_bytes() });
        header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        header.extend(data);
        Self::new(*from.ip(), *to.ip(), TCP, header)
    }

    /// An ICMP message; `rest`: the second word of its header.
    pub fn icmp(from: Ipv4Addr, to: Ipv4Addr, (kind, code): (u8, u8), rest: (u16, u16), body: &[u8]) -> Self {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest.0.to_be_bytes());
        message.extend(rest.1.to_be_bytes());
        message.extend(body);
        Self::new(from, to, ICMP, message)
    }

    pub fn echo_request(from: Ipv4Addr, to: Ipv4Addr, id: u16) -> Self {
        Self::icmp(from, to, (8, 0), (id, 1), b"echo")
    }

    /// The answer of whom this request has reached.
    pub fn echo_reply(&self) -> Self {
        Self::icmp(self.destination, self.source, (0, 0), (self.identifier(), 1), &self.payload[8..])
    }

    /// An error about this packet from somebody, who quotes its header and so much of the rest.
    pub fn error(&self, from: Ipv4Addr, kind: (u8, u8), rest: (u16, u16), quote: usize) -> Self {
        let bytes = self.bytes();
        let quoted = bytes.len().min(20 + self.options.len() + quote);
        Self::icmp(from, self.source, kind, rest, &bytes[..quoted])
    }

    /// What this ICMP error quotes, checksum of its transport part not looked at.
    pub fn quoted(&self) -> Result<Self> {
        Self::parse(&self.payload[8..])
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// A TCP segment with another sequence number.
    pub fn sequence(self, number: u32) -> Self {
        self.with(|packet| {
            packet.payload[4..8].copy_from_slice(&number.to_be_bytes());
            packet.fill_checksum();
        })
    }

    /// A datagram without checksum (RFC 768).
    pub fn without_checksum(self) -> Self {
        self.with(|packet| packet.payload[6..8].fill(0))
    }

    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }

    pub fn to_port(&self) -> u16 {
        u16::from_be_bytes([self.payload[2], self.payload[3]])
    }

    pub fn from(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.source, self.source_port())
    }

    pub fn to(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.destination, self.to_port())
    }

    /// Of an ICMP query.
    pub fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.payload[4], self.payload[5]])
    }

    /// Type and code of an ICMP message.
    pub fn kind(&self) -> (u8, u8) {
        (self.payload[0], self.payload[1])
    }

    pub fn tcp_flags(&self) -> u8 {
        self.payload[13]
    }

    /// Behind the UDP or TCP header.
    pub fn data(&self) -> &[u8] {
        &self.payload[if self.protocol == TCP { 20 } else { 8 }..]
    }

    fn pseudo_header(&self) -> [u8; 12] {
        let (s, d) = (self.source.octets(), self.destination.octets());
        let length = u16::try_from(self.payload.len()).expect("short").to_be_bytes();
        [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], 0, self.protocol, length[0], length[1]]
    }

    fn fill_checksum(&mut self) {
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        self.payload[at..at + 2].fill(0);
        let pseudo = if self.protocol == ICMP { Vec::new() } else { self.pseudo_header().to_vec() };
        let sum = checksum(&[&pseudo, &self.payload]);
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Whether the transport checksum of a whole packet is right, or there is none.
    pub fn is_intact(&self) -> bool {
        match self.protocol {
            ICMP => checksum(&[&self.payload]) == 0,
            UDP if self.payload[6..8] == [0, 0] => true,
            _ => checksum(&[&self.pseudo_header(), &self.payload]) == 0,
        }
    }

    /// In pieces with so many bytes behind the IP header, a multiple of eight.
    pub fn fragments(&self, size: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(size);
        let pieces = self.payload.chunks(size).enumerate();
        let piece = |(index, bytes): (usize, &[u8])| Self {
            payload: bytes.to_vec(),
            offset: u16::try_from(index * size / 8).expect("short"),
            more_fragments: index + 1 < count,
            dont_fragment: false,
            options: self.options.clone(),
            ..*self
        };
        pieces.map(piece).collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = u16::try_from(header + self.payload.len()).expect("short");
        let fragment =
            self.offset | u16::from(self.more_fragments) << 13 | u16::from(self.dont_fragment) << 14;
        let mut bytes = vec![0x40 | u8::try_from(header / 4).expect("short"), self.type_of_service];
        bytes.extend(length.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let sum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// Reads a packet, which may be cut short behind its header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= 20 && bytes[0] >> 4 == 4, "no IPv4 packet");
        let header = usize::from(bytes[0] & 15) * 4;
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]])).min(bytes.len());
        ensure!(header >= 20 && length >= header, "a packet cut short");
        ensure!(checksum(&[&bytes[..header]]) == 0, "a wrong checksum of an IP header");
        let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Ok(Self {
            source: address(12),
            destination: address(16),
            protocol: bytes[9],
            type_of_service: bytes[1],
            ttl: bytes[8],
            id: u16::from_be_bytes([bytes[4], bytes[5]]),
            dont_fragment: fragment & 0x4000 != 0,
            more_fragments: fragment & 0x2000 != 0,
            offset: fragment & 0x1fff,
            options: bytes[20..header].to_vec(),
            payload: bytes[header..length].to_vec(),
        })
    }
}
