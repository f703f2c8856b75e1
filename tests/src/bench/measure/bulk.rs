//! TCP streams, by iperf3: hashing what arrives, as labtool does, is slower than the paths.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Effort, Figure, IPERF, Measure, micros_each, number, wait_until_listening};
use crate::bench::{cpu, machine::two_cpus, topology::Contender, witness::Expected};

/// How many streams, and which way.
pub(super) struct Streams {
    options: &'static str,
    is_back: bool,
    throughput: Measure,
    cpu: Measure,
}

pub(super) const ONE: Streams = Streams {
    options: "",
    is_back: false,
    throughput: Measure::TcpThroughput,
    cpu: Measure::TcpThroughputCpu,
};
pub(super) const ONE_BACK: Streams = Streams {
    options: "--reverse",
    is_back: true,
    throughput: Measure::TcpThroughputBack,
    cpu: Measure::TcpThroughputBackCpu,
};
pub(super) const EIGHT: Streams = Streams {
    options: "--parallel 8",
    is_back: false,
    throughput: Measure::TcpThroughputEight,
    cpu: Measure::TcpThroughputEightCpu,
};
pub(super) const EIGHT_BACK: Streams = Streams {
    options: "--parallel 8 --reverse",
    is_back: true,
    throughput: Measure::TcpThroughputEightBack,
    cpu: Measure::TcpThroughputEightBackCpu,
};

pub(super) fn run(
    contender: &Contender,
    streams: &Streams,
    effort: &Effort,
) -> Result<(Vec<Figure>, Expected)> {
    let Contender { client, server, target, .. } = contender;
    let (seconds, options) = (effort.bulk_seconds, streams.options);
    let [here, there] = two_cpus()?;
    // Answers one test: a server that a broken test has left waiting does not spoil the next.
    let mut listener =
        server.spawn(&format!("exec iperf3 --server --one-off --affinity {there} --port {IPERF}"))?;
    wait_until_listening(server, &mut listener, IPERF).context("iperf3")?;
    let command = format!(
        "exec iperf3 --client {target} --port {IPERF} --time {seconds} --affinity {here} --json {options}"
    );
    let (text, worked) = cpu::during(|| client.check(&command)).context("iperf3")?;
    let report: Value = serde_json::from_str(&text).context("output of iperf3")?;
    let received = &report["end"]["sum_received"];
    let bits = number(received, "bits_per_second")?;
    let bytes = received["bytes"].as_u64().context("iperf3 tells no bytes")?;
    let figures = vec![
        Figure { measure: streams.throughput, value: bits / 1e9 },
        Figure { measure: streams.cpu, value: micros_each(worked, bytes as f64 / 1e6) },
    ];
    let expected = Expected::of_bulk(bytes, contender.mtu()?);
    Ok((figures, if streams.is_back { expected.back() } else { expected }))
}
