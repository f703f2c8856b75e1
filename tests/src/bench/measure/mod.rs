//! What is measured between a client and a server.
//!
//! Both ends of a round trip stay on one CPU: each message then costs exactly what the path costs. Left to the
//! scheduler, they share a CPU in one run and wake each other from idle across CPUs in the next, which doubles
//! the time whatever is between them. The ends of everything else have a CPU each.

mod applications;
mod bulk;
mod datagrams;
mod names;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use names::Measure;

use super::{Path, Variant, cpu, machine::two_cpus, topology::Contender, witness::Expected};
use crate::{Namespace, Process};

/// Port of the echo servers.
pub const ECHO: u16 = 7;
/// Port of nginx.
pub const HTTP: u16 = 80;
/// Port of the servers of short connections.
pub const REQUESTS: u16 = 9001;
/// Port of the servers that tell a client its address.
pub const WHOAMI: u16 = 9002;
/// Port of the receivers of datagrams.
pub const SINK: u16 = 9003;
/// Port of iperf3.
pub const IPERF: u16 = 5201;
/// Port of redis.
pub const REDIS: u16 = 6379;

/// One kind of measurement; some give several figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One TCP message on its way at any time
    TcpRoundTrip,
    /// One TCP stream to the server
    TcpBulk,
    /// One TCP stream from the server
    TcpBulkBack,
    /// Eight TCP streams to the server
    TcpBulkEight,
    /// Eight TCP streams from the server
    TcpBulkEightBack,
    /// One datagram on its way at any time
    UdpRoundTrip,
    /// As many small datagrams as can be
    UdpPackets,
    /// As many full datagrams as can be, by UDP_SEGMENT
    UdpBulk,
    /// Connect, request, reply, close; one after another
    Connections,
    /// redis-benchmark
    Redis,
    /// wrk, with nginx
    Http,
}

/// One figure of one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Of what.
    pub measure: Measure,
    /// In the measure's unit.
    pub value: f64,
}

/// One figure of one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// From 1.
    pub round: u32,
    /// The path.
    pub path: Path,
    /// The variant.
    pub variant: Variant,
    /// The figure's kind.
    pub measure: Measure,
    /// In its unit.
    pub value: f64,
}

/// How long each measurement is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Effort {
    /// Round trips.
    pub round_trips: u64,
    /// Seconds of each TCP bulk measurement, whole ones.
    pub bulk_seconds: u64,
    /// Seconds of each UDP measurement.
    pub datagram_seconds: f64,
    /// Seconds of short connections.
    pub connection_seconds: f64,
    /// Requests to redis.
    pub redis_requests: u64,
    /// Seconds of HTTP requests, whole ones.
    pub http_seconds: u64,
}

impl Effort {
    /// For figures: all paths take some 22 minutes.
    pub const FULL: Self = Self {
        round_trips: 20_000,
        bulk_seconds: 1,
        datagram_seconds: 0.7,
        connection_seconds: 0.7,
        redis_requests: 50_000,
        http_seconds: 1,
    };
    /// To see that everything works.
    pub const QUICK: Self = Self {
        round_trips: 4_000,
        bulk_seconds: 1,
        datagram_seconds: 0.3,
        connection_seconds: 0.3,
        redis_requests: 10_000,
        http_seconds: 1,
    };
}

impl Kind {
    /// In the order of a round.
    pub const ALL: [Self; 11] = [
        Self::TcpRoundTrip,
        Self::TcpBulk,
        Self::TcpBulkBack,
        Self::TcpBulkEight,
        Self::TcpBulkEightBack,
        Self::UdpRoundTrip,
        Self::UdpPackets,
        Self::UdpBulk,
        Self::Connections,
        Self::Redis,
        Self::Http,
    ];
}

