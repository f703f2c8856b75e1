//! One datagram to each of many destinations: that many flows of one socket.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// Ports at each address.
const PORTS: u32 = 16;
/// First of them.
const FIRST_PORT: u16 = 9000;
/// Of 198.18.0.0/15, the addresses for benchmarks (RFC 2544 appendix C.2.2).
const FIRST_ADDRESS: u32 = 0xc612_0000;
const ADDRESSES: u32 = 1 << 17;

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Destinations: each is a flow of its own.
    #[arg(long)]
    pub flows: u32,
    /// Own port: the same in each run, so that the flows are the same.
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    /// How many datagrams to send, one destination after the other; as many as there are destinations if not given.
    #[arg(long)]
    pub count: Option<u64>,
}

/// What was sent.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Datagrams.
    pub datagrams: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Sends.
pub fn run(options: &Options) -> Result<Report> {
    let most = ADDRESSES * PORTS;
    ensure!((1..=most).contains(&options.flows), "--flows is 1 to {most}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, options.port))?;
    let count = options.count.unwrap_or(u64::from(options.flows));
    let start = Instant::now();
    for number in (0..options.flows).cycle().take(usize::try_from(count)?) {
        socket
            .send_to(&[0; 18], destination(number))
            .with_context(|| format!("to {}", destination(number)))?;
    }
    Ok(Report { datagrams: count, seconds: start.elapsed().as_secs_f64() })
}

/// Neighbours in this order are far from each other in a hash table.
fn destination(number: u32) -> SocketAddr {
    let port = FIRST_PORT + (number % PORTS) as u16;
    SocketAddrV4::new(Ipv4Addr::from(FIRST_ADDRESS + number / PORTS), port).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flow_has_a_destination_of_its_own() {
        let all = (0..100_000).map(destination).collect::<HashSet<_>>();
        assert_eq!(all.len(), 100_000);
        assert_eq!(destination(ADDRESSES * PORTS - 1).to_string(), "198.19.255.255:9015");
    }
}
