//! Asks many `whoami` servers at once: who is reached, and with which address.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{canonical, echo, latency::Protocol};

/// A datagram that is not answered is sent again after this time.
const AGAIN: Duration = Duration::from_millis(400);

/// Asks each server over both protocols.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long each may take to answer.
    #[arg(long, default_value_t = 2000)]
    pub patience_ms: u64,
    /// Where servers may listen.
    pub servers: Vec<SocketAddr>,
}

/// By protocol and server, the client's address as the server sees it; `None`: no answer.
pub fn run(options: &Options) -> Result<BTreeMap<String, Option<IpAddr>>> {
    let patience = Duration::from_millis(options.patience_ms);
    let asked: Vec<_> = options
        .servers
        .iter()
        .flat_map(|&server| [("tcp", Protocol::Tcp, server), ("udp", Protocol::Udp, server)])
        .map(|(name, protocol, server)| {
            let asked = thread::spawn(move || match protocol {
                Protocol::Tcp => tcp(server, patience),
                Protocol::Udp => udp(server, patience),
            });
            (format!("{name} {server}"), asked)
        })
        .collect();
    asked
        .into_iter()
        .map(|(name, asked)| {
            let seen = asked.join().map_err(|_| anyhow::anyhow!("asking {name} panicked"))?;
            Ok((name, seen.map(|seen| canonical(seen).ip())))
        })
        .collect::<Result<_>>()
        .context("survey")
}

fn tcp(server: SocketAddr, patience: Duration) -> Option<SocketAddr> {
    let mut stream = TcpStream::connect_timeout(&server, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.parse().ok()
}

fn udp(server: SocketAddr, patience: Duration) -> Option<SocketAddr> {
    let socket = echo::connected(server).ok()?;
    socket.set_read_timeout(Some(AGAIN)).ok()?;
    let end = Instant::now() + patience;
    while Instant::now() < end {
        // An ICMP error of an earlier datagram is reported here: the next may be heard.
        let _ = socket.send(b"whoami");
        let mut buffer = [0; 128];
        match socket.recv(&mut buffer) {
            Ok(length) => return String::from_utf8_lossy(&buffer[..length]).parse().ok(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => thread::sleep(AGAIN),
        }
    }
    None
}
