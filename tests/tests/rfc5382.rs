//! RFC 5382, NAT behavioural requirements for TCP, with what RFC 7857 says of sessions and resets, on the wire: every segment
//! is made by the test, and nobody's stack has a say. docs/rfc.md lists every requirement.

mod common;

use std::{
    net::SocketAddrV4,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use common::{
    nat::{CLIENT, HOST, Nat, OTHER, Station, WEB, at},
    packet::{ACK, FIN, Packet, RST, SYN},
    within,
};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A connection between a container's socket and one of the client's, through whatever external socket it gets.
struct Connection<'a> {
    nat: &'a Nat,
    inside: SocketAddrV4,
    remote: SocketAddrV4,
    external: SocketAddrV4,
}

impl<'a> Connection<'a> {
    /// Begins with a SYN of the container's.
    fn open(nat: &'a Nat, port: u16, remote: u16) -> Result<Self> {
        let (inside, remote) = (at(WEB, port), at(CLIENT, remote));
        let syn = nat.web.reach(&nat.client, &Packet::tcp(inside, remote, SYN, b""))?;
        Ok(Self { nat, inside, remote, external: syn.from() })
    }

    /// With the whole handshake.
    fn establish(nat: &'a Nat, port: u16, remote: u16) -> Result<Self> {
        let connection = Self::open(nat, port, remote)?;
        connection.back(SYN | ACK, b"")?;
        connection.out(ACK, b"")?;
        Ok(connection)
    }

    /// A segment of the container's, which must arrive as it is.
    fn out(&self, flags: u8, data: &[u8]) -> Result<()> {
        let sent = Packet::tcp(self.inside, self.remote, flags, data);
        let got = self.nat.web.reach(&self.nat.client, &sent)?;
        assert_eq!((got.from(), got.tcp_flags(), got.data()), (self.external, flags, data));
        Ok(())
    }

    /// A segment of the other end's.
    fn back(&self, flags: u8, data: &[u8]) -> Result<()> {
        let sent = Packet::tcp(self.remote, self.external, flags, data);
        let got = self.nat.client.reach(&self.nat.web, &sent)?;
        assert_eq!((got.to(), got.tcp_flags(), got.data()), (self.inside, flags, data));
        Ok(())
    }

    /// A segment that neither end has sent: its sequence number lies nowhere near the window.
    fn forged(&self, flags: u8) -> Result<()> {
        let sent = Packet::tcp(self.remote, self.external, flags, b"").sequence(0xdead_beef);
        assert_eq!(self.nat.client.reach(&self.nat.web, &sent)?.to(), self.inside);
        Ok(())
    }

    fn goes_on(&self) -> Result<()> {
        self.out(ACK, b"ping")?;
        self.back(ACK, b"pong")
    }

    fn is_gone(&self) -> Result<()> {
        self.nat.client.miss(&self.nat.web, &Packet::tcp(self.remote, self.external, ACK, b"late"))
    }

    /// As `weft flow ls` calls it.
    fn state(&self) -> Result<String> {
        let flows = self.nat.flows(self.external.port())?;
        let found = flows.iter().find(|flow| flow["remote_port"] == self.remote.port());
        let state = found.and_then(|flow| flow["state"].as_str());
        Ok(state.with_context(|| format!("no flow in {flows:?}"))?.to_owned())
    }
}

/// REQ-1, REQ-7: one internal socket has one external one, and no two share one.
#[test]
fn req1_mapping_is_endpoint_independent() -> Result<()> {
    let nat = Nat::new("tcpreq1")?;
    for port in [20_001, 40_001] {
        let syn = |from: &Station, to: &Station, remote| -> Result<SocketAddrV4> {
            Ok(from.reach(to, &Packet::tcp(from.at(port), to.at(remote), SYN, b""))?.from())
        };
        let first = syn(&nat.web, &nat.client, 80)?;
        assert_eq!(*first.ip(), HOST);
        for (to, remote) in [(&nat.client, 443), (&nat.other, 80), (&nat.other, 443)] {
            assert_eq!(syn(&nat.web, to, remote)?, first);
        }
        for another in [&nat.shop, &nat.side] {
            assert_ne!(syn(another, &nat.client, 80)?, first);
        }
    }
    // UDP's ports are others (RFC 7857 section 5).
    let udp = nat.shop.reach(&nat.client, &Packet::udp(nat.shop.at(20_001), at(CLIENT, 80), b""))?;
    assert_eq!(udp.source_port(), 20_001);
    nat.finish()
}

