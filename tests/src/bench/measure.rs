//! What is measured between a client and a server.
//!
//! Both ends of a round trip stay on one CPU: each message then costs exactly what the path costs. Left to the
//! scheduler, they share a CPU in one run and wake each other from idle across CPUs in the next, which doubles
//! the time whatever is between them. The ends of a bulk stream have a CPU each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Path, Variant, machine::two_cpus, topology::Contender, witness::Expected};
use crate::{Namespace, Process};

/// Port of the echo servers.
pub const ECHO: u16 = 7;
/// Port of the servers of short connections.
pub const REQUESTS: u16 = 9001;
/// Port of the servers that tell a client its address.
pub const WHOAMI: u16 = 9002;
/// Port of iperf3.
pub const IPERF: u16 = 5201;

/// One kind of measurement; some give several figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One TCP message on its way at any time.
    TcpRoundTrip,
    /// One TCP stream.
    TcpBulk,
    /// One datagram on its way at any time.
    UdpRoundTrip,
    /// Connect, request, reply, close; one after another.
    Connections,
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Median of TCP round trips.
    TcpRoundTripP50,
    /// 99 of 100 TCP round trips took no longer.
    TcpRoundTripP99,
    /// Payload of one TCP stream.
    TcpThroughput,
    /// Median of UDP round trips.
    UdpRoundTripP50,
    /// 99 of 100 UDP round trips took no longer.
    UdpRoundTripP99,
    /// TCP connections in a second, each with a request and a reply.
    ConnectionRate,
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
    /// Seconds of bulk data, whole ones.
    pub bulk_seconds: u64,
    /// Seconds of short connections.
    pub connection_seconds: f64,
}

impl Effort {
    /// For figures.
    pub const FULL: Self = Self { round_trips: 20_000, bulk_seconds: 3, connection_seconds: 2.0 };
    /// To see that everything works.
    pub const QUICK: Self = Self { round_trips: 4_000, bulk_seconds: 1, connection_seconds: 0.5 };
}

impl Kind {
    /// In the order of a round.
    pub const ALL: [Self; 4] = [Self::TcpRoundTrip, Self::TcpBulk, Self::UdpRoundTrip, Self::Connections];
}

impl Measure {
    /// In the order of the table.
    pub const ALL: [Self; 6] = [
        Self::TcpRoundTripP50,
        Self::TcpRoundTripP99,
        Self::TcpThroughput,
        Self::UdpRoundTripP50,
        Self::UdpRoundTripP99,
        Self::ConnectionRate,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpRoundTripP50 => "TCP round trip p50",
            Self::TcpRoundTripP99 => "TCP round trip p99",
            Self::TcpThroughput => "TCP throughput",
            Self::UdpRoundTripP50 => "UDP round trip p50",
            Self::UdpRoundTripP99 => "UDP round trip p99",
            Self::ConnectionRate => "connections",
        }
    }

    /// Of its values.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::TcpThroughput => "Gbit/s",
            Self::ConnectionRate => "1/s",
            _ => "µs",
        }
    }

    /// Whether more is better; of times less is.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::TcpThroughput | Self::ConnectionRate)
    }
}

/// Measures once. With weft it is an error if the packets took another path.
pub fn run(contender: &Contender, kind: Kind, effort: &Effort) -> Result<Vec<Figure>> {
    let before = contender.witnesses.iter().map(|witness| witness.read()).collect::<Result<Vec<_>>>()?;
    let (figures, expected) = match kind {
        Kind::TcpRoundTrip => round_trips(contender, "tcp", effort)?,
        Kind::UdpRoundTrip => round_trips(contender, "udp", effort)?,
        Kind::TcpBulk => bulk(contender, effort)?,
        Kind::Connections => connections(contender, effort)?,
    };
    for (witness, before) in contender.witnesses.iter().zip(before) {
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
    let report = client.labtool(&format!(
        "requests {target}:{REQUESTS} --unlimited --workers 1 --seconds {seconds} --cpu {cpu}"
    ))?;
    let (succeeded, failed) = (number(&report, "succeeded")?, number(&report, "failed")?);
    ensure!(failed == 0.0, "{failed} connections failed, {succeeded} did not: {}", report["failures"]);
    let rate = succeeded / number(&report, "seconds")?;
    let count = report["succeeded"].as_u64().unwrap_or(0);
    Ok((vec![Figure { measure: Measure::ConnectionRate, value: rate }], Expected::of_connections(count)))
}

/// iperf3, for hashing what arrives, as labtool does, is slower than the paths.
fn bulk(contender: &Contender, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let Contender { client, server, target, .. } = contender;
    let seconds = effort.bulk_seconds;
    let [here, there] = two_cpus()?;
    // Answers one test: a server that a broken test has left waiting does not spoil the next.
    let mut listener =
        server.spawn(&format!("exec iperf3 --server --one-off --affinity {there} --port {IPERF}"))?;
    wait_until_listening(server, &mut listener)?;
    let text = client
        .check(&format!(
            "exec iperf3 --client {target} --port {IPERF} --time {seconds} --affinity {here} --json"
        ))
        .context("iperf3")?;
    let report: Value = serde_json::from_str(&text).context("output of iperf3")?;
    let received = &report["end"]["sum_received"];
    let bits = number(received, "bits_per_second")?;
    let bytes = received["bytes"].as_u64().context("iperf3 tells no bytes")?;
    let figure = Figure { measure: Measure::TcpThroughput, value: bits / 1e9 };
    Ok((vec![figure], Expected::of_bulk(bytes, contender.mtu()?)))
}

fn wait_until_listening(server: &Namespace, listener: &mut Process) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.check(&format!("ss -Hltn 'sport = :{IPERF}'"))?.is_empty() {
        ensure!(listener.status()?.is_none(), "the iperf3 server ended: {}", listener.stderr()?);
        ensure!(Instant::now() < deadline, "the iperf3 server does not listen");
    }
    Ok(())
}

fn number(report: &Value, field: &str) -> Result<f64> {
    report[field].as_f64().with_context(|| format!("no number `{field}` in {report}"))
}