/// Measures once. With weft it is an error if the packets took another path.
pub fn run(contender: &Contender, kind: Kind, effort: &Effort) -> Result<Vec<Figure>> {
    let witnesses = contender.witnesses.iter().map(|witness| witness.during(kind)).collect::<Vec<_>>();
    let before = witnesses.iter().map(|witness| witness.read()).collect::<Result<Vec<_>>>()?;
    let (figures, expected) = match kind {
        Kind::TcpRoundTrip => round_trips(contender, "tcp", effort)?,
        Kind::UdpRoundTrip => round_trips(contender, "udp", effort)?,
        Kind::TcpBulk => bulk::run(contender, &bulk::ONE, effort)?,
        Kind::TcpBulkBack => bulk::run(contender, &bulk::ONE_BACK, effort)?,
        Kind::TcpBulkEight => bulk::run(contender, &bulk::EIGHT, effort)?,
        Kind::TcpBulkEightBack => bulk::run(contender, &bulk::EIGHT_BACK, effort)?,
        Kind::UdpPackets => datagrams::small(contender, effort)?,
        Kind::UdpBulk => datagrams::large(contender, effort)?,
        Kind::Connections => connections(contender, effort)?,
        Kind::Redis => applications::redis(contender, effort)?,
        Kind::Http => applications::http(contender, effort)?,
    };
    for (witness, before) in witnesses.iter().zip(before) {
        witness.check(before, witness.read()?, expected)?;
    }
    Ok(figures)
}

fn round_trips(contender: &Contender, protocol: &str, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let Contender { client, target, .. } = contender;
    let count = effort.round_trips;
    let [_, cpu] = two_cpus()?;
    let report =
        client.labtool(&format!("latency {protocol} {target}:{ECHO} --count {count} --cpu {cpu}"))?;
    let lost = number(&report, "lost")?;
    ensure!(lost == 0.0, "{lost} of {count} datagrams were lost");
    let [p50, p99] = match protocol {
        "tcp" => [Measure::TcpRoundTripP50, Measure::TcpRoundTripP99],
        _ => [Measure::UdpRoundTripP50, Measure::UdpRoundTripP99],
    };
    let figures = vec![
        Figure { measure: p50, value: number(&report, "p50_us")? },
        Figure { measure: p99, value: number(&report, "p99_us")? },
    ];
    Ok((figures, Expected::of_messages(count)))
}

fn connections(contender: &Contender, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let Contender { client, target, .. } = contender;
    let seconds = effort.connection_seconds;
    let [_, cpu] = two_cpus()?;
    // One worker: the next connection begins when the last one has ended, so that the rate is the time it takes.
    let words =
        format!("requests {target}:{REQUESTS} --unlimited --workers 1 --seconds {seconds} --cpu {cpu}");
    let (report, worked) = cpu::during(|| client.labtool(&words))?;
    let (succeeded, failed) = (number(&report, "succeeded")?, number(&report, "failed")?);
    ensure!(failed == 0.0, "{failed} connections failed, {succeeded} did not: {}", report["failures"]);
    let rate = succeeded / number(&report, "seconds")?;
    let count = report["succeeded"].as_u64().unwrap_or(0);
    let figures = vec![
        Figure { measure: Measure::ConnectionRate, value: rate },
        Figure { measure: Measure::ConnectionCpu, value: micros_each(worked, succeeded) },
    ];
    Ok((figures, Expected::of_connections(count)))
}

/// CPU time of each of so many.
fn micros_each(worked: Duration, count: f64) -> f64 {
    worked.as_secs_f64() * 1e6 / count.max(1.0)
}

/// Waits until a server that was just started listens.
pub(super) fn wait_until_listening(server: &Namespace, listener: &mut Process, port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.check(&format!("ss -Hltn 'sport = :{port}'"))?.is_empty() {
        ensure!(listener.status()?.is_none(), "the server ended: {}", listener.stderr()?);
        ensure!(Instant::now() < deadline, "the server does not listen");
    }
    Ok(())
}

fn number(report: &Value, field: &str) -> Result<f64> {
    report[field].as_f64().with_context(|| format!("no number `{field}` in {report}"))
}