/// REQ-2: handshake, data, half close and close from either end, segment by segment.
#[test]
fn req2_valid_sequences() -> Result<()> {
    let nat = Nat::new("tcpreq2")?;
    for (port, container_first) in [(20_001, true), (20_002, false)] {
        let it = Connection::open(&nat, port, 80)?;
        assert_eq!(it.state()?, "unconfirmed");
        it.back(SYN | ACK, b"")?;
        assert_eq!(it.state()?, "unconfirmed", "its opener has not acknowledged");
        it.out(ACK, b"")?;
        assert_eq!(it.state()?, "established");
        it.goes_on()?;
        let fin = |first| if first { it.out(FIN | ACK, b"") } else { it.back(FIN | ACK, b"") };
        fin(container_first)?;
        assert_eq!(it.state()?, "established", "half closed");
        it.goes_on()?;
        fin(!container_first)?;
        assert_eq!(it.state()?, "closing");
        // The last acknowledgements, and what is sent again.
        it.out(ACK, b"")?;
        it.back(ACK, b"")?;
        assert_eq!(it.state()?, "closing");
    }
    nat.finish()
}

/// REQ-2a: both ends open at once, in either order of arrival.
#[test]
fn req2a_simultaneous_open() -> Result<()> {
    let nat = Nat::new("tcpreq2a")?;
    let it = Connection::open(&nat, 20_001, 80)?;
    it.back(SYN, b"")?;
    it.out(SYN | ACK, b"")?;
    it.back(SYN | ACK, b"")?;
    assert_eq!(it.state()?, "established");
    it.goes_on()?;
    // With the other end's SYN first, which strict filtering drops without a word; it comes again.
    Connection::open(&nat, 20_002, 80)?;
    let early = Packet::tcp(at(CLIENT, 81), at(HOST, 20_002), SYN, b"");
    nat.client.miss(&nat.web, &early)?;
    let it = Connection::open(&nat, 20_002, 81)?;
    nat.client.reach(&nat.web, &early)?;
    it.out(SYN | ACK, b"")?;
    it.back(SYN | ACK, b"")?;
    it.goes_on()?;
    nat.finish()
}

/// REQ-3, REQ-3a: filtering is strict, and an option of the network. A connection from outside that is let in is one like
/// any other (REQ-2).
#[test]
fn req3_filtering_is_an_option() -> Result<()> {
    let cases = [
        ("", false, false),
        ("weft.filtering: address", true, false),
        ("weft.filtering: endpoint-independent", true, true),
    ];
    for (options, same_address, others) in cases {
        let nat = Nat::with("tcpreq3", options, "")?;
        let external = Connection::open(&nat, 20_001, 80)?.external;
        for (from, heard) in [(&nat.client, same_address), (&nat.other, others)] {
            let syn = Packet::tcp(from.at(8081), external, SYN, b"");
            if !heard {
                from.miss(&nat.web, &syn)?;
                continue;
            }
            assert_eq!(from.reach(&nat.web, &syn)?.to(), at(WEB, 20_001), "{options}");
            for (flags, data) in [(SYN | ACK, ""), (ACK, "data"), (FIN | ACK, "")] {
                let answer = Packet::tcp(at(WEB, 20_001), from.at(8081), flags, data.as_bytes());
                assert_eq!(nat.web.reach(from, &answer)?.from(), external);
                from.reach(&nat.web, &Packet::tcp(from.at(8081), external, ACK, b""))?;
            }
        }
        nat.finish()?;
    }
    Ok(())
}

