//! Datagrams one way, as many as can be: what arrives counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Effort, Figure, Measure, SINK, micros_each, number};
use crate::{
    bench::{cpu, machine::two_cpus, topology::Contender, witness::Expected},
    lab::namespace::labtool_result,
};

/// Payload of the smallest Ethernet frame, 64 bytes with its checksum (RFC 2544 section 9.1), less Ethernet, IPv4 and UDP.
const SMALL: u64 = 64 - 18 - 20 - 8;
/// IPv4 and UDP headers.
const HEADERS: u64 = 28;
/// UDP payloads are at most so long together when they are given to the kernel in one buffer.
const LARGEST: u64 = 65507;
/// The receiver ends soon after the sender.
const PATIENCE: Duration = Duration::from_secs(10);

struct Arrived {
    bytes: f64,
    datagrams: f64,
    seconds: f64,
    worked: Duration,
    expected: Expected,
}

/// Frames of 64 bytes.
pub(super) fn small(contender: &Contender, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let arrived = flood(contender, SMALL, 1, effort)?;
    let figures = vec![
        Figure { measure: Measure::UdpPacketRate, value: arrived.datagrams / arrived.seconds },
        Figure { measure: Measure::UdpPacketCpu, value: micros_each(arrived.worked, arrived.datagrams) },
    ];
    Ok((figures, arrived.expected))
}

/// Full packets, in buffers that the kernel cuts.
pub(super) fn large(contender: &Contender, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let size = contender.mtu()?.saturating_sub(HEADERS);
    ensure!(size > 0, "no room for a payload");
    let arrived = flood(contender, size, LARGEST / size, effort)?;
    let figures = vec![
        Figure { measure: Measure::UdpThroughput, value: arrived.bytes * 8.0 / arrived.seconds / 1e9 },
        Figure {
            measure: Measure::UdpThroughputCpu,
            value: micros_each(arrived.worked, arrived.bytes / 1e6),
        },
    ];
    Ok((figures, arrived.expected))
}

fn flood(contender: &Contender, size: u64, segments: u64, effort: &Effort) -> Result<Arrived> {
    let Contender { client, server, target, .. } = contender;
    let seconds = effort.datagram_seconds;
    let [here, there] = two_cpus()?;
    let mut sink = server.serve(&format!("udp-sink [::]:{SINK} --size {size} --cpu {there}"))?;
    let words = format!(
        "udp-flood {target}:{SINK} --size {size} --segments {segments} --seconds {seconds} --cpu {here}"
    );
    let (sent, worked) = cpu::during(|| client.labtool(&words))?;
    let received = labtool_result(&mut sink, PATIENCE)?;
    let arrived = received["datagrams"].as_u64().context("no number of datagrams")?;
    let sent = sent["datagrams"].as_u64().context("no number of datagrams")?;
    ensure!(arrived > 0, "{sent} datagrams were sent and none arrived");
    Ok(Arrived {
        bytes: number(&received, "bytes")?,
        datagrams: arrived as f64,
        seconds: number(&received, "seconds")?,
        worked,
        expected: Expected::of_flood(arrived, sent),
    })
}
