//! Proof that a measurement measured what it claims: the counters of weft's paths.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::measure::Kind;
use crate::Daemon;

/// A daemon whose counters a path must move.
#[derive(Debug, Clone)]
pub struct Witness {
    /// The daemon.
    pub daemon: Rc<Daemon>,
    /// The counter of packets from client to server.
    pub forward: &'static str,
    /// The counter of the replies; may be the same one.
    pub backward: &'static str,
    /// The counter of datagrams from client to server that the kernel was given in one buffer (UDP_SEGMENT).
    pub forward_buffers: &'static str,
}

/// How many packets a measurement sent, as far as it can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// From client to server, at least and at most.
    pub forward: (u64, u64),
    /// The other way.
    pub backward: (u64, u64),
}

/// What the counters of a witness read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    forward: u64,
    backward: u64,
}

impl Witness {
    /// As it is while this is measured.
    pub fn during(&self, kind: Kind) -> Self {
        let forward = if kind == Kind::UdpBulk { self.forward_buffers } else { self.forward };
        Self { forward, ..self.clone() }
    }

    /// Reads both counters.
    pub fn read(&self) -> Result<Reading> {
        let status = self.daemon.json(&["status"])?;
        let packets = |path: &str| {
            status["counters"][path]["packets"]
                .as_u64()
                .with_context(|| format!("`weft status` shows no counter of the path {path}"))
        };
        Ok(Reading { forward: packets(self.forward)?, backward: packets(self.backward)? })
    }

    /// Fails unless the counters moved by what was sent.
    pub fn check(&self, before: Reading, after: Reading, expected: Expected) -> Result<()> {
        compare((self.forward, self.backward), before, after, expected)
            .with_context(|| format!("weft with {}", self.daemon.file().display()))
    }
}

fn compare(paths: (&str, &str), before: Reading, after: Reading, expected: Expected) -> Result<()> {
    let forward = after.forward.saturating_sub(before.forward);
    let backward = after.backward.saturating_sub(before.backward);
    if paths.0 == paths.1 {
        // One counter for both directions.
        let both = |(a, b): (u64, u64), (c, d): (u64, u64)| (a + c, b + d);
        return judge(paths.0, forward, both(expected.forward, expected.backward));
    }
    judge(paths.0, forward, expected.forward)?;
    judge(paths.1, backward, expected.backward)
}

fn judge(path: &str, moved: u64, (least, most): (u64, u64)) -> Result<()> {
    ensure!(
        (least..=most).contains(&moved),
        "the counter {path} moved by {moved} packets, but {least} to {most} were sent: another path was measured"
    );
    Ok(())
}

impl Expected {
    /// Of `count` messages with an answer each.
    pub fn of_messages(count: u64) -> Self {
        // An answer that is late for once brings a delayed acknowledgement of its own.
        let range = (count, count + count / 2 + 100);
        Self { forward: range, backward: range }
    }

    /// Of `count` connections, each with one segment of data either way.
    pub fn of_connections(count: u64) -> Self {
        // Client: SYN, ACK, data, ACK or FIN; server: SYN, data, FIN. Bare acknowledgements come on top.
        let most = 8 * count + 100;
        Self { forward: (4 * count, most), backward: (3 * count, most) }
    }

    /// Of `count` requests over connections that stay, each with an answer.
    pub fn of_requests(count: u64) -> Self {
        // Each is a segment of its own, with an acknowledgement at most; connections and their first requests come on top.
        let range = (count, 2 * count + 1000);
        Self { forward: range, backward: range }
    }

    /// Of datagrams one way: those that arrived passed, and of the others some.
    pub fn of_flood(arrived: u64, sent: u64) -> Self {
        Self { forward: (arrived, sent + 100), backward: (0, 100) }
    }

    /// With the ways exchanged.
    pub fn back(self) -> Self {
        Self { forward: self.backward, backward: self.forward }
    }

    /// Of `bytes` of bulk data, in segments for this MTU.
    pub fn of_bulk(bytes: u64, mtu: u64) -> Self {
        // IPv4 and TCP headers with timestamps (RFC 7323). GSO packets count as the segments they stand for.
        let segments = bytes / (mtu.saturating_sub(52)).max(1);
        // Segments need not be full; retransmissions and the last window of an aborted stream come on top. Twice as many would
        // be packets that were counted twice.
        let most = segments + segments * 3 / 4 + 10_000;
        Self { forward: (segments - segments / 50, most), backward: (1, most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_did_not_carry_the_packets_is_found_out() {
        let at = |forward, backward| Reading { forward, backward };
        let expected = Expected::of_messages(1000);
        let out_and_in = ("masquerade_out", "masquerade_in");
        assert!(compare(out_and_in, at(5, 5), at(1005, 1007), expected).is_ok());
        assert!(
            compare(out_and_in, at(5, 5), at(1005, 5), expected).is_err(),
            "the replies went another way"
        );
        assert!(compare(out_and_in, at(5, 5), at(500, 1005), expected).is_err());
        assert!(compare(out_and_in, at(0, 0), at(9000, 1000), expected).is_err(), "counted too often");
        let bridge = ("bridge", "bridge");
        assert!(compare(bridge, at(0, 0), at(2000, 2000), expected).is_ok());
        assert!(compare(bridge, at(0, 0), at(1000, 1000), expected).is_err());
    }

    #[test]
    fn expected_packets() {
        assert_eq!(Expected::of_messages(1000).forward, (1000, 1600));
        assert_eq!(Expected::of_connections(10).backward, (30, 180));
        assert_eq!(Expected::of_flood(5, 10).back().backward, (5, 110));
        let bulk = Expected::of_bulk(1448 * 100_000, 1500);
        assert_eq!((bulk.forward, bulk.backward.0), ((98_000, 185_000), 1));
    }
}
