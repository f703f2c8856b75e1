//! Numbered, hashed datagrams one way; with UDP_SEGMENT the kernel gets many in one buffer (GSO).

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

use super::{
    announce_ready, canonical, echo,
    payload::{Arrivals, Datagrams, SMALLEST_DATAGRAM},
};

/// UDP_MAX_SEGMENTS of the kernel before 6.9; now 128.
const MOST_SEGMENTS: usize = 64;

/// Sends datagrams.
#[derive(Debug, clap::Args)]
pub struct SendOptions {
    /// Where the receiver listens.
    pub server: SocketAddr,
    /// Datagrams.
    #[arg(long, default_value_t = 1000)]
    pub count: u64,
    /// Payload bytes of each.
    #[arg(long, default_value_t = 1400)]
    pub size: usize,
    /// Datagrams in a second.
    #[arg(long, default_value_t = 10_000)]
    pub rate: u64,
    /// Give the kernel this many at once, to be cut by UDP_SEGMENT (1: plain sends).
    #[arg(long, default_value_t = 1)]
    pub segments: usize,
}

/// Receives datagrams.
#[derive(Debug, clap::Args)]
pub struct ReceiveOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Ends after this many correct ones.
    #[arg(long)]
    pub count: Option<u64>,
    /// Ends when nothing came for so long after the first one.
    #[arg(long, default_value_t = 1000)]
    pub idle_ms: u64,
    /// Ends after this time in any case.
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
}

/// What was sent.
#[derive(Debug, Serialize)]
pub struct Sent {
    /// Datagrams.
    pub datagrams: u64,
    /// System calls it took.
    pub sends: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What came.
#[derive(Debug, Serialize)]
pub struct Received {
    /// Distinct, correct datagrams.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
    /// Datagrams with a bit that was not sent so.
    pub corrupted: u64,
    /// Datagrams that came twice.
    pub duplicates: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// Numbers below the highest that did not come.
    pub gaps: u64,
    /// The senders' addresses.
    pub peers: BTreeSet<SocketAddr>,
}

/// The sender.
pub fn send(options: &SendOptions) -> Result<Sent> {
    let (size, segments) = (options.size, options.segments);
    ensure!(size >= SMALLEST_DATAGRAM, "--size is at least {SMALLEST_DATAGRAM}: a number and a hash");
    ensure!(
        (1..=MOST_SEGMENTS).contains(&segments) && size * segments <= 65507,
        "--segments is 1 to {MOST_SEGMENTS}, and together they are at most 65507 bytes"
    );
    let socket = echo::connected(options.server)?;
    if segments > 1 {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(size)?).context("UDP_SEGMENT")?;
    }
    let datagrams = Datagrams::new(size);
    let mut buffer = Vec::with_capacity(size * segments);
    let start = Instant::now();
    let (mut sequence, mut sends) = (0, 0);
    while sequence < options.count {
        let due = start + Duration::from_secs_f64(sequence as f64 / options.rate.max(1) as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        buffer.clear();
        let last = options.count.min(sequence + segments as u64);
        (sequence..last).for_each(|sequence| datagrams.append(sequence, &mut buffer));
        let length = socket.send(&buffer).with_context(|| format!("after {sequence} datagrams"))?;
        ensure!(length == buffer.len(), "the kernel took {length} of {} bytes", buffer.len());
        sequence = last;
        sends += 1;
    }
    Ok(Sent { datagrams: sequence, sends, seconds: start.elapsed().as_secs_f64() })
}

/// The receiver.
pub fn receive(options: &ReceiveOptions) -> Result<Received> {
    let socket = UdpSocket::bind(options.listen)?;
    // A test of the network must not fail because the receiver was not scheduled for a moment.
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).context("SO_RCVBUFFORCE")?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    announce_ready()?;
    let idle = Duration::from_millis(options.idle_ms);
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let (mut arrivals, mut bytes, mut peers) = (Arrivals::default(), 0, BTreeSet::new());
    let mut last: Option<Instant> = None;
    let mut buffer = vec![0; 65536];
    while Instant::now() < end
        && last.is_none_or(|last| last.elapsed() < idle)
        && options.count.is_none_or(|count| arrivals.correct < count)
    {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        last = Some(Instant::now());
        peers.insert(canonical(peer));
        if arrivals.record(&buffer[..length]).is_some() {
            bytes += length as u64;
        }
    }
    Ok(Received {
        datagrams: arrivals.correct,
        bytes,
        corrupted: arrivals.corrupted,
        duplicates: arrivals.duplicates,
        reordered: arrivals.reordered,
        gaps: arrivals.gaps(),
        peers,
    })
}
