//! RFC 4787, NAT behavioural requirements for unicast UDP, on the wire. docs/rfc.md lists every requirement.

mod common;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use common::{
    nat::{CLIENT, HOST, Nat, OTHER, SHOP, Station, WEB, at},
    packet::{ICMP, Packet},
};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A datagram to a station of the client's; its external source.
fn external(from: &Station, port: u16, to: &Station, remote: u16) -> Result<std::net::SocketAddrV4> {
    Ok(from.reach(to, &Packet::udp(from.at(port), to.at(remote), b"out"))?.from())
}

/// An answer, which reaches the container.
fn answer(nat: &Nat, external: std::net::SocketAddrV4, port: u16, remote: u16) -> Result<()> {
    let back = Packet::udp(nat.client.at(remote), external, b"back");
    assert_eq!(nat.client.reach(&nat.web, &back)?.to(), at(WEB, port));
    Ok(())
}

/// REQ-1, REQ-2, REQ-10: one internal socket has one external address and port, whatever the destination; the payload is
/// nobody's business, addresses in it included.
#[test]
fn req1_mapping_is_endpoint_independent() -> Result<()> {
    let nat = Nat::new("req1")?;
    for port in [20_001, 40_001] {
        let first = external(&nat.web, port, &nat.client, 7001)?;
        assert_eq!(*first.ip(), HOST);
        for (to, remote) in [(&nat.client, 7002), (&nat.other, 7001), (&nat.other, 53)] {
            assert_eq!(external(&nat.web, port, to, remote)?, first);
        }
        let text = format!("PORT 10,10,0,10 {WEB}:{port} o=- IN IP4 {WEB}");
        let sent = Packet::udp(at(WEB, port), at(CLIENT, 21), text.as_bytes());
        assert_eq!(nat.web.reach(&nat.client, &sent)?.data(), text.as_bytes());
    }
    nat.finish()
}

/// REQ-3, REQ-11: two sockets never share an external port, also where both use one and the same; nothing about the
/// mapping is different for the one that had to take another.
#[test]
fn req3_no_port_overloading() -> Result<()> {
    let nat = Nat::new("req3")?;
    for port in [20_001, 40_001] {
        let of_web = external(&nat.web, port, &nat.client, 7001)?;
        let of_shop = external(&nat.shop, port, &nat.client, 7001)?;
        let of_side = external(&nat.side, port, &nat.other, 7002)?;
        assert!(of_web != of_shop && of_shop != of_side && of_web != of_side);
        for (station, had) in [(&nat.web, of_web), (&nat.shop, of_shop), (&nat.side, of_side)] {
            assert_eq!(external(station, port, &nat.other, 9000)?, had);
            nat.client.miss(station, &Packet::udp(at(CLIENT, 1), had, b"stranger"))?;
            let answer = nat.other.reach(station, &Packet::udp(at(OTHER, 9000), had, b"answer"))?;
            assert_eq!(answer.to(), station.at(port));
        }
    }
    nat.finish()
}

/// REQ-3a: ports from 1024 on get ports from 1024 on.
#[test]
fn req3a_unprivileged_ports_stay_unprivileged() -> Result<()> {
    let nat = Nat::new("req3a")?;
    for port in [1024, 5000, 32_767, 32_768, 65_535] {
        assert!(external(&nat.web, port, &nat.client, 7001)?.port() >= 1024);
    }
    nat.finish()
}

