//! RFC 5508, NAT behavioural requirements for ICMP, on the wire. docs/rfc.md lists every requirement.

mod common;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use common::{
    nat::{CLIENT, HOST, Nat, OTHER, WEB, at},
    packet::{Packet, SYN, checksum},
};
use tests::Lab;

const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What of the container's datagram arrived outside; its external port differs.
fn opened(nat: &Nat) -> Result<Packet> {
    nat.web.reach(&nat.client, &Packet::udp(at(WEB, 40_001), at(CLIENT, 7001), &[7; 200]))
}

/// REQ-1, REQ-1a: requests and their answers pass, and the identifier does not depend on whom is asked; that of another
/// container never is the same.
#[test]
fn req1_queries_pass() -> Result<()> {
    let nat = Nat::new("icmpreq1")?;
    let mut used = Vec::new();
    for from in [&nat.web, &nat.shop, &nat.side] {
        let mut external = Vec::new();
        for to in [&nat.client, &nat.other] {
            for _ in 0..2 {
                let request = from.reach(to, &Packet::echo_request(from.address, to.address, 7))?;
                assert_eq!(request.source, HOST);
                external.push(request.identifier());
                let answer = to.reach(from, &request.echo_reply())?;
                assert_eq!((answer.identifier(), answer.source, answer.kind()), (7, to.address, (0, 0)));
            }
        }
        external.dedup();
        assert_eq!(external.len(), 1);
        used.push(external[0]);
    }
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 3);
    // A reply without a request leads nowhere.
    let stray = Packet::icmp(OTHER, HOST, (0, 0), (used[0] ^ 0x5555, 1), b"echo");
    nat.other.miss(&nat.web, &stray)?;
    nat.finish()
}

/// REQ-2, REQ-2a: 60 s by default, configurable, and kept as long as it says.
#[test]
fn req2_queries_live_as_long_as_their_timer() -> Result<()> {
    let nat = Nat::new("icmpdefault")?;
    assert_eq!(nat.setting("icmp_query_timeout_ns")?, 60_000_000_000);
    nat.finish()?;
    let nat = Nat::with("icmpreq2", "", "timeouts: { icmp_query: 2 }")?;
    for id in 7..13 {
        let ask = || nat.web.reach(&nat.client, &Packet::echo_request(WEB, CLIENT, id));
        ask()?;
        sleep(ms(900));
        let last = Instant::now();
        let request = ask()?;
        sleep(ms(1900));
        nat.client.send(&request.echo_reply())?;
        // On a busy machine a sleep may take longer than it says.
        if last.elapsed() < ms(2000) {
            assert_eq!(nat.web.expect("what comes in time")?.identifier(), id);
            sleep(ms(4300));
            nat.client.miss(&nat.web, &request.echo_reply())?;
            return nat.finish();
        }
    }
    anyhow::bail!("never in time: the machine is too busy")
}

/// REQ-3 is not met: a damaged error is passed on. It stays damaged, for its checksum is updated and not made anew, so that
/// the container's stack drops it; nothing else is harmed.
#[test]
fn req3_damaged_errors_stay_damaged() -> Result<()> {
    let nat = Nat::new("icmpreq3")?;
    let arrived = opened(&nat)?;
    for quote in [8, 100] {
        let error = arrived.error(CLIENT, PORT_UNREACHABLE, (0, 0), quote);
        for byte in [2, 8 + 20 + 7, error.payload.len() - 1] {
            let mut damaged = error.clone();
            damaged.payload[byte] ^= 1;
            nat.client.send(&damaged)?;
            let got = nat.web.hear(common::nat::QUIET, |packet| packet.protocol == common::packet::ICMP)?;
            assert!(got.is_none_or(|got| !got.is_intact()), "byte {byte} of {quote}");
            nat.client.reach(&nat.web, &error)?;
        }
    }
    nat.finish()
}

/// REQ-3b, REQ-3c: options of the quoted header are passed over, and its transport checksum is nobody's business.
#[test]
fn req3b_options_and_transport_checksums_of_quotations() -> Result<()> {
    let nat = Nat::new("icmpreq3b")?;
    let arrived = opened(&nat)?;
    for options in [4, 12, 40] {
        let mut quoted = arrived.clone();
        // No operation, to the end.
        quoted.options = vec![1; options];
        quoted.payload[6..8].copy_from_slice(&[0xde, 0xad]);
        for quote in [8, 60] {
            let error = quoted.error(ROUTER, PORT_UNREACHABLE, (0, 0), quote);
            let got = nat.client.reach(&nat.web, &error)?.quoted()?;
            assert_eq!((got.from(), got.to()), (at(WEB, 40_001), at(CLIENT, 7001)));
            assert_eq!(got.options.len(), options);
        }
    }
    nat.finish()
}

