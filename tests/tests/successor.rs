//! A container has gone and another has its address, its ports and its place, over IPv6. `external_ports` has the same of IPv4,
//! packet by packet; here everybody has a stack, and what must not be seen is listened for.

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use common::{Family, ONE_HOST, OneHost, capture, nothing_captured, within};
use tests::Namespace;

const HOST: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.100";
const LIMIT: Duration = Duration::from_secs(5);

/// Where no port is chosen rounds are differences.
fn file() -> String {
    ONE_HOST.replace("      - \"11000-11002:80\"\n", "")
}

fn at(v4: &str, port: u16) -> Result<SocketAddr> {
    Ok(Family::V6.at(v4, port).parse()?)
}

fn udp(place: &Namespace, port: u16, patience: Duration) -> Result<UdpSocket> {
    let socket = place.inside(|| Ok(UdpSocket::bind(("::", port))?))?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// Whether it has its address.
fn is_there(heir: &Namespace) -> Result<bool> {
    Ok(heir.ip("-6 address show dev eth0").is_ok_and(|text| text.contains("fd00:10::10/64")))
}

/// Nothing of the old one's flows reaches the new one, and nobody's own address reaches the wire meanwhile.
#[test]
fn nothing_of_a_predecessor_is_delivered() -> Result<()> {
    let before = Family::V6.file(&file());
    let it = OneHost::of(Family::V6, "v6heir", &file())?;
    let heir = it.host.container("heir")?;
    let untranslated = capture(&it.client, 20, "ip6 src net fd00::/8")?;

    // One flow of each kind.
    let (old, outside) = (udp(&it.web, 20_001, LIMIT)?, udp(&it.client, 7, LIMIT)?);
    old.send_to(b"old", at(CLIENT, 7)?)?;
    let (_, seen) = outside.recv_from(&mut [0; 9])?;
    ensure!(seen.ip() == at(HOST, 0)?.ip(), "{seen}");
    outside.send_to(b"early", seen)?;
    old.recv_from(&mut [0; 9])?;
    let listener = it.client.inside(|| Ok(TcpListener::bind("[::]:7")?))?;
    let to = at(CLIENT, 7)?;
    let mut connection = it.web.inside(|| Ok(TcpStream::connect_timeout(&to, LIMIT)?))?;
    let (mut accepted, tcp) = listener.accept()?;
    accepted.write_all(b"early")?;
    connection.read_exact(&mut [0; 5])?;
    it.web.check(&format!("ping -n -c 1 -W 2 -e 20001 {}", to.ip()))?;

    // Both send as fast as they can, while one is on its way out and the other on its way in.
    let (over, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let sink = udp(&it.client, 8, Duration::from_millis(100))?;
    let senders = [udp(&it.web, 21_001, LIMIT)?, udp(&heir, 21_001, LIMIT)?];
    thread::scope(|scope| {
        let (over, arrived, to) = (&over, &arrived, at(CLIENT, 8)?);
        for sender in &senders {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Without a device there is no route.
                    let _ = sender.send_to(b"out", to);
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let heard = sink.recv_from(&mut [0; 9]);
                arrived.fetch_add(heard.is_ok().into(), Ordering::Relaxed);
            }
        });
        let outcome = it.daemon.rewrite(&before.replace("netns: web", "netns: heir")).and_then(|()| {
            within(LIMIT, "the heir is there", || is_there(&heir))?;
            let so_far = arrived.load(Ordering::Relaxed);
            within(LIMIT, "it sends", || Ok(arrived.load(Ordering::Relaxed) > so_far + 100))
        });
        over.store(true, Ordering::Relaxed);
        outcome
    })?;

    let listening = capture(&heir, 3, "tcp or udp dst port 20001 or icmp6[0] == 129 or icmp6[0] < 128")?;
    let mut answers = 0;
    for _ in 0..3 {
        outside.send_to(b"late", seen)?;
        answers += usize::from(accepted.write_all(b"late").is_ok());
        it.client.check(&format!(
            "python3 -c \"
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.sendto(bytes([129, 0, 0, 0, 0x4e, 0x21, 0, 1]), ('{0}', 0))
quoted = bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + socket.inet_pton(10, '{0}') + socket.inet_pton(10, '{1}') + bytes([0x4e, 0x21, 0, 7, 0, 8, 0, 0])
s.sendto(bytes([1, 4, 0, 0, 0, 0, 0, 0]) + quoted, ('{0}', 0))
\"",
            at(HOST, 0)?.ip(),
            to.ip(),
        ))?;
    }
    ensure!(answers > 0, "nothing was sent");
    nothing_captured(listening).with_context(|| format!("{tcp}, {seen}"))?;

    // With the very same port it has flows of its own.
    let new = udp(&heir, 20_001, LIMIT)?;
    new.send_to(b"new", at(CLIENT, 7)?)?;
    let (_, own) = outside.recv_from(&mut [0; 9])?;
    outside.send_to(b"mine", own)?;
    let mut heard = [0; 9];
    let (length, _) = new.recv_from(&mut heard)?;
    assert_eq!(&heard[..length], b"mine");
    nothing_captured(untranslated)?;
    it.lab.finish()
}

/// Somebody outside sends datagrams from one port all the time: each new container behind the published port hears them within
/// a second of being there.
#[test]
fn a_stale_sender_reaches_the_successor() -> Result<()> {
    let mut file = Family::V6.file(&file());
    let it = OneHost::of(Family::V6, "v6stale", &self::file())?;
    let names = ["heir0", "heir1", "heir2"];
    let heirs = it.host.containers(&names.map(str::to_owned))?;
    let mut name = "web";
    let client = udp(&it.client, 5000, LIMIT)?;
    let knock = || client.send_to(b"knock", at(HOST, 5353)?).map_err(anyhow::Error::from);
    let web = udp(&it.web, 53, LIMIT)?;
    knock()?;
    web.recv_from(&mut [0; 9])?;
    for (next, heir) in names.into_iter().zip(&heirs) {
        file = file.replace(&format!("netns: {name} "), &format!("netns: {next} "));
        name = next;
        let successor = udp(heir, 53, Duration::from_millis(50))?;
        it.daemon.rewrite(&file)?;
        // All the time: the old flow is never idle.
        within(Duration::from_secs(10), "the address is there", || {
            knock()?;
            is_there(heir)
        })?;
        let mut from = None;
        let took = within(Duration::from_secs(1), "it hears the sender", || {
            knock()?;
            from = successor.recv_from(&mut [0; 9]).ok();
            Ok(from.is_some())
        })?;
        println!("{name} after {took:?}");
        successor.send_to(b"who is there?", from.context("heard")?.1)?;
        assert_eq!(client.recv_from(&mut [0; 20])?.1, at(HOST, 5353)?);
    }
    it.lab.finish()
}
