//! How fast a path is, in a lab that was built for something else.

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    Namespace,
    bench::{
        machine::{two_cpus, without_time_wait},
        statistics::Spread,
    },
};

/// Of one way between a client and a server.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// Median TCP round trip.
    pub round_trip_us: Spread,
    /// TCP connections in a second, each with a request and a reply.
    pub connection_rate: Spread,
}

/// From the client to this address and port, where the server listens at another port of its own.
pub(super) fn measure(
    client: &Namespace,
    target: &str,
    (server, port): (&Namespace, u16),
    rounds: u32,
) -> Result<Speed> {
    let [_, cpu] = two_cpus()?;
    without_time_wait(server)?;
    let (mut round_trips, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let echo = server.serve(&format!("echo-serve [::]:{port} --cpu {cpu}"))?;
        let report = client.labtool(&format!("latency tcp {target} --count 5000 --cpu {cpu}"))?;
        round_trips.push(report["p50_us"].as_f64().context("no median")?);
        drop(echo);
        let _requests = server.serve(&format!("request-serve [::]:{port} --cpu {cpu}"))?;
        let report = client
            .labtool(&format!("requests {target} --unlimited --workers 1 --seconds 0.5 --cpu {cpu}"))?;
        ensure!(report["failed"] == 0, "connections failed: {report}");
        let number = |field: &str| report[field].as_f64().with_context(|| format!("no {field}: {report}"));
        rates.push(number("succeeded")? / number("seconds")?);
    }
    Ok(Speed {
        round_trip_us: Spread::of(round_trips).context("no rounds")?,
        connection_rate: Spread::of(rates).context("no rounds")?,
    })
}