/// REQ-3d: an extension (RFC 4884) behind a padded quotation stays as it is, under a right checksum.
#[test]
fn req3d_extensions_are_left_alone() -> Result<()> {
    let nat = Nat::new("icmpreq3d")?;
    let arrived = opened(&nat)?;
    let mut quotation = arrived.bytes();
    quotation.resize(128, 0);
    // Version 2, and an MPLS label stack (RFC 4950).
    let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
    let sum = checksum(&[&extension]);
    extension[2..4].copy_from_slice(&sum.to_be_bytes());
    let body = [quotation, extension.clone()].concat();
    // The length of the quotation in words of 32 bits.
    let error = Packet::icmp(ROUTER, HOST, (11, 0), (32, 0), &body);
    let got = nat.client.reach(&nat.web, &error)?;
    assert_eq!((got.kind(), &got.payload[4..8]), ((11, 0), [0, 32, 0, 0].as_slice()));
    assert_eq!(&got.payload[8 + 128..], extension);
    assert_eq!(got.quoted()?.from(), at(WEB, 40_001));
    nat.finish()
}

/// REQ-4: an error from outside about a mapping is translated with what it quotes, type and code kept; one about none is not
/// delivered to any container.
#[test]
fn req4_errors_from_outside() -> Result<()> {
    let nat = Nat::new("icmpreq4")?;
    let udp = opened(&nat)?;
    let tcp =
        nat.web.reach(&nat.client, &Packet::tcp(at(WEB, 40_002), at(CLIENT, 80), SYN, b"early data"))?;
    let echo = nat.web.reach(&nat.client, &Packet::echo_request(WEB, CLIENT, 77))?;
    for sent in [&udp, &tcp, &echo] {
        for (kind, code) in (0..16).map(|code| (3, code)).chain([(11, 0), (11, 1)]) {
            for quote in [8, 20, 100] {
                let error = sent.error(ROUTER, (kind, code), (0, 1400), quote);
                let got = nat.client.reach(&nat.web, &error)?;
                assert_eq!((got.kind(), got.source, got.destination), ((kind, code), ROUTER, WEB));
                assert_eq!(&got.payload[4..8], &error.payload[4..8]);
                let quoted = got.quoted()?;
                assert_eq!((quoted.source, quoted.destination, quoted.id), (WEB, CLIENT, sent.id));
                match sent.protocol {
                    common::packet::ICMP => assert_eq!(quoted.identifier(), 77),
                    common::packet::UDP => assert_eq!(quoted.source_port(), 40_001),
                    _ => assert_eq!(quoted.source_port(), 40_002),
                }
                // Checksums of what is quoted whole are right again.
                if quoted.payload.len() == sent.payload.len() {
                    assert!(quoted.is_intact());
                }
            }
        }
    }
    let mut other = udp.clone();
    other.payload[1] ^= 1;
    nat.client.miss(&nat.web, &other.error(ROUTER, PORT_UNREACHABLE, (0, 0), 60))?;
    nat.finish()
}

/// REQ-5: an error of a container about what came in leaves with the host's address, and quotes what the other end sent; one
/// about nothing does not leave.
#[test]
fn req5_errors_from_inside() -> Result<()> {
    let nat = Nat::new("icmpreq5")?;
    let out = opened(&nat)?;
    let answer = Packet::udp(at(CLIENT, 7001), out.from(), b"unwanted");
    let came = nat.client.reach(&nat.web, &answer)?;
    for kind in [PORT_UNREACHABLE, (3, 1), (11, 1)] {
        let got = nat.web.reach(&nat.client, &came.error(WEB, kind, (0, 0), 60))?;
        assert_eq!((got.kind(), got.source), (kind, HOST));
        let quoted = got.quoted()?;
        assert_eq!((quoted.from(), quoted.to()), (answer.from(), answer.to()));
        assert!(quoted.is_intact());
    }
    let stray = Packet::udp(at(CLIENT, 7002), at(WEB, 40_001), b"never sent");
    nat.web.miss(&nat.client, &stray.error(WEB, PORT_UNREACHABLE, (0, 0), 60))?;
    nat.finish()
}

