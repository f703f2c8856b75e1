//! What a program did with a packet, and assertions on it.

use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use dataplane_common::abi::{Counter, DropReason, Path};
use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header};

use crate::frames::Frame;

/// What the program answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `TCX_NEXT`.
    Next,
    /// `TCX_DROP`.
    Drop,
    /// `TC_ACT_REDIRECT`, the answer of the redirect helpers.
    Redirect,
}

/// What a program did with a packet.
#[derive(Debug)]
#[must_use]
pub struct Outcome {
    pub verdict: Verdict,
    /// The path whose counter moved.
    pub path: Option<Path>,
    /// The drop reason whose counter moved.
    pub drop: Option<DropReason>,
    /// By how much the one counter moved; zero if none did.
    pub counted: Counter,
    /// How long the program took, as the kernel measures it.
    pub duration: Duration,
    /// What went in and what came out.
    pub input: Vec<u8>,
    pub frame: Vec<u8>,
    /// The next hop that a packet which leaves has in its Ethernet header. Without one it has the header that it came with,
    /// for the redirect writes it; `frame` shows that one either way.
    pub next_hop: Option<[u8; 6]>,
}

impl Outcome {
    /// Redirected on this path, as exactly these bytes.
    #[track_caller]
    pub fn redirected(self, path: Path, expected: &Frame) {
        self.redirected_bytes(path, &expected.bytes());
    }

    #[track_caller]
    pub fn redirected_bytes(self, path: Path, expected: &[u8]) {
        self.is(Verdict::Redirect, Some(path), None);
        assert_bytes(&self.frame, expected);
        self.counts(1);
    }

    /// Redirected on this path; how it looks is another test's question.
    #[track_caller]
    pub fn took(self, path: Path) {
        self.is(Verdict::Redirect, Some(path), None);
    }

    /// Redirected on this path; the bytes are looked at by the caller.
    #[track_caller]
    pub fn on_path(self, path: Path) -> Self {
        self.is(Verdict::Redirect, Some(path), None);
        self
    }

    /// Handed on untouched, counted under this path.
    #[track_caller]
    pub fn passed(self, path: Path) {
        let input = self.input.clone();
        self.passed_as(path, &input);
    }

    /// Handed on as exactly these bytes.
    #[track_caller]
    pub fn passed_as(self, path: Path, expected: &[u8]) {
        self.is(Verdict::Next, Some(path), None);
        assert_bytes(&self.frame, expected);
        self.counts(1);
    }

    /// Handed on untouched, counted nowhere.
    #[track_caller]
    pub fn ignored(self) {
        self.is(Verdict::Next, None, None);
        assert_bytes(&self.frame, &self.input);
    }

    /// Dropped for this reason, and untouched: a tap behind a drop sees what was sent.
    #[track_caller]
    pub fn dropped(self, reason: DropReason) {
        self.is(Verdict::Drop, None, Some(reason));
        assert_bytes(&self.frame, &self.input);
        self.counts(1);
    }

    /// Dropped for this reason, and the sender is told by this ICMP error, which this host sends from `source`.
    #[track_caller]
    pub fn refused(self, reason: DropReason, (kind, code, mtu): (u8, u8, u16), source: Ipv4Addr) {
        let (ip, rest) = Ipv4Header::from_slice(self.turned_back(reason)).expect("an IPv4 header");
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(
            (ip.source, ip.destination),
            (source.octets(), self.input[26..30].try_into().expect("four"))
        );
        assert_eq!(usize::from(ip.total_len), self.frame.len() - 14);
        assert_eq!((ip.protocol, ip.time_to_live), (IpNumber::ICMP, 64));
        assert_eq!(sum(rest), 0xffff, "the ICMP checksum");
        assert_eq!((rest[0], rest[1]), (kind, code));
        assert_eq!(u16::from_be_bytes([rest[6], rest[7]]), mtu);
        // As much as there was of the IP header and what the sender needs to find its socket.
        self.quotes(&rest[8..], 28);
    }