/// REQ-5: the defaults are the recommended five minutes, a shorter one is a warning, and a mapping lives as long as its
/// timer says, counted from the last packet.
#[test]
fn req5_mapping_lives_as_long_as_its_timer() -> Result<()> {
    let nat = Nat::new("req5")?;
    assert_eq!(nat.setting("udp_timeout_ns")?, 300_000_000_000);
    assert!(nat.it.daemon.json(&["status"])?["config"]["warnings"].as_array().is_some_and(Vec::is_empty));
    nat.finish()?;

    let nat = Nat::with("req5short", "", "timeouts: { udp: 2 }")?;
    assert_eq!(nat.setting("udp_timeout_ns")?, 2_000_000_000);
    let warnings = nat.it.daemon.json(&["status"])?["config"]["warnings"].to_string();
    assert!(warnings.contains("timeouts.udp is 2 s") && warnings.contains("RFC 4787 REQ-5"), "{warnings}");
    let mut conclusive = 0;
    for port in [20_001, 20_002, 20_003, 20_004, 20_005, 20_006] {
        let outside = external(&nat.web, port, &nat.client, 7001)?;
        // So soon after the first packet that the record does not take note of it.
        sleep(ms(900));
        let last = Instant::now();
        external(&nat.web, port, &nat.client, 7001)?;
        sleep(ms(1900));
        let back = Packet::udp(at(CLIENT, 7001), outside, b"back");
        nat.client.send(&back)?;
        // On a busy machine a sleep may take longer than it says.
        if last.elapsed() < ms(2000) {
            assert_eq!(nat.web.expect("what comes in time")?.to(), at(WEB, port));
            conclusive += 1;
        }
        if conclusive == 2 {
            sleep(ms(4300));
            nat.client.miss(&nat.web, &back)?;
            return nat.finish();
        }
    }
    anyhow::bail!("never in time: the machine is too busy")
}

/// REQ-6, REQ-6a: packets of either direction refresh.
#[test]
fn req6_both_directions_refresh() -> Result<()> {
    let nat = Nat::with("req6", "", "timeouts: { udp: 3 }")?;
    let (out, back) =
        (external(&nat.web, 20_001, &nat.client, 1)?, external(&nat.web, 20_002, &nat.client, 1)?);
    for _ in 0..4 {
        sleep(ms(1600));
        external(&nat.web, 20_001, &nat.client, 1)?;
        answer(&nat, back, 20_002, 1)?;
    }
    answer(&nat, out, 20_001, 1)?;
    nat.finish()
}

/// What strangers reach, for each kind of filtering.
fn filtering(title: &str, options: &str, same_address: bool, others: bool) -> Result<()> {
    let nat = Nat::with(title, options, "")?;
    let outside = external(&nat.web, 20_001, &nat.client, 7001)?;
    let cases = [(&nat.client, 7001, true), (&nat.client, 7002, same_address), (&nat.other, 7001, others)];
    for (from, port, heard) in cases {
        let packet = Packet::udp(from.at(port), outside, b"knock");
        if heard {
            assert_eq!(from.reach(&nat.web, &packet)?.to(), at(WEB, 20_001), "{options}");
            assert_eq!(
                nat.web.reach(from, &Packet::udp(at(WEB, 20_001), from.at(port), b"yes"))?.from(),
                outside
            );
        } else {
            from.miss(&nat.web, &packet)?;
        }
    }
    // A port that nobody has was never anybody's to open.
    nat.client.miss(&nat.web, &Packet::udp(at(CLIENT, 7001), at(HOST, 20_002), b"knock"))?;
    nat.finish()
}

/// REQ-8: address and port dependent, as the security of the containers asks.
#[test]
fn req8_filtering_is_strict_by_default() -> Result<()> {
    filtering("strict", "", false, false)
}

/// REQ-8: address dependent.
#[test]
fn req8_filtering_by_address() -> Result<()> {
    filtering("byaddress", "weft.filtering: address", true, false)
}

/// REQ-8: endpoint independent.
#[test]
fn req8_filtering_endpoint_independent() -> Result<()> {
    filtering("open", "weft.filtering: endpoint-independent", true, true)
}

/// REQ-9, REQ-9a: two containers reach each other by their external ports, each seen with its external address and port,
/// in one network and in two.
#[test]
fn req9_hairpinning() -> Result<()> {
    let nat = Nat::new("req9")?;
    for (number, peer) in [(0, &nat.shop), (1, &nat.side)] {
        for (one, two) in [(20_001, 20_002), (40_001, 40_001)] {
            let (one, two) = (one + 10 * number, two + 10 * number);
            let of_web = external(&nat.web, one, &nat.client, 3478)?;
            let of_peer = external(peer, two, &nat.client, 3478)?;
            // Strict filtering: whom one has not sent to is not heard.
            nat.web.miss(peer, &Packet::udp(at(WEB, one), of_peer, b"1"))?;
            let second = peer.reach(&nat.web, &Packet::udp(peer.at(two), of_web, b"2"))?;
            assert_eq!((second.from(), second.to()), (of_peer, at(WEB, one)));
            let third = nat.web.reach(peer, &Packet::udp(at(WEB, one), of_peer, b"3"))?;
            assert_eq!((third.from(), third.to()), (of_web, peer.at(two)));
        }
    }
    nat.finish()
}