/// REQ-6: an error about a query neither ends nor refreshes it.
#[test]
fn req6_errors_do_not_refresh_queries() -> Result<()> {
    let nat = Nat::with("icmpreq6", "", "timeouts: { icmp_query: 3 }")?;
    let request = nat.web.reach(&nat.client, &Packet::echo_request(WEB, CLIENT, 7))?;
    let error = request.error(ROUTER, (11, 0), (0, 0), 8);
    nat.client.reach(&nat.web, &error)?;
    nat.client.reach(&nat.web, &request.echo_reply())?;
    // Errors all the time, and nothing else: the query ends as if there were none.
    for _ in 0..14 {
        sleep(ms(500));
        nat.client.send(&error)?;
    }
    nat.web.drain();
    nat.client.miss(&nat.web, &request.echo_reply())?;
    nat.finish()
}

/// REQ-7, REQ-7a: an error of one container about what came from another's external port finds the other, in one network and
/// in two.
#[test]
fn req7_hairpinned_errors() -> Result<()> {
    let nat = Nat::with("icmpreq7", "", "")?;
    for (peer, port) in [(&nat.shop, 40_011), (&nat.side, 40_012)] {
        let udp = |from: &common::nat::Station, port, to, data: &[u8]| Packet::udp(from.at(port), to, data);
        let of_web = nat.web.reach(&nat.client, &udp(&nat.web, port, at(CLIENT, 1), b""))?.from();
        let of_peer = peer.reach(&nat.client, &udp(peer, port, at(CLIENT, 1), b""))?.from();
        nat.web.miss(peer, &udp(&nat.web, port, of_peer, b"1"))?;
        peer.reach(&nat.web, &udp(peer, port, of_web, b"2"))?;
        let sent = udp(&nat.web, port, of_peer, b"3");
        let came = nat.web.reach(peer, &sent)?;
        for quote in [8, 40] {
            let got = peer.reach(&nat.web, &came.error(peer.address, PORT_UNREACHABLE, (0, 0), quote))?;
            assert_eq!((got.kind(), got.source, got.destination), (PORT_UNREACHABLE, HOST, WEB));
            let quoted = got.quoted()?;
            assert_eq!((quoted.from(), quoted.to()), (sent.from(), sent.to()));
        }
    }
    nat.finish()
}

/// REQ-8: without a port left the sender is told by code 13, and whoever has a port goes on.
#[test]
fn req8_refusals_are_told() -> Result<()> {
    let nat = Nat::with("icmpreq8", "", "masquerade_ports: 20000-20003")?;
    let to = at(CLIENT, 7001);
    let mut taken = Vec::new();
    for port in 20_000..20_004 {
        taken.push(nat.web.reach(&nat.client, &Packet::udp(at(WEB, port), to, b""))?.source_port());
    }
    taken.sort_unstable();
    assert_eq!(taken, [20_000, 20_001, 20_002, 20_003]);
    for protocol in ["udp", "tcp"] {
        let sent = match protocol {
            "udp" => Packet::udp(at(WEB, 30_000), to, b"more"),
            _ => {
                for port in 20_000..20_004 {
                    nat.web.reach(&nat.client, &Packet::tcp(at(WEB, port), to, SYN, b""))?;
                }
                Packet::tcp(at(WEB, 30_000), to, SYN, b"")
            }
        };
        nat.web.send(&sent)?;
        let refusal = nat.web.expect("a refusal")?;
        assert_eq!((refusal.kind(), refusal.source), ((3, 13), Ipv4Addr::new(10, 10, 0, 1)));
        let quoted = refusal.quoted()?;
        assert_eq!((quoted.from(), quoted.to()), (sent.from(), to));
        nat.client.expect_nothing("what was refused")?;
    }
    for port in 20_000..20_004 {
        nat.web.reach(&nat.client, &Packet::udp(at(WEB, port), to, b"goes on"))?;
    }
    nat.finish()
}

