//! External ports under pressure: held, in use, exhausted, flooded; and flows whose container has gone. docs/rfc.md names
//! the requirements behind it.

mod common;

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use common::{
    ONE_HOST, OneHost,
    nat::{CLIENT, HOST, Nat, OTHER, QUIET, Station, WEB, at},
    packet::{ICMP, Packet, SYN, TCP, UDP},
    within,
};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A datagram of a station's to the client; the port that it is seen with, if it gets through.
fn try_port(nat: &Nat, from: &Station, port: u16, remote: u16) -> Result<Option<u16>> {
    try_packet(nat, from, &Packet::udp(from.at(port), nat.client.at(remote), b"out"))
}

fn try_packet(nat: &Nat, from: &Station, packet: &Packet) -> Result<Option<u16>> {
    nat.client.drain();
    from.send(packet)?;
    let heard = nat.client.hear(ms(1000), |heard| heard.protocol == packet.protocol)?;
    Ok(heard.map(|packet| packet.source_port()))
}

/// Whether some socket has this external port.
fn is_held(nat: &Nat, port: u16) -> Result<bool> {
    let mappings = common::entries(&nat.it.host, &nat.it.daemon, "mappings")?;
    Ok(mappings.iter().any(|mapping| mapping["formatted"]["value"]["port"] == port))
}

/// RFC 6888 REQ-8: a port stays with its socket for a while after its last flow, 120 s by default.
#[test]
fn a_port_is_held_after_its_last_flow() -> Result<()> {
    let nat = Nat::with("hold", "", "timeouts: { udp: 1, port_hold: 6 }")?;
    assert_eq!(nat.setting("port_hold_ns")?, 6_000_000_000);
    assert_eq!(try_port(&nat, &nat.web, 20_001, 1)?, Some(20_001));
    within(Duration::from_secs(10), "the flow ends", || Ok(nat.flows(20_001)?.is_empty()))?;
    // Nobody else gets it; its socket does (the exception of REQ-8 for one subscriber).
    assert_ne!(try_port(&nat, &nat.shop, 20_001, 1)?, Some(20_001));
    assert_ne!(try_port(&nat, &nat.side, 20_001, 1)?, Some(20_001));
    assert_eq!(try_port(&nat, &nat.web, 20_001, 2)?, Some(20_001));
    let mut seen = Instant::now();
    within(Duration::from_secs(10), "the flow ends again", || {
        let asked = Instant::now();
        let ended = nat.flows(20_001)?.is_empty();
        if !ended {
            seen = asked;
        }
        Ok(ended)
    })?;
    while seen.elapsed() < ms(5000) {
        let other = try_port(&nat, &nat.shop, 20_001, 1)?;
        assert!(other != Some(20_001) || seen.elapsed() > ms(6000), "taken over after {:?}", seen.elapsed());
        sleep(ms(300));
    }
    within(Duration::from_secs(20), "the port is free again", || {
        // Each attempt makes a mapping of another port for this socket, which has to end first.
        sleep(ms(2000));
        Ok(!is_held(&nat, 20_001)? && try_port(&nat, &nat.side, 20_001, 3)? == Some(20_001))
    })?;
    nat.finish()
}

/// And so it does when its container has gone.
#[test]
fn a_port_is_held_after_its_container_has_gone() -> Result<()> {
    let nat = Nat::new("holdgone")?;
    assert_eq!(nat.setting("port_hold_ns")?, 120_000_000_000);
    assert_eq!(try_port(&nat, &nat.web, 20_001, 1)?, Some(20_001));
    let (start, rest) = nat.file.split_once("  web:\n").context("a service web")?;
    let (_, rest) = rest.split_once("  shop:\n").context("and shop behind it")?;
    nat.it.daemon.rewrite(&format!("{start}  shop:\n{rest}"))?;
    within(Duration::from_secs(10), "its flow ends", || Ok(nat.flows(20_001)?.is_empty()))?;
    // For longer than it takes the sweep to come by, again and again.
    let ended = Instant::now();
    let mut own = 20_001;
    while ended.elapsed() < ms(3500) {
        for other in [&nat.shop, &nat.side] {
            // The first who asks for it has another one for good.
            assert_ne!(try_port(&nat, other, own, 1)?.context("no port at all")?, 20_001);
        }
        own = 50_001;
        sleep(ms(100));
        assert!(is_held(&nat, 20_001)?, "nobody holds it after {:?}", ended.elapsed());
    }
    nat.finish()
}

