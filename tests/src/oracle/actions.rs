//! Doing an action on one side, and gathering what both ends saw.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    description::{Action, Close, Target, Topology},
    family::Family,
    observation::{End, Facts, refusal, seen_facts},
    servers::{
        CONNECTION_LIMIT, Header, RESET_NOW, Registry, TAIL, datagram, number_of, read_end, reset_on_close,
    },
    site::{Actor, Actors},
};
use crate::traffic::payload::pseudo_random;

/// An action done on one side.
#[derive(Debug, Clone, Copy)]
pub struct Doer<'a> {
    /// Everybody of this side.
    pub actors: &'a Actors,
    /// What there is now.
    pub topology: &'a Topology,
    /// How long to wait for what may be blocked.
    pub patience: Duration,
}

impl Doer<'_> {
    /// Does it.
    pub async fn perform(&self, action: &Action) -> Result<Facts> {
        let actor = self.actors.at(self.topology, action.from())?;
        let registry = &*self.actors.registry;
        let family = action.family();
        let named = |to: &Target| SocketAddr::new(self.topology.resolve(to.address, family), to.port);
        match action {
            Action::Tcp { to, send, receive, close, .. } => {
                let header =
                    Header { number: registry.number(), request: *send, reply: *receive, close: *close };
                Ok(self.tcp(actor, named(to), header).await?)
            }
            Action::Udp { source, to, .. } => {
                let to: Vec<_> = to.iter().map(|(to, size)| (named(to), usize::from(*size))).collect();
                let socket = bound(actor, family, source.unwrap_or(0)).await?;
                Ok(self.udp(&socket, &to).await?)
            }
            Action::Ping { to, size, .. } => {
                Ok(self.ping(actor, self.topology.resolve(*to, family), usize::from(*size)).await?)
            }
        }
    }

    fn registry(&self) -> &Registry {
        &self.actors.registry
    }

    async fn tcp(&self, actor: &Actor, to: SocketAddr, header: Header) -> io::Result<Facts> {
        let mut facts = Facts::new();
        let socket = actor.sockets.tcp(Family::of(to.ip()))?;
        let mut stream = match timeout(self.patience, socket.connect(to)).await {
            Err(_) => {
                facts.insert("result".to_owned(), "blocked".to_owned());
                return Ok(facts);
            }
            Ok(Err(error)) => {
                facts.insert("result".to_owned(), refusal(&error));
                return Ok(facts);
            }
            Ok(Ok(stream)) => stream,
        };
        facts.insert("result".to_owned(), "reached".to_owned());
        let named = stream.peer_addr().map_or_else(|error| error.to_string(), |peer| asked(peer, to));
        facts.insert("peer name".to_owned(), named);
        let local = stream.local_addr()?.port();
        let mut intact = false;
        let end = timeout(CONNECTION_LIMIT, converse(&mut stream, header, &mut intact)).await;
        drop(stream);
        let end = end.map_or(End::Silence, |end| end.unwrap_or_else(|error| End::of(&error)));
        facts.insert("client's end".to_owned(), end.describe());
        facts.insert("reply".to_owned(), if intact { "intact" } else { "damaged" }.to_owned());
        let until = Instant::now() + CONNECTION_LIMIT + self.patience;
        if let Some(seen) = self.registry().seen(header.number, until).await {
            seen_facts(&mut facts, "", &seen, Some(local));
        }
        Ok(facts)
    }

    async fn udp(&self, socket: &UdpSocket, to: &[(SocketAddr, usize)]) -> io::Result<Facts> {
        let mut facts = Facts::new();
        let local = socket.local_addr()?.port();
        // A connected socket hears of ICMP errors.
        if let [(to, _)] = to
            && let Err(error) = socket.connect(*to).await
        {
            facts.insert("0: result".to_owned(), refusal(&error));
            return Ok(facts);
        }
        let mut sent: Vec<(u64, Vec<u8>)> = Vec::new();
        for (index, (to, size)) in to.iter().enumerate() {
            let bytes = datagram(self.registry().number(), *size);
            let single = socket.peer_addr().is_ok();
            let result = if single { socket.send(&bytes).await } else { socket.send_to(&bytes, *to).await };
            let fact = result.map_or_else(|error| refusal(&error), |_| "no answer".to_owned());
            facts.insert(format!("{index}: result"), fact);
            sent.push((number_of(&bytes).map_or(0, |(number, _)| number), bytes));
        }
        let mut buffer = vec![0; 65536];
        let until = Instant::now() + self.patience;
        while facts.values().any(|fact| fact == "no answer") {
            let (length, from) = match timeout_at(until, socket.recv_from(&mut buffer)).await {
                Err(_) => break,
                Ok(Err(error)) => {
                    // On an unconnected socket it is not known whom it concerns.
                    if to.len() == 1 {
                        facts.insert("0: result".to_owned(), refusal(&error));
                    }
                    continue;
                }
                Ok(Ok(received)) => received,
            };
            let Some((number, _)) = number_of(&buffer[..length]) else { continue };
            let Some(index) = sent.iter().position(|(known, _)| *known == number) else { continue };
            facts.insert(format!("{index}: result"), "answered".to_owned());
            facts.insert(format!("{index}: answer from"), asked(from, to[index].0));
            let reply = if sent[index].1 == buffer[..length] { "intact" } else { "damaged" };
            facts.insert(format!("{index}: reply"), reply.to_owned());
        }
        for (index, (number, _)) in sent.iter().enumerate() {
            if let Some(seen) = self.registry().seen(*number, Instant::now()).await {
                seen_facts(&mut facts, &format!("{index}: "), &seen, Some(local));
            }
        }
        Ok(facts)
    }

    async fn ping(&self, actor: &Actor, to: IpAddr, size: usize) -> io::Result<Facts> {
        let mut facts = Facts::new();
        let family = Family::of(to);
        let number = self.registry().number();
        let mut message = vec![family.echo_request(), 0, 0, 0];
        message.extend((number as u32).to_be_bytes());
        message.extend(datagram(number, size.max(8)));
        // That of ICMPv6 covers the addresses as well, and the kernel computes it (RFC 3542 section 3.1).
        if family == Family::V4 {
            let checksum = internet_checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&checksum);
        }
        let to = SocketAddr::new(to, 0);
        let sent = nix::sys::socket::sendto(
            actor.icmp(family).as_raw_fd(),
            &message,
            &nix::sys::socket::SockaddrStorage::from(to),
            nix::sys::socket::MsgFlags::empty(),
        );
        let result = match sent.map_err(io::Error::from) {
            Err(error) => refusal(&error),
            Ok(_) => match self.registry().reply(number, Instant::now() + self.patience).await {
                None => "no answer".to_owned(),
                Some((from, intact)) => {
                    facts.insert("answer from".to_owned(), asked(SocketAddr::new(from, 0), to));
                    facts.insert("reply".to_owned(), if intact { "intact" } else { "damaged" }.to_owned());
                    "answered".to_owned()
                }
            },
        };
        // The kernel answers, and may do so before the server has read the request.
        let until = Instant::now() + if result == "answered" { self.patience } else { Duration::ZERO };
        facts.insert("result".to_owned(), result);
        if let Some(seen) = self.registry().seen(number, until).await {
            seen_facts(&mut facts, "", &seen, None);
        }
        Ok(facts)
    }
}

