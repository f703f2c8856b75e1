//! The traffic of `labtool`: every byte that arrives is checked, not only counted, but for `flood`.
//!
//! Each page is one kind of traffic, with its server and its client. A server prints the line `ready` once it
//! listens; every command but an endless server ends with one line of JSON on standard output.

pub mod echo;
pub mod flood;
pub mod http;
pub mod latency;
pub mod payload;
pub mod request;
pub mod spread;
pub mod survey;
pub mod tcp_bulk;
pub mod udp_bulk;
pub mod whoami;

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use serde::Serialize;

/// Limit of a connect, and of the silence of a peer that must answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Tells the lab that the server listens.
pub fn announce_ready() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(b"ready\n")?;
    out.flush()
}

/// A server on `[::]` sees IPv4 clients as mapped addresses; this is what they are.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Times in microseconds.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Half of all took no longer.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Percentiles {
    /// Of these times; `None` if there are none.
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let micros = |time: &Duration| time.as_secs_f64() * 1e6;
        let max_us = times.last().map(micros)?;
        let at = |percent: usize| times.get(times.len() * percent / 100).map_or(max_us, micros);
        let mean_us = times.iter().map(micros).sum::<f64>() / times.len() as f64;
        Some(Self { mean_us, p50_us: at(50), p90_us: at(90), p99_us: at(99), max_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred() {
        let percentiles = Percentiles::of((1..=100).rev().map(Duration::from_micros).collect());
        let percentiles = percentiles.map(|p| [p.mean_us, p.p50_us, p.p90_us, p.p99_us, p.max_us]);
        let near = |got: f64, wanted: f64| (got - wanted).abs() < 1e-6;
        let wanted = [50.5, 51.0, 91.0, 100.0, 100.0];
        assert!(
            percentiles.is_some_and(|got| got.iter().zip(wanted).all(|(got, wanted)| near(*got, wanted)))
        );
        assert!(Percentiles::of(Vec::new()).is_none());
    }
}