/// RFC 7857 section 9, RFC 6056: a port that has to be chosen is chosen at random. Of 256 hardly any are neighbours of the
/// one before, and every sixteenth of the pool has some.
#[test]
fn ports_are_chosen_at_random() -> Result<()> {
    let nat = Nat::with("random", "", "masquerade_ports: 20000-27999")?;
    let mut ports = Vec::new();
    for number in 0..256 {
        ports.push(try_port(&nat, &nat.web, 40_000 + number, 1)?.context("no port")?);
    }
    let parts: HashSet<u16> = ports.iter().map(|port| (port - 20_000) / 500).collect();
    assert_eq!(parts.len(), 16, "{ports:?}");
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 2).count();
    assert!(near < 10, "{near} follow one another");
    nat.finish()
}

/// RFC 4787 REQ-3 and its like: a port that a socket of the host has, bound for UDP or listening for TCP, is never given
/// away, however quickly sockets come and go.
#[test]
fn ports_of_the_hosts_sockets_are_not_given_away() -> Result<()> {
    const POOL: u16 = 20_000;
    const COUNT: u16 = 2000;
    let nat = Nat::with("inuse", "", "masquerade_ports: 20000-21999")?;
    let mut taken = Vec::new();
    let mut given = HashSet::new();
    let mut kept = Vec::new();
    for round in 0..10 {
        // Bound just now: the daemon has not heard of it.
        let bound = nat.it.host.inside(|| {
            let mut sockets = Vec::new();
            for port in (POOL + round..POOL + COUNT).step_by(10) {
                let address = at(Ipv4Addr::UNSPECIFIED, port);
                if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
                    sockets.push((port, udp, tcp));
                }
            }
            Ok(sockets)
        })?;
        let ports: HashSet<u16> = bound.iter().map(|(port, _, _)| *port).collect();
        ensure!(ports.len() >= 100, "only {} ports could be bound", ports.len());
        for (container, source) in [(&nat.web, 0), (&nat.shop, 0), (&nat.side, 1)] {
            for number in 0..20 {
                // Its own port lies in the pool, and the host has it; or anywhere.
                let own = if source == 0 {
                    POOL + round + 10 * (number + 40 * round) % COUNT
                } else {
                    40_000 + 100 * round + number
                };
                let (from, to) = (container.at(own), nat.client.at(7000 + round));
                for packet in [Packet::udp(from, to, b"out"), Packet::tcp(from, to, SYN, b"")] {
                    let Some(port) = try_packet(&nat, container, &packet)? else { continue };
                    if given.insert((from, packet.protocol)) {
                        taken.push(port);
                        assert!(!ports.contains(&port), "round {round}: {from} got {port}: {packet:?}");
                    }
                }
            }
        }
        if round % 2 == 0 {
            kept.push(bound);
        }
    }
    ensure!(taken.len() > 800, "only {} ports were given", taken.len());
    nat.finish()
}