/// RFC 7857 section 6: what a container has opened for an address by one protocol is not open for the other, though both
/// have the same external port.
#[test]
fn rfc7857_filters_of_protocols_are_independent() -> Result<()> {
    let nat = Nat::with("filters", "weft.filtering: address", "")?;
    let syn = |from: SocketAddrV4, to| Packet::tcp(from, to, SYN, b"");
    let datagram = |from: SocketAddrV4, to| Packet::udp(from, to, b"knock");
    let inside = at(WEB, 20_001);
    let external = nat.web.reach(&nat.client, &syn(inside, nat.client.at(80)))?.from();
    assert_eq!(nat.web.reach(&nat.other, &datagram(inside, nat.other.at(80)))?.from(), external);
    nat.client.miss(&nat.web, &datagram(nat.client.at(8081), external))?;
    nat.other.miss(&nat.web, &syn(nat.other.at(8081), external))?;
    assert_eq!(nat.client.reach(&nat.web, &syn(nat.client.at(8081), external))?.to(), inside);
    assert_eq!(nat.other.reach(&nat.web, &datagram(nat.other.at(8081), external))?.to(), inside);
    nat.finish()
}

/// REQ-4: an unsolicited SYN for a mapped port is answered by nothing, not in six seconds and not later.
#[test]
fn req4_unsolicited_syns_are_not_answered() -> Result<()> {
    let nat = Nat::new("tcpreq4")?;
    let external = Connection::establish(&nat, 20_001, 80)?.external;
    nat.other.send(&Packet::tcp(at(OTHER, 8081), external, SYN, b""))?;
    let heard = nat.other.hear(ms(6500), |_| true)?;
    assert!(heard.is_none(), "{heard:?}");
    // Once the container has sent a SYN itself, the two have a connection.
    nat.web.reach(&nat.other, &Packet::tcp(at(WEB, 20_001), at(OTHER, 8081), SYN, b""))?;
    nat.other.reach(&nat.web, &Packet::tcp(at(OTHER, 8081), external, SYN, b""))?;
    nat.finish()
}

/// REQ-5, RFC 7857 section 2.1: the defaults, warnings for what is shorter, and each state on the wire with its own
/// timeout.
#[test]
fn req5_every_state_has_its_timeout() -> Result<()> {
    let nat = Nat::new("tcpdefaults")?;
    for (setting, seconds) in [
        ("tcp_established_timeout_ns", 7440),
        ("tcp_opening_timeout_ns", 240),
        ("tcp_closing_timeout_ns", 240),
    ] {
        assert_eq!(nat.setting(setting)?, seconds * 1_000_000_000, "{setting}");
    }
    nat.finish()?;

    let nat = Nat::with("tcpreq5", "", "timeouts: { tcp_opening: 2, tcp_closing: 4, tcp_established: 7 }")?;
    let warnings = nat.it.daemon.json(&["status"])?["config"]["warnings"].to_string();
    assert!(
        warnings.contains("tcp_established is 7 s") && warnings.contains("tcp_closing is 4 s"),
        "{warnings}"
    );
    // What follows a handshake, and when that began: on a busy machine the connections are far apart.
    type Then = fn(&Connection) -> Result<()>;
    let states: [(&str, u64, Then); 4] = [
        ("established", 7, |_| Ok(())),
        ("half closed", 7, |it| it.out(FIN | ACK, b"")),
        ("closed", 4, |it| it.out(FIN | ACK, b"").and_then(|()| it.back(FIN | ACK, b""))),
        ("reset", 4, |it| it.back(RST | ACK, b"")),
    ];
    let mut left = vec![("opening", 2, Instant::now(), Connection::open(&nat, 20_001, 80)?)];
    for (port, (state, timeout, then)) in (20_002..).zip(states) {
        let it = Connection::establish(&nat, port, 80)?;
        let since = Instant::now();
        then(&it)?;
        left.push((state, timeout, since, it));
    }
    // They are only looked at, never used: use would keep them.
    while !left.is_empty() {
        let flows = nat.it.daemon.json(&["flow", "ls"])?;
        let is_there = |it: &Connection| {
            let mut ports = flows.as_array().into_iter().flatten().map(|flow| &flow["external_port"]);
            ports.any(|port| *port == it.external.port())
        };
        let (there, ended) = left.into_iter().partition(|(.., it)| is_there(it));
        left = there;
        for (state, timeout, since, it) in ended {
            // Never early, and late by the sweep of a second, the second that times in records may be old, and a busy
            // machine.
            let (after, timeout) = (since.elapsed(), Duration::from_secs(timeout));
            assert!(after >= timeout && after < timeout + ms(5000), "{state} ended after {after:?}");
            it.is_gone()?;
        }
        for (state, timeout, since, _) in &left {
            assert!(since.elapsed() < Duration::from_secs(timeout + 5), "{state} never ended");
        }
        sleep(ms(50));
    }
    nat.finish()
}