/// REQ-12, REQ-12a, REQ-12b: unreachables reach the container, from whomever they are, and end nothing.
#[test]
fn req12_errors_arrive_and_end_nothing() -> Result<()> {
    let nat = Nat::new("req12")?;
    let sent = Packet::udp(at(WEB, 40_001), at(CLIENT, 7001), b"is anybody there?");
    let arrived = nat.web.reach(&nat.client, &sent)?;
    for router in [CLIENT, OTHER, std::net::Ipv4Addr::new(203, 0, 113, 9)] {
        for code in [0, 1, 3, 13] {
            let error = arrived.error(router, (3, code), (0, 0), 8);
            let got = nat.client.reach(&nat.web, &error)?;
            assert_eq!((got.kind(), got.source, got.destination), ((3, code), router, WEB));
            let quoted = got.quoted()?;
            assert_eq!((quoted.from(), quoted.to()), (at(WEB, 40_001), at(CLIENT, 7001)));
        }
    }
    answer(&nat, arrived.from(), 40_001, 7001)?;
    nat.finish()
}

/// REQ-13: what is too long is answered, with the MTU of the way; REQ-13a is not met: so is what might be fragmented.
#[test]
fn req13_fragmentation_needed() -> Result<()> {
    let nat = Nat::with("req13", "com.docker.network.driver.mtu: 1500", "")?;
    nat.it.host.ip("link set eth0 mtu 1400")?;
    let sent = Packet::udp(at(WEB, 20_001), at(CLIENT, 7001), &[0; 1400]);
    for dont_fragment in [true, false] {
        let sent = sent.clone().with(|packet| packet.dont_fragment = dont_fragment);
        let mut error = None;
        common::within(Duration::from_secs(5), "the container is told", || {
            nat.web.send(&sent)?;
            error = nat.web.hear(common::nat::QUIET, |packet| packet.protocol == ICMP)?;
            Ok(error.is_some())
        })?;
        let error = error.expect("heard");
        assert_eq!((error.kind(), u16::from_be_bytes([error.payload[6], error.payload[7]])), ((3, 4), 1400));
        assert_eq!((error.quoted()?.to(), error.quoted()?.dont_fragment), (sent.to(), dont_fragment));
    }
    nat.client.drain();
    external(&nat.web, 20_001, &nat.client, 7001)?;
    nat.finish()
}