/// Cilium's bar and more (dataplanes know it as "no mapping for masquerade"): to one remote end, 99 of 100 flows get a port
/// until the pool is used to 95 per cent; what is refused then is told, at a limited rate; whoever has a port goes on; and
/// once ports are free, there are flows again. RFC 5508 REQ-8, RFC 4787 REQ-11.
#[test]
fn an_exhausted_pool_refuses_new_flows_only() -> Result<()> {
    const POOL: u16 = 8000;
    let nat = Nat::with("exhausted", "", "masquerade_ports: 20000-27999, timeouts: { port_hold: 1 }")?;
    let mut given = HashSet::new();
    let mut first = Vec::new();
    let mut refused = 0_u32;
    let start = Instant::now();
    let sources =
        (0..).map(|number| ([&nat.web, &nat.shop, &nat.side][usize::from(number % 3)], 30_000 + number / 3));
    for (from, port) in sources.take(usize::from(POOL) * 95 / 100) {
        match try_port(&nat, from, port, 9)? {
            Some(external) => assert!(given.insert(external), "one port twice to one remote end"),
            None => refused += 1,
        }
        if first.len() < 100 {
            first.push((from, port));
        }
    }
    println!("{} ports of {POOL} in {:?}, {refused} refused", given.len(), start.elapsed());
    assert!(refused * 100 <= u32::from(POOL) * 95 / 100, "{refused} were refused");
    // The rest, and far more: told, but not every time.
    let (mut told, mut beyond) = (0, 0);
    nat.shop.drain();
    let flood = Instant::now();
    for number in 0..4000 {
        nat.shop.send(&Packet::udp(nat.shop.at(40_000 + number), at(CLIENT, 9), b"more"))?;
        beyond += 1;
        if number % 20 == 0 {
            // Meanwhile those who have a port go on, without loss.
            let (from, port) = first[usize::from(number / 20) % first.len()];
            assert!(try_port(&nat, from, port, 9)?.is_some(), "an established flow lost its port");
            while let Some(packet) = nat.shop.hear(ms(1), |packet| packet.protocol == ICMP)? {
                assert_eq!(packet.kind(), (3, 13));
                told += 1;
            }
        }
    }
    // 50 at once and 500 in a second for each device of a container, whatever CPU serves it.
    let most = (60.0 + 500.0 * flood.elapsed().as_secs_f64()) as u32;
    println!("{told} of {beyond} told in {:?}", flood.elapsed());
    assert!(told > 0 && told <= most.min(beyond - 1), "{told} of {beyond} told, at most {most}");
    assert!(nat.it.drops("ports_exhausted")? > 0);
    // Idle flows end, as if five minutes had gone by.
    nat.it.daemon.rewrite(&nat.file.replace("port_hold: 1", "port_hold: 1, udp: 1"))?;
    within(Duration::from_secs(30), "ports are free again", || {
        for number in 0..20 {
            if try_port(&nat, &nat.side, 50_000 + number, 9)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    nat.finish()
}

/// A TCP connection that is asked for an echo now and then.
fn echoes(stream: &mut TcpStream, text: &[u8]) -> bool {
    let mut answer = vec![0; text.len()];
    stream.write_all(text).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == text
}

/// Ten times as many half-open connections as the tables hold, from outside to a published port and from a container to the
/// world: no established connection loses anything, new ones are served when it is over, without waiting for timeouts.
#[test]
fn a_flood_of_syns_harms_no_established_flow() -> Result<()> {
    const TABLE: u16 = 1024;
    let file = ONE_HOST.replace("uplinks: [ eth0 ]", "uplinks: [ eth0 ], max_flows: 1024");
    let it = OneHost::with("synflood", &file)?;
    it.client.ip(&format!("address add {OTHER}/24 dev eth0"))?;
    let (_inside, _outside) = (it.web.serve_echo(80)?, it.client.serve_echo(7000)?);
    let connect = |namespace: &tests::Namespace, to: SocketAddrV4| {
        namespace.inside(|| {
            let stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(stream)
        })
    };
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(connect(&it.client, at(HOST, 8080))?);
        streams.push(connect(&it.shop, at(CLIENT, 7000))?);
    }
    let published = Station::beside_the_stack(&it.client, CLIENT)?;
    let masqueraded = Station::beside_the_stack(&it.other, common::nat::SIDE)?;
    // Segments sent again, and those of them that the other end had already (RFC 2883): on a busy machine an answer may
    // come later than TCP waits for it.
    let resent = || -> Result<(u64, u64)> {
        let (mut resent, mut needlessly) = (0, 0);
        for at in [&*it.client, &*it.shop, &*it.web] {
            let counters = at.snmp()?;
            resent += counters["Tcp.RetransSegs"];
            needlessly += counters["TcpExt.TCPDSACKRecv"];
        }
        Ok((resent, needlessly))
    };
    let before = resent()?;
    let over = AtomicBool::new(false);
    let sent = AtomicU16::new(0);
    thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| -> Result<()> {
            for number in 0..10 * TABLE {
                let invented = Ipv4Addr::new(198, 51, (number >> 8) as u8, number as u8);
                published.send(&Packet::tcp(at(invented, 1024 + number), at(HOST, 8080), SYN, b""))?;
                let nobody = at(Ipv4Addr::new(203, 0, 113, (number >> 8) as u8), 1024 + number);
                masqueraded.send(&Packet::tcp(masqueraded.at(1024 + number), nobody, SYN, b""))?;
                sent.store(number, Ordering::Relaxed);
                if number % 100 == 0 {
                    sleep(ms(5));
                }
            }
            over.store(true, Ordering::Relaxed);
            Ok(())
        });
        let mut rounds = 0;
        while !over.load(Ordering::Relaxed) || rounds < 10 {
            for (number, stream) in streams.iter_mut().enumerate() {
                let at = sent.load(Ordering::Relaxed);
                ensure!(
                    echoes(stream, format!("{rounds} {number}").as_bytes()),
                    "connection {number} is lost at {at}"
                );
            }
            rounds += 1;
        }
        println!("{rounds} rounds of {} echoes during the flood", streams.len());
        flood.join().expect("the flood")
    })?;
    let (after, needlessly) = resent()?;
    assert!(after - before.0 <= needlessly - before.1, "lost segments: {} sent again", after - before.0);
    // The sweep takes a second, and lets go of held ports a second later; the timeout of the half-open would be four
    // minutes, and the hold of their ports two.
    let served = within(Duration::from_secs(10), "new connections are served", || {
        let new = [connect(&it.client, at(HOST, 8080))?, connect(&it.shop, at(CLIENT, 7000))?];
        streams.extend(new);
        Ok(streams.iter_mut().all(|stream| echoes(stream, b"new")))
    })?;
    println!("served after {served:?}");
    // They are kept like any other, which a table full of the flood's would not allow.
    let flows = it.daemon.json(&["flow", "ls"])?;
    let established = flows
        .as_array()
        .map_or(0, |flows| flows.iter().filter(|flow| flow["state"] == "established").count());
    assert!((42..100).contains(&established), "{established} flows are established");
    for stream in &mut streams {
        assert!(echoes(stream, b"after"));
    }
    drop(streams);
    it.lab.finish()
}