/// REQ-8: two containers connect by their external ports.
#[test]
fn req8_hairpinning() -> Result<()> {
    let nat = Nat::with("tcpreq8", "weft.filtering: endpoint-independent", "")?;
    for (peer, port) in [(&nat.shop, 20_011), (&nat.side, 20_012)] {
        // The one that is called listens, and its mapping is known to the world.
        let called =
            nat.web.reach(&nat.client, &Packet::tcp(at(WEB, port), at(CLIENT, 80), SYN, b""))?.from();
        let syn = peer.reach(&nat.web, &Packet::tcp(peer.at(40_001), called, SYN, b""))?;
        assert_eq!((*syn.from().ip(), syn.to()), (HOST, at(WEB, port)));
        let seen = syn.from();
        for (flags, data) in [(SYN | ACK, ""), (ACK, "pong"), (FIN | ACK, "")] {
            let answer = nat.web.reach(peer, &Packet::tcp(at(WEB, port), seen, flags, data.as_bytes()))?;
            assert_eq!((answer.from(), answer.to(), answer.tcp_flags()), (called, peer.at(40_001), flags));
            let next = peer.reach(&nat.web, &Packet::tcp(peer.at(40_001), called, ACK, b"ping"))?;
            assert_eq!((next.from(), next.data()), (seen, b"ping".as_slice()));
        }
    }
    nat.finish()
}

/// REQ-9, REQ-10: unreachables of every code reach the container with what they quote as it was, and end neither the mapping
/// nor the connection.
#[test]
fn req9_req10_errors_arrive_and_end_nothing() -> Result<()> {
    let nat = Nat::new("tcpreq9")?;
    let it = Connection::establish(&nat, 40_001, 80)?;
    let sent = Packet::tcp(it.external, it.remote, ACK, b"data on its way");
    for code in 0..=15 {
        for quote in [8, 20, 35] {
            let error = sent.error(OTHER, (3, code), (0, 1400), quote);
            let got = nat.client.reach(&nat.web, &error)?;
            assert_eq!((got.kind(), got.destination), ((3, code), WEB));
            let quoted = got.quoted()?;
            assert_eq!((quoted.from(), quoted.to()), (it.inside, it.remote));
        }
        it.goes_on()?;
    }
    assert_eq!(it.state()?, "established");
    nat.finish()
}

/// RFC 7857 section 2.2: a RST is translated, and ends nothing before its time: what goes on after it was not reset.
#[test]
fn rfc7857_resets_are_not_believed() -> Result<()> {
    let nat = Nat::with("resets", "", "timeouts: { tcp_closing: 3 }")?;
    let it = Connection::establish(&nat, 20_001, 80)?;
    for _ in 0..2 {
        it.forged(RST)?;
        assert_eq!(it.state()?, "closing");
        sleep(ms(2000));
        it.goes_on()?;
        assert_eq!(it.state()?, "established");
    }
    // FIN from one end is no end either.
    it.forged(FIN | ACK)?;
    assert_eq!(it.state()?, "established");
    sleep(ms(5500));
    it.goes_on()?;
    // A reset of what never was opens nothing.
    nat.web.miss(&nat.client, &Packet::tcp(at(WEB, 20_009), at(CLIENT, 80), RST, b""))?;
    assert!(nat.flows(20_009)?.is_empty());
    nat.finish()
}

