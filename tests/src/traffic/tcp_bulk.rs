//! One TCP connection with as much data as it takes, hashed at both ends.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{PATIENCE, announce_ready, canonical, payload};

const CHUNK: usize = 256 * 1024;

/// Sends to a receiver.
#[derive(Debug, clap::Args)]
pub struct SendOptions {
    /// Where the receiver listens.
    pub server: SocketAddr,
    /// Send this many bytes.
    #[arg(long, default_value_t = 64 << 20, conflicts_with = "seconds")]
    pub bytes: u64,
    /// Send for this long instead.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Of the pseudo-random data.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Accepts one connection and reads it to its end.
#[derive(Debug, clap::Args)]
pub struct ReceiveOptions {
    /// Where to listen.
    pub listen: SocketAddr,
}

/// What one end saw of the stream.
#[derive(Debug, Serialize)]
pub struct Stream {
    /// Payload bytes.
    pub bytes: u64,
    /// Of all of them, in hexadecimal.
    pub sha256: String,
    /// From the first byte to the end.
    pub seconds: f64,
    /// The longest time in which nothing could be sent, or nothing came.
    pub longest_pause_ms: u64,
    /// The other end's address.
    pub peer: SocketAddr,
}

struct Meter {
    hash: Sha256,
    bytes: u64,
    start: Instant,
    last: Instant,
    pause: Duration,
}

impl Meter {
    fn start() -> Self {
        let now = Instant::now();
        Self { hash: Sha256::new(), bytes: 0, start: now, last: now, pause: Duration::ZERO }
    }

    fn record(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.pause = self.pause.max(now - self.last);
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        // Hashing is our own time, not the network's.
        self.last = Instant::now();
    }

    fn finish(self, peer: SocketAddr) -> Result<Stream> {
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let longest_pause_ms = u64::try_from(self.pause.as_millis())?;
        let seconds = self.start.elapsed().as_secs_f64();
        Ok(Stream { bytes: self.bytes, sha256, seconds, longest_pause_ms, peer: canonical(peer) })
    }
}

/// The sending end.
pub fn send(options: &SendOptions) -> Result<Stream> {
    let mut stream = TcpStream::connect_timeout(&options.server, PATIENCE)
        .with_context(|| format!("connecting to {}", options.server))?;
    let mut chunk = payload::pseudo_random(options.seed, CHUNK);
    let mut meter = Meter::start();
    let limit = options.seconds.map(Duration::from_secs_f64);
    for number in 0_u64.. {
        let left = match limit {
            Some(limit) if meter.start.elapsed() >= limit => 0,
            Some(_) => CHUNK as u64,
            None => options.bytes - meter.bytes,
        };
        let length = CHUNK.min(usize::try_from(left)?);
        if length == 0 {
            break;
        }
        chunk[..8].copy_from_slice(&number.to_be_bytes());
        let part = &chunk[..length];
        stream.write_all(part).with_context(|| format!("after {} bytes", meter.bytes))?;
        meter.record(part);
    }
    stream.shutdown(Shutdown::Write)?;
    // The receiver closes when it has read everything: only then did all of it arrive.
    let answer = stream.read(&mut [0])?;
    ensure!(answer == 0, "the receiver sent data");
    meter.finish(options.server)
}

/// The receiving end.
pub fn receive(options: &ReceiveOptions) -> Result<Stream> {
    let listener = TcpListener::bind(options.listen)?;
    announce_ready()?;
    let (mut stream, peer) = listener.accept()?;
    let mut buffer = vec![0; CHUNK];
    let mut meter = Meter::start();
    loop {
        match stream.read(&mut buffer).with_context(|| format!("after {} bytes", meter.bytes))? {
            0 => return meter.finish(peer),
            length => meter.record(&buffer[..length]),
        }
    }
}