/// A container has gone and another has its address, its ports and its place: nothing of the old one's flows reaches it,
/// until it has sent itself.
#[test]
fn nothing_of_a_predecessor_is_delivered() -> Result<()> {
    let before = ONE_HOST.replace("      - \"11000-11002:80\"\n", "");
    let it = OneHost::with("successor", &before)?;
    it.client.ip(&format!("address add {OTHER}/24 dev eth0"))?;
    let heir = it.host.container("heir")?;
    let web = Station::new(&it.web, WEB)?;
    let client = Station::new(&it.client, CLIENT)?;
    let successor = Station::new(&heir, WEB)?;
    let udp = web.reach(&client, &Packet::udp(web.at(20_001), client.at(7), b"old"))?.from();
    let tcp = web.reach(&client, &Packet::tcp(web.at(20_001), client.at(7), SYN, b""))?.from();
    let echo = web.reach(&client, &Packet::echo_request(WEB, CLIENT, 7))?;
    let answers = [
        Packet::udp(client.at(7), udp, b"late"),
        Packet::tcp(client.at(7), tcp, SYN | common::packet::ACK, b""),
        echo.echo_reply(),
        Packet::udp(at(HOST, 20_001), at(CLIENT, 7), b"late").error(CLIENT, (3, 3), (0, 0), 8),
    ];
    for answer in &answers[..3] {
        client.reach(&web, answer)?;
    }
    it.daemon.rewrite(&before.replace("netns: web", "netns: heir"))?;
    // Both send as fast as they can, while one is on its way out and the other on its way in: to the world, where nobody
    // has a say in what they may send.
    client.drain();
    let (mut sent, mut arrived) = (0, 0);
    let mut overheard = || -> Result<()> {
        for from in [&web, &successor] {
            for port in [21_001, 41_001] {
                let out = [
                    Packet::udp(from.at(port), client.at(8), b"out"),
                    Packet::tcp(from.at(port), client.at(8), SYN, b""),
                ];
                sent += out.iter().filter(|packet| from.send(packet).is_ok()).count();
            }
        }
        for packet in client.overheard()? {
            ensure!(packet.source.octets()[0] != 10, "untranslated on the wire: {packet:?}");
            arrived += usize::from(packet.source == HOST);
        }
        Ok(())
    };
    within(Duration::from_secs(5), "the heir is there", || {
        overheard()?;
        Ok(heir.ip("address show dev eth0").is_ok_and(|text| text.contains("10.10.0.10/24")))
    })?;
    for _ in 0..10 {
        overheard()?;
    }
    println!("{arrived} of {sent} arrived meanwhile");
    ensure!(arrived > 0, "nothing arrived");
    for _ in 0..3 {
        for answer in &answers {
            client.send(answer)?;
        }
        let heard = successor.hear(QUIET, |packet| [UDP, TCP, ICMP].contains(&packet.protocol))?;
        ensure!(heard.is_none(), "delivered to the successor: {heard:?}");
    }
    // With the very same ports it has flows of its own.
    successor.send(&Packet::udp(successor.at(20_001), client.at(7), b"new"))?;
    // What was sent before may still be on its way.
    let own =
        client.hear(Duration::from_secs(3), |packet| packet.protocol == UDP && packet.data() == b"new")?;
    let own = own.context("the successor's own")?;
    assert_eq!(client.reach(&successor, &Packet::udp(client.at(7), own.from(), b"mine"))?.data(), b"mine");
    it.lab.finish()
}