/// REQ-10: of the messages a NAT must carry, those that are not covered above: a container's traceroute sees this host as a
/// hop.
#[test]
fn req10_this_host_is_a_hop() -> Result<()> {
    let nat = Nat::new("icmpreq10")?;
    let expiring = Packet::udp(at(WEB, 33_434), at(CLIENT, 33_435), b"probe").with(|packet| packet.ttl = 1);
    nat.web.send(&expiring)?;
    let error = nat.web.expect("time exceeded")?;
    assert_eq!((error.kind(), error.source), ((11, 0), Ipv4Addr::new(10, 10, 0, 1)));
    let next = nat.web.reach(&nat.client, &expiring.with(|packet| packet.ttl = 2))?;
    assert_eq!(next.ttl, 1);
    nat.finish()
}

/// REQ-4, REQ-5, REQ-7: errors in both directions through masquerade, a published port and a hairpin, where only eight
/// bytes are quoted and the datagram has no checksum.
#[test]
fn errors_with_short_quotations_and_without_checksums() -> Result<()> {
    let nat = Nat::new("icmpshort")?;
    let published = at(HOST, 5353);
    for (client, web) in [(&nat.client, &nat.web), (&nat.shop, &nat.web), (&nat.side, &nat.web)] {
        for checksum in [true, false] {
            let datagram = |from, to| {
                let packet = Packet::udp(from, to, &[7; 100]);
                if checksum { packet } else { packet.without_checksum() }
            };
            let request = datagram(client.at(5000), published);
            let arrived = client.reach(web, &request)?;
            let answer = datagram(at(WEB, 53), arrived.from());
            let answered = web.reach(client, &answer)?;
            assert_eq!((answered.from(), answered.to()), (published, client.at(5000)));
            for quote in [8, 20, 108] {
                for (kind, rest) in [(PORT_UNREACHABLE, 0), ((3, 4), 1400), ((11, 1), 0)] {
                    for (sent, seen, from, to) in
                        [(&request, &arrived, web, client), (&answer, &answered, client, web)]
                    {
                        let got = from.reach(to, &seen.error(from.address, kind, (0, rest), quote))?;
                        assert_eq!((got.kind(), got.destination), (kind, to.address));
                        assert_eq!(got.payload[6..8], rest.to_be_bytes());
                        let quoted = got.quoted()?;
                        assert_eq!((quoted.from(), quoted.to()), (sent.from(), sent.to()));
                        assert_eq!(quoted.payload[6..8] == [0, 0], !checksum);
                        assert_eq!(quoted.payload[6..8], sent.payload[6..8]);
                    }
                }
            }
        }
    }
    // And of masqueraded ones.
    for checksum in [true, false] {
        let sent = Packet::udp(at(WEB, 40_001), at(CLIENT, 7001), &[7; 100]);
        let sent = if checksum { sent } else { sent.without_checksum() };
        let arrived = nat.web.reach(&nat.client, &sent)?;
        for quote in [8, 108] {
            let error = arrived.error(ROUTER, PORT_UNREACHABLE, (0, 0), quote);
            let quoted = nat.client.reach(&nat.web, &error)?.quoted()?;
            assert_eq!((quoted.from(), quoted.to()), (sent.from(), sent.to()));
            assert_eq!(quoted.payload[6..8], sent.payload[6..8]);
        }
    }
    nat.finish()
}

/// REQ-10b, REQ-10c, REQ-11: of all other messages, parameter problem passes, and nothing else in either direction: source
/// quench and information requests must not, redirects and router advertisements would steer somebody else's hosts.
#[test]
fn req10_other_messages() -> Result<()> {
    let nat = Nat::new("icmpreq10b")?;
    let arrived = opened(&nat)?;
    let came = nat.client.reach(&nat.web, &Packet::udp(at(CLIENT, 7001), arrived.from(), b"in"))?;
    for kind in [4, 5, 9, 10, 13, 14, 15, 16, 17, 18, 30, 40, 42] {
        nat.client.send(&arrived.error(ROUTER, (kind, 0), (0, 0), 60))?;
        nat.web.send(&came.error(WEB, (kind, 0), (0, 0), 60))?;
    }
    let heard = [&nat.web, &nat.client].map(|station| station.hear(common::nat::QUIET, |_| true));
    for heard in heard {
        assert_eq!(heard?, None);
    }
    let problem = nat.client.reach(&nat.web, &arrived.error(ROUTER, (12, 0), (0x0800, 0), 60))?;
    assert_eq!((problem.kind(), problem.quoted()?.from()), ((12, 0), at(WEB, 40_001)));
    nat.finish()
}

