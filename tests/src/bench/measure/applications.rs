//! Real applications, each with the client program that comes with it or that everybody takes.

use anyhow::{Context, Result, ensure};

use super::{Effort, Figure, HTTP, Measure, REDIS, micros_each};
use crate::bench::{cpu, machine::two_cpus, topology::Contender, witness::Expected};

/// Connections at one time, of each.
const CONNECTIONS: u64 = 16;

/// GET of a small value.
pub(super) fn redis(contender: &Contender, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let Contender { client, target, .. } = contender;
    let count = effort.redis_requests;
    let [here, _] = two_cpus()?;
    let command = format!(
        "exec taskset -c {here} redis-benchmark -h {target} -p {REDIS} -t get -n {count} -c {CONNECTIONS} --csv"
    );
    let (text, worked) = cpu::during(|| client.check(&command))?;
    let figures = vec![
        Figure { measure: Measure::RedisRate, value: redis_rate(&text)? },
        Figure { measure: Measure::RedisCpu, value: micros_each(worked, count as f64) },
    ];
    Ok((figures, Expected::of_requests(count)))
}

/// A page of a few bytes.
pub(super) fn http(contender: &Contender, effort: &Effort) -> Result<(Vec<Figure>, Expected)> {
    let Contender { client, target, .. } = contender;
    let seconds = effort.http_seconds;
    let [here, _] = two_cpus()?;
    let command = format!(
        "exec taskset -c {here} wrk --threads 1 --connections {CONNECTIONS} --duration {seconds}s http://{target}:{HTTP}/"
    );
    let (text, worked) = cpu::during(|| client.check(&command))?;
    let (count, rate) = http_rate(&text)?;
    let figures = vec![
        Figure { measure: Measure::HttpRate, value: rate },
        Figure { measure: Measure::HttpCpu, value: micros_each(worked, count as f64) },
    ];
    Ok((figures, Expected::of_requests(count)))
}

/// The second column of the line `"GET",…`.
fn redis_rate(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("\"GET\",\""));
    let rate = line.and_then(|line| line.split('"').next()).and_then(|rate| rate.parse().ok());
    rate.with_context(|| format!("redis-benchmark tells no rate: {text}"))
}

/// How many requests, and in a second. Every one must have been answered well.
fn http_rate(text: &str) -> Result<(u64, f64)> {
    ensure!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "requests failed: {text}");
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    count.zip(rate).with_context(|| format!("wrk tells no rate: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_the_clients() -> Result<()> {
        let redis = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"66666.66\",\"0.379\"\n";
        assert_eq!(redis_rate(redis)?, 66666.66);
        assert!(redis_rate("Could not connect to Redis").is_err());
        let wrk = "  Thread Stats   Avg\n  24013 requests in 1.10s, 3.89MB read\nRequests/sec:  21830.00\n";
        assert_eq!(http_rate(wrk)?, (24013, 21830.0));
        assert!(http_rate(&format!("{wrk}  Non-2xx or 3xx responses: 5\n")).is_err());
        Ok(())
    }
}
