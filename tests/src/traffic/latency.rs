//! Ping-pong with an echo server: one message on its way at any time.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::{PATIENCE, Percentiles, echo, payload};

/// Messages before those that count: they fill caches, neighbour tables and flow tables.
const WARM_UP: u64 = 100;
/// After so long a datagram is lost.
const LOST: Duration = Duration::from_secs(1);

/// Measures round trips.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Where the echo server listens.
    pub server: SocketAddr,
    /// Round trips that count.
    #[arg(long, default_value_t = 10_000)]
    pub count: u64,
    /// Payload bytes of a message.
    #[arg(long, default_value_t = 64)]
    pub size: usize,
}

/// Transport protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

/// The result.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Round trips that count.
    pub count: u64,
    /// Datagrams without an answer.
    pub lost: u64,
    /// How long they took.
    #[serde(flatten)]
    pub round_trip: Option<Percentiles>,
}

/// Runs the client.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.size > 0, "--size is at least 1");
    let mut message = payload::pseudo_random(1, options.size);
    let mut answer = vec![0; options.size];
    let mut tcp = None;
    let mut udp = None;
    match options.protocol {
        Protocol::Tcp => {
            let stream = TcpStream::connect_timeout(&options.server, PATIENCE).context("connecting")?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            tcp = Some(stream);
        }
        Protocol::Udp => {
            let socket = echo::connected(options.server)?;
            socket.set_read_timeout(Some(LOST))?;
            udp = Some(socket);
        }
    }
    let (mut times, mut lost) = (Vec::new(), 0);
    for number in 0..WARM_UP + options.count {
        // Each message is another one: a late answer is not taken for the right one.
        for (byte, counter) in message.iter_mut().zip(number.to_le_bytes()) {
            *byte = counter;
        }
        let start = Instant::now();
        let answered = if let Some(stream) = &mut tcp {
            stream.write_all(&message)?;
            stream.read_exact(&mut answer)?;
            true
        } else if let Some(socket) = &udp {
            socket.send(&message)?;
            match socket.recv(&mut answer) {
                Ok(_) => true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
                Err(error) => return Err(error).context("waiting for an answer"),
            }
        } else {
            false
        };
        let time = start.elapsed();
        if answered && answer != message {
            bail!("the answer to message {number} is not what was sent");
        }
        match answered {
            true if number >= WARM_UP => times.push(time),
            true => {}
            false => lost += 1,
        }
    }
    Ok(Report { count: times.len() as u64, lost, round_trip: Percentiles::of(times) })
}