/// REQ-14, in order: all pieces of a datagram arrive, both ways, with one identification.
#[test]
fn req14_fragments_in_order() -> Result<()> {
    let nat = Nat::new("req14")?;
    let data: Vec<u8> = (0..3000_u16).map(|byte| byte as u8).collect();
    let outside = external(&nat.web, 40_001, &nat.client, 7001)?;
    let out = Packet::udp(at(WEB, 40_001), at(CLIENT, 7001), &data);
    let back = Packet::udp(at(CLIENT, 7001), outside, &data);
    for (from, to, whole) in [(&nat.web, &nat.client, &out), (&nat.client, &nat.web, &back)] {
        let mut joined: Vec<u8> = Vec::new();
        let mut ids = Vec::new();
        for piece in whole.fragments(1024) {
            let got = from.reach(to, &piece)?;
            assert_eq!(
                (usize::from(got.offset) * 8, got.more_fragments),
                (joined.len(), piece.more_fragments)
            );
            joined.extend(&got.payload);
            ids.push((got.id, got.source, got.destination));
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        let whole = out.clone().with(|packet| {
            (packet.source, packet.destination, packet.payload) = (ids[0].1, ids[0].2, joined);
        });
        assert!(whole.is_intact() && whole.data() == data);
    }
    nat.finish()
}

/// REQ-14, out of order: so they do in every order, and sent twice.
#[test]
fn req14_fragments_out_of_order() -> Result<()> {
    let nat = Nat::new("req14order")?;
    let data: Vec<u8> = (0..3000_u16).map(|byte| byte as u8).collect();
    let outside = external(&nat.web, 40_001, &nat.client, 7001)?;
    let orders: [&[usize]; 6] =
        [&[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0], &[2, 1, 2, 0, 1, 0]];
    for (id, order) in (1..).zip(orders) {
        let out = Packet::udp(at(WEB, 40_001), at(CLIENT, 7001), &data).with(|packet| packet.id = id);
        let back = Packet::udp(at(CLIENT, 7001), outside, &data).with(|packet| packet.id = id);
        for (from, to, whole) in [(&nat.web, &nat.client, &out), (&nat.client, &nat.web, &back)] {
            let pieces = whole.fragments(1024);
            from.send_together(order.iter().map(|index| &pieces[*index]))?;
            let mut joined = vec![0; whole.payload.len()];
            let mut ends = None;
            for _ in order {
                let got = to.expect("a piece")?;
                let at = usize::from(got.offset) * 8;
                joined[at..at + got.payload.len()].copy_from_slice(&got.payload);
                let end = (got.id, got.source, got.destination);
                assert_eq!(*ends.get_or_insert(end), end, "{order:?}");
            }
            let (_, source, destination) = ends.expect("pieces");
            let arrived = whole.clone().with(|packet| {
                (packet.source, packet.destination, packet.payload) = (source, destination, joined);
            });
            assert!(arrived.is_intact() && arrived.data() == data, "{order:?}");
        }
    }
    nat.finish()
}

/// REQ-14a: a flood of first and later pieces that never become whole harms no whole packet and no datagram in order.
#[test]
fn req14a_a_flood_of_fragments() -> Result<()> {
    let nat = Nat::new("req14a")?;
    let outside = external(&nat.web, 20_001, &nat.client, 7001)?;
    let pieces = Packet::udp(at(SHOP, 20_002), at(OTHER, 9), &[0; 64]).fragments(32);
    for id in 1..=20_000_u16 {
        let piece = pieces[usize::from(id % 2)].clone();
        nat.shop.send(&piece.with(|packet| packet.id = id))?;
        if id % 100 == 0 {
            // Their buffers are not what is tried here.
            nat.client.drain();
            nat.other.drain();
            let back = Packet::udp(at(CLIENT, 7001), outside, &id.to_be_bytes());
            assert_eq!(nat.client.reach(&nat.web, &back)?.data(), id.to_be_bytes());
            for piece in
                Packet::udp(at(WEB, 20_001), at(CLIENT, 7001), &[1; 64]).with(|it| it.id = id).fragments(32)
            {
                nat.web.reach(&nat.client, &piece)?;
            }
        }
    }
    nat.finish()
}

/// RFC 7857 section 10, RFC 6864 section 5.3.1: datagrams of two containers that have one identification by chance have two
/// outside, where their pieces would else be put together.
#[test]
fn rfc7857_identifications_are_told_apart() -> Result<()> {
    let nat = Nat::new("ipid")?;
    let mut differ = 0;
    for id in 1..=8 {
        let mut seen = Vec::new();
        for from in [&nat.web, &nat.shop, &nat.side] {
            let sent = Packet::udp(from.at(20_001), at(CLIENT, 7001), &[0; 64]).with(|packet| packet.id = id);
            for piece in sent.fragments(32) {
                seen.push(from.reach(&nat.client, &piece)?.id);
            }
        }
        assert!(seen.chunks(3).all(|pieces| pieces[0] == pieces[1] && pieces[1] == pieces[2]), "{seen:?}");
        seen.dedup();
        differ += usize::from(seen.len() == 3);
    }
    // They are random: one in 22,000 of such threes may have two alike.
    assert!(differ >= 7, "{differ} of 8");
    nat.finish()
}
