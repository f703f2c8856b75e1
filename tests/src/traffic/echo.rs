//! TCP and UDP echo, and a UDP client that sends on whether answers come or not.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde::Serialize;

use super::{
    Percentiles, announce_ready,
    payload::{Arrivals, Datagrams},
};

/// Returns what it gets.
#[derive(Debug, clap::Args)]
pub struct ServeOptions {
    /// Where to listen, with both protocols.
    pub listen: SocketAddr,
}

/// Sends numbered datagrams to an echo server at a steady rate.
#[derive(Debug, clap::Args)]
pub struct PingOptions {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Datagrams.
    #[arg(long, default_value_t = 100)]
    pub count: u64,
    /// Time between two of them.
    #[arg(long, default_value_t = 1000)]
    pub interval_us: u64,
    /// Payload bytes of each.
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// How long to wait for the last answers.
    #[arg(long, default_value_t = 1000)]
    pub linger_ms: u64,
}

/// What came back.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Sends that the kernel refused (an ICMP error before, a full queue).
    pub send_errors: u64,
    /// Correct answers.
    pub received: u64,
    /// Sent but not answered.
    pub lost: u64,
    /// Answers that were not what was sent.
    pub corrupted: u64,
    /// Answers that came twice.
    pub duplicates: u64,
    /// The longest time between two answers, the start and the last one included.
    pub longest_silence_ms: u64,
    /// From send to answer.
    pub round_trip: Option<Percentiles>,
}

/// Room for what comes in seconds in which a busy machine does not let this process run: what is lost here is no loss of the
/// network's. The usual room is some 250 datagrams.
fn enlarge(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, RcvBufForce, &(16 << 20)).context("SO_RCVBUFFORCE")
}

/// The server of both protocols.
pub fn serve(options: &ServeOptions) -> Result<()> {
    let listener = TcpListener::bind(options.listen).context("TCP")?;
    let socket = UdpSocket::bind(options.listen).context("UDP")?;
    enlarge(&socket)?;
    announce_ready()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo_stream(stream));
        }
    });
    let mut buffer = vec![0; 65536];
    loop {
        // An ICMP error of an earlier answer is reported here; the next datagram is as good as any.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let _ = socket.send_to(&buffer[..length], client);
    }
}

fn echo_stream(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// A UDP socket for one server.
pub(super) fn connected(server: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    enlarge(&socket)?;
    socket.connect(server).with_context(|| format!("a route to {server}"))?;
    Ok(socket)
}

/// The UDP client.
pub fn ping(options: &PingOptions) -> Result<Report> {
    let socket = connected(options.server)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let interval = Duration::from_micros(options.interval_us);
    let datagrams = Datagrams::new(options.size);
    let (mut sent, mut send_errors) = (0, 0);
    let start = Instant::now();
    let sending = AtomicBool::new(true);
    let due = |sequence: u64| interval.mul_f64(sequence as f64);
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&socket, options, start, &sending));
        let mut datagram = Vec::new();
        for sequence in 0..options.count {
            thread::sleep((start + due(sequence)).saturating_duration_since(Instant::now()));
            datagram.clear();
            datagrams.append(sequence, &mut datagram);
            match socket.send(&datagram) {
                Ok(_) => sent += 1,
                Err(_) => send_errors += 1,
            }
        }
        sending.store(false, Ordering::Release);
        receiver.join()
    });
    let (arrivals, times, silence) = received.map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
    Ok(Report {
        sent,
        send_errors,
        received: arrivals.correct,
        lost: (sent + send_errors).saturating_sub(arrivals.correct),
        corrupted: arrivals.corrupted,
        duplicates: arrivals.duplicates,
        longest_silence_ms: u64::try_from(silence.as_millis())?,
        round_trip: Percentiles::of(times),
    })
}

fn receive(
    socket: &UdpSocket,
    options: &PingOptions,
    start: Instant,
    sending: &AtomicBool,
) -> (Arrivals, Vec<Duration>, Duration) {
    let linger = Duration::from_millis(options.linger_ms);
    let interval = Duration::from_micros(options.interval_us);
    let (mut arrivals, mut times) = (Arrivals::default(), Vec::new());
    let (mut last, mut silence) = (start, Duration::ZERO);
    let mut ended = None;
    let mut buffer = vec![0; 65536];
    while arrivals.correct < options.count {
        if !sending.load(Ordering::Acquire) && ended.get_or_insert_with(Instant::now).elapsed() > linger {
            break;
        }
        // A timeout, or an ICMP error: the loss is counted.
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let now = Instant::now();
        if let Some(sequence) = arrivals.record(&buffer[..length]) {
            // From when it was due: a sender that the system delayed counts as delay (coordinated omission).
            times.push(now.saturating_duration_since(start + interval.mul_f64(sequence as f64)));
            silence = silence.max(now - last);
            last = now;
        }
    }
    if arrivals.correct < options.count {
        silence = silence.max(last.elapsed().saturating_sub(linger));
    }
    (arrivals, times, silence)
}