    /// The same by ICMPv6.
    #[track_caller]
    pub fn refused_v6(self, reason: DropReason, (kind, code, mtu): (u8, u8, u32), source: Ipv6Addr) {
        let (ip, rest) = Ipv6Header::from_slice(self.turned_back(reason)).expect("an IPv6 header");
        assert_eq!(
            (ip.source, ip.destination),
            (source.octets(), self.input[22..38].try_into().expect("sixteen"))
        );
        assert_eq!(usize::from(ip.payload_length), self.frame.len() - 54);
        assert_eq!((ip.next_header, ip.hop_limit), (IpNumber::IPV6_ICMP, 64));
        let pseudo = [&ip.source[..], &ip.destination, &(rest.len() as u32).to_be_bytes(), &[0, 0, 0, 58]];
        assert_eq!(sum(&[&pseudo.concat(), rest].concat()), 0xffff, "the ICMPv6 checksum");
        assert_eq!((rest[0], rest[1]), (kind, code));
        assert_eq!(u32::from_be_bytes(rest[4..8].try_into().expect("four")), mtu);
        self.quotes(&rest[8..], 48);
    }

    /// What is behind the Ethernet header of an error that goes back to whom the packet came from.
    #[track_caller]
    fn turned_back(&self, reason: DropReason) -> &[u8] {
        self.is(Verdict::Redirect, None, Some(reason));
        self.counts(1);
        let (ethernet, rest) = Ethernet2Header::from_slice(&self.frame).expect("Ethernet");
        assert_eq!((&ethernet.destination[..], &ethernet.source[..]), (&self.input[6..12], &self.input[..6]));
        rest
    }

    /// That this is the beginning of the packet that came in, so many bytes at least.
    #[track_caller]
    fn quotes(&self, quote: &[u8], least: usize) {
        assert!(quote.len() >= least, "it quotes {} bytes", quote.len());
        assert_bytes(quote, &self.input[14..14 + quote.len()]);
    }

    /// Counted as so many packets of all the bytes that came in.
    #[track_caller]
    pub fn counts_as(self, packets: u64) -> Self {
        self.counts(packets);
        self
    }

    #[track_caller]
    fn counts(&self, packets: u64) {
        assert_eq!(self.counted, Counter { packets, bytes: self.input.len() as u64 });
    }

    #[track_caller]
    fn is(&self, verdict: Verdict, path: Option<Path>, drop: Option<DropReason>) {
        assert_eq!(
            (self.verdict, self.path, self.drop),
            (verdict, path, drop),
            "the packet was\n{}",
            dump(&self.input, &self.input)
        );
    }

    /// The source port of what came out, an IPv4 packet without options.
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.frame[34], self.frame[35]])
    }
}

/// The one's complement sum of bytes; 0xffff where they hold their own checksum.
pub fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Compares frames; what differs is marked.
#[track_caller]
pub fn assert_bytes(actual: &[u8], expected: &[u8]) {
    assert!(
        actual == expected,
        "{} bytes, not the expected {}; expected, then what came out:\n{}{}",
        actual.len(),
        expected.len(),
        dump(expected, actual),
        dump(actual, expected)
    );
}

/// Sixteen bytes a line; a byte that is not the other's has a mark. Of long frames the headers, and what differs.
fn dump(bytes: &[u8], other: &[u8]) -> String {
    const HEADERS: usize = 112;
    let mut text = String::new();
    for (start, line) in (0..).step_by(16).zip(bytes.chunks(16)) {
        let marks = (start..).zip(line).map(|(at, byte)| (byte, other.get(at) != Some(byte)));
        if start < HEADERS || marks.clone().any(|(_, differs)| differs) {
            let _ = write!(text, "{start:4}:");
            for (byte, differs) in marks {
                let _ = write!(text, " {byte:02x}{}", if differs { '*' } else { ' ' });
            }
            text.push('\n');
        }
    }
    text + "\n"
}