/// RFC 7857 section 2, RFC 9293 section 3.6.1: the same addresses and ports again begin cleanly, after every way to end and
/// after none.
#[test]
fn a_reused_five_tuple_starts_cleanly() -> Result<()> {
    let nat = Nat::with("reuse", "", "timeouts: { tcp_opening: 2, tcp_closing: 3 }")?;
    type End = fn(&Connection) -> Result<()>;
    let ends: [(&str, End); 5] = [
        ("closed", |it| it.out(FIN | ACK, b"").and_then(|()| it.back(FIN | ACK, b""))),
        ("reset by the container", |it| it.out(RST, b"")),
        ("reset by the other end", |it| it.back(RST | ACK, b"")),
        ("half closed", |it| it.out(FIN | ACK, b"")),
        ("left alone", |_| Ok(())),
    ];
    let again = |port, name: &str, end: End| {
        let again = Connection::open(&nat, port, 80)?;
        assert_eq!(again.external.port(), port, "{name}: it keeps its mapping");
        again.back(SYN | ACK, b"")?;
        again.out(ACK, b"")?;
        again.goes_on()?;
        assert_eq!(again.state()?, "established", "{name}");
        end(&again)
    };
    for (port, (name, end)) in (20_001..).zip(ends) {
        end(&Connection::establish(&nat, port, 80)?)?;
        again(port, name, end)?;
    }
    // When the record has gone, where it goes.
    for (port, (name, end)) in (20_001..).zip(&ends[..3]) {
        within(Duration::from_secs(15), "the record goes", || Ok(nat.flows(port)?.is_empty()))?;
        again(port, name, *end)?;
    }
    nat.finish()
}

/// The same from outside, to a published port; and a client that has forgotten its connection gets a new one by way of the
/// container's own answers (RFC 9293 section 3.5.1).
#[test]
fn a_reused_five_tuple_of_a_published_port_starts_cleanly() -> Result<()> {
    let nat = Nat::new("reusepublished")?;
    let (published, inside) = (at(HOST, 8080), at(WEB, 80));
    let segment = |port, from_client: bool, flags: u8| -> Result<()> {
        if from_client {
            let got = nat.client.reach(&nat.web, &Packet::tcp(at(CLIENT, port), published, flags, b""))?;
            assert_eq!((got.from(), got.to(), got.tcp_flags()), (at(CLIENT, port), inside, flags));
        } else {
            let got = nat.web.reach(&nat.client, &Packet::tcp(inside, at(CLIENT, port), flags, b""))?;
            assert_eq!((got.from(), got.to(), got.tcp_flags()), (published, at(CLIENT, port), flags));
        }
        Ok(())
    };
    let state = |port: u16| -> Result<String> {
        let flows = nat.flows(8080)?;
        let found = flows.iter().find(|flow| flow["remote_port"] == port);
        Ok(found.and_then(|flow| flow["state"].as_str()).context("no flow")?.to_owned())
    };
    let handshake = [(true, SYN), (false, SYN | ACK), (true, ACK)];
    let ends: [&[(bool, u8)]; 4] = [
        &[(true, FIN | ACK), (false, FIN | ACK), (true, ACK)],
        &[(false, RST | ACK)],
        &[(true, RST)],
        // The client has forgotten all: its SYN is answered by an acknowledgement, which it resets.
        &[(true, SYN), (false, ACK), (true, RST)],
    ];
    for (port, end) in (5001..).zip(ends) {
        for round in 0..3 {
            for (from_client, flags) in handshake {
                segment(port, from_client, flags)?;
            }
            assert_eq!(state(port)?, "established", "round {round} of {port}");
            for (from_client, flags) in end {
                segment(port, *from_client, *flags)?;
            }
            assert_eq!(state(port)?, "closing", "round {round} of {port}");
        }
    }
    nat.finish()
}

/// RFC 7857 section 7.1: what a container answers to unwanted packets, errors and resets, keeps no mapping alive.
#[test]
fn rfc7857_errors_and_resets_do_not_refresh() -> Result<()> {
    let nat = Nat::with("norefresh", "", "timeouts: { udp: 3, tcp_closing: 3 }")?;
    let out = Packet::udp(at(WEB, 20_001), at(CLIENT, 7), b"out");
    let back = Packet::udp(at(CLIENT, 7), nat.web.reach(&nat.client, &out)?.from(), b"back");
    let error = nat.client.reach(&nat.web, &back)?.error(WEB, (3, 3), (0, 0), 8);
    let it = Connection::establish(&nat, 20_002, 80)?;
    it.out(RST, b"")?;
    for _ in 0..14 {
        sleep(ms(500));
        nat.web.send(&error)?;
        nat.web.send(&Packet::tcp(it.inside, it.remote, RST, b""))?;
    }
    nat.client.miss(&nat.web, &back)?;
    it.is_gone()?;
    nat.finish()
}
