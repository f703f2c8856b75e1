//! Many short connections at a steady rate, or as many as can be: connect, request, reply, close. Every one must succeed.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use super::{Percentiles, announce_ready, payload};

const LENGTH: usize = 64;

/// Answers requests.
#[derive(Debug, clap::Args)]
pub struct ServeOptions {
    /// Where to listen.
    pub listen: SocketAddr,
}

/// Makes connections.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Connections in a second.
    #[arg(long, default_value_t = 100)]
    pub rate: u64,
    /// No steady rate: each worker makes its next connection when its last one has ended.
    #[arg(long, conflicts_with = "rate")]
    pub unlimited: bool,
    /// For how long.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// A step that takes longer is a failure.
    #[arg(long, default_value_t = 3000)]
    pub timeout_ms: u64,
    /// Connections at one time.
    #[arg(long, default_value_t = 32)]
    pub workers: usize,
}

/// What became of them.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Connections tried.
    pub attempted: u64,
    /// Those with the right reply and an orderly end.
    pub succeeded: u64,
    /// The others.
    pub failed: u64,
    /// The others, by reason.
    pub failures: BTreeMap<String, u64>,
    /// How long it took; more than asked for means that the rate was not reached.
    pub seconds: f64,
    /// From connect to close.
    pub latency: Option<Percentiles>,
}

/// The server: one request for each connection, which it closes first, so that TIME-WAIT (RFC 9293
/// section 3.6) is not on the side that needs the port for the next connection.
pub fn serve(options: &ServeOptions) -> Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    announce_ready()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut request = [0; LENGTH];
            // What went wrong is the client's to report.
            let _ = stream.read_exact(&mut request).and_then(|()| {
                request.reverse();
                stream.write_all(&request)
            });
        });
    }
    Ok(())
}

/// The client.
pub fn run(options: &Options) -> Result<Report> {
    let total = (options.rate as f64 * options.seconds).round() as u64;
    let next = AtomicU64::new(0);
    let results = Mutex::new((Vec::new(), BTreeMap::<String, u64>::new()));
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    thread::scope(|scope| {
        for _ in 0..options.workers.max(1) {
            scope.spawn(|| {
                loop {
                    if options.unlimited && Instant::now() >= end {
                        return;
                    }
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !options.unlimited {
                        if number >= total {
                            return;
                        }
                        let due = start + Duration::from_secs_f64(number as f64 / options.rate as f64);
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                    let begun = Instant::now();
                    let outcome = exchange(options, number);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok(()) => results.0.push(begun.elapsed()),
                        Err(reason) => *results.1.entry(reason).or_default() += 1,
                    }
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let (times, failures) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let succeeded = times.len() as u64;
    let failed = failures.values().sum();
    Ok(Report {
        attempted: succeeded + failed,
        succeeded,
        failed,
        failures,
        seconds,
        latency: Percentiles::of(times),
    })
}

fn exchange(options: &Options, number: u64) -> Result<(), String> {
    let timeout = Duration::from_millis(options.timeout_ms.max(1));
    let step = |name: &'static str| move |error: io::Error| format!("{name}: {}", error.kind());
    let mut stream = TcpStream::connect_timeout(&options.server, timeout).map_err(step("connect"))?;
    stream.set_read_timeout(Some(timeout)).map_err(step("set timeout"))?;
    let mut request = payload::pseudo_random(number, LENGTH);
    stream.write_all(&request).map_err(step("request"))?;
    let mut reply = Vec::with_capacity(LENGTH);
    // To the end of the stream: a reset instead of an orderly close is a failure.
    stream.read_to_end(&mut reply).map_err(step("reply"))?;
    request.reverse();
    if reply == request { Ok(()) } else { Err(format!("wrong reply of {} bytes", reply.len())) }
}