/// REQ-10d, REQ-10e: what weft itself sends is as RFC 1812 section 4.3.2 asks: with precedence, quoting the packet as it
/// was, never about an error or a later fragment.
#[test]
fn req10_errors_of_its_own() -> Result<()> {
    let nat = Nat::new("icmpreq10d")?;
    opened(&nat)?;
    let expiring = Packet::udp(at(WEB, 40_001), at(CLIENT, 7001), &[7; 100]).with(|packet| packet.ttl = 1);
    nat.web.send(&expiring)?;
    let error = nat.web.expect("time exceeded")?;
    assert_eq!((error.kind(), error.type_of_service), ((11, 0), 0xc0));
    let quoted = error.quoted()?;
    assert_eq!((quoted.from(), quoted.to(), quoted.ttl), (expiring.from(), expiring.to(), 1));
    assert_eq!(quoted.payload[..8], expiring.payload[..8]);
    let came = Packet::udp(at(CLIENT, 7001), at(WEB, 40_001), b"in");
    let later = expiring.fragments(48).swap_remove(1);
    for silent in [came.error(WEB, PORT_UNREACHABLE, (0, 0), 60).with(|packet| packet.ttl = 1), later] {
        nat.web.send(&silent)?;
    }
    nat.web.expect_nothing("no error about these")?;
    nat.client.expect_nothing("they end here")?;
    nat.finish()
}

/// REQ-4, REQ-5, RFC 4787 REQ-12b, with everybody's own stack: behind a router that carries 1,300 bytes a container and its
/// client find out, and megabytes arrive; through masquerade and through a published port, where the container is the one
/// that has to send less, and its neighbour, the client by the same way.
#[test]
fn path_mtu_discovery_end_to_end() -> Result<()> {
    let lab = Lab::new("pmtu")?;
    let (near, far) = (lab.segment("192.0.2.0/24")?, lab.segment("198.51.100.0/24")?);
    let host = lab.host("a")?.on(&near, "192.0.2.1/24")?.default_via("192.0.2.254")?;
    let router = lab.host("router")?.on(&near, "192.0.2.254/24")?.on(&far, "198.51.100.254/24")?;
    let client = lab.host("client")?.on(&far, "198.51.100.7/24")?.default_via("198.51.100.254")?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    router.ip("route replace 198.51.100.0/24 dev eth1 mtu lock 1300")?;
    router.ip("route replace 192.0.2.0/24 dev eth0 mtu lock 1300")?;
    let web = host.container("web")?;
    let _daemon = host.weft(
        "networks: { front: { ipam: { config: [ { subnet: 10.10.0.0/24 } ] } } }\n\
         services:\n  web:\n    networks: { front: { ipv4_address: 10.10.0.10 } }\n    ports: [ \"8080:80\" ]\n    \
         x-weft: { netns: web }\nx-weft: { uplinks: [ eth0 ] }\n",
    )?;
    let (_inside, _outside) = (web.serve_echo(80)?, client.serve_echo(7000)?);
    for (from, to, server) in
        [(&*web, at(Ipv4Addr::new(198, 51, 100, 7), 7000), &*client), (&*client, at(HOST, 8080), &*web)]
    {
        for namespace in [from, server] {
            namespace.ip("route flush cache")?;
        }
        assert!(!web.ip("route get 198.51.100.7")?.contains("mtu 1300"), "known before");
        let sent = tests::traffic::payload::pseudo_random(7, 4 << 20);
        let received = from.inside(|| {
            let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.set_write_timeout(Some(Duration::from_secs(20)))?;
            let mut back = stream.try_clone()?;
            let mut received = vec![0; sent.len()];
            std::thread::scope(|scope| -> Result<()> {
                let writer = scope.spawn(|| stream.write_all(&sent));
                back.read_exact(&mut received)?;
                Ok(writer.join().expect("the writer")?)
            })?;
            Ok(received)
        })?;
        assert!(received == sent, "other bytes than were sent to {to}");
        let web_way = web.ip("route get 198.51.100.7")?;
        assert!(web_way.contains("mtu 1300"), "the container was not told: {web_way}");
        let client_way = client.ip("route get 192.0.2.1")?;
        assert!(client_way.contains("mtu 1300"), "the client was not told: {client_way}");
    }
    lab.finish()
}