/// A UDP socket with this port. Another worker's new process holds the descriptor of the one before until its `exec`.
async fn bound(actor: &Actor, family: Family, port: u16) -> io::Result<UdpSocket> {
    let until = Instant::now() + CONNECTION_LIMIT;
    loop {
        match actor.sockets.udp(family, port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(Duration::from_millis(2)).await;
            }
            made => return made,
        }
    }
}

/// The client's part of a connection. `intact`: the reply was what it had to be.
async fn converse(stream: &mut TcpStream, header: Header, intact: &mut bool) -> io::Result<End> {
    let mut request = header.encode();
    request.extend(pseudo_random(header.number, header.request as usize));
    stream.write_all(&request).await?;
    if header.close == Close::HalfByClient {
        stream.shutdown().await?;
    }
    let mut reply = vec![0; header.reply as usize];
    stream.read_exact(&mut reply).await?;
    *intact = reply == pseudo_random(!header.number, reply.len());
    match header.close {
        Close::Client => {
            stream.shutdown().await?;
            Ok(read_end(stream).await)
        }
        Close::HalfByClient => Ok(read_end(stream).await),
        Close::HalfByServer => {
            let end = read_end(stream).await;
            stream.write_all(&pseudo_random(header.number ^ 1, TAIL)).await?;
            stream.shutdown().await?;
            Ok(end)
        }
        Close::ResetByClient => {
            *intact &= stream.read_u8().await? == RESET_NOW;
            reset_on_close(stream)?;
            Ok(End::Reset)
        }
        Close::ResetByServer => {
            stream.write_all(&[RESET_NOW]).await?;
            Ok(read_end(stream).await)
        }
    }
}

/// Whether it is the address that was asked for.
fn asked(got: SocketAddr, wanted: SocketAddr) -> String {
    match got {
        got if got == wanted => "as asked".to_owned(),
        got if got.port() == 0 => got.ip().to_string(),
        got => got.to_string(),
    }
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