/// Somebody outside sends datagrams from one port all the time, while the container behind the published port is replaced:
/// the new one hears them within a second of being there.
#[test]
fn a_stale_sender_reaches_the_successor() -> Result<()> {
    let before = ONE_HOST.replace("      - \"11000-11002:80\"\n", "");
    let it = OneHost::with("stalesender", &before)?;
    let names = ["heir0", "heir1", "heir2"];
    let heirs = it.host.containers(&names.map(str::to_owned))?;
    let client = Station::new(&it.client, CLIENT)?;
    let mut file = before.clone();
    let mut name = "web";
    let web = Station::new(&it.web, WEB)?;
    let knock = Packet::udp(client.at(5000), at(HOST, 5353), b"knock");
    client.reach(&web, &knock)?;
    for (next, heir) in names.into_iter().zip(&heirs) {
        file = file.replace(&format!("netns: {name} "), &format!("netns: {next} "));
        name = next;
        let successor = Station::new(heir, WEB)?;
        it.daemon.rewrite(&file)?;
        // All the time: the old flow is never idle.
        let arrived = within(Duration::from_secs(10), "the address is there", || {
            client.send(&knock)?;
            Ok(heir.ip("address show dev eth0").is_ok_and(|text| text.contains("10.10.0.10/24")))
        });
        arrived?;
        let took = within(Duration::from_secs(1), "it hears the sender", || {
            client.send(&knock)?;
            Ok(successor.hear(ms(50), |packet| packet.protocol == UDP)?.is_some())
        })?;
        println!("{name} after {took:?}");
        let back =
            successor.reach(&client, &Packet::udp(successor.at(53), client.at(5000), b"who is there?"))?;
        assert_eq!(back.from(), at(HOST, 5353));
    }
    it.lab.finish()
}
