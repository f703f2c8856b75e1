//! The pair of devices that fragments wait in.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context, Result};
use weft::netdev::{DelaySpec, Netlink};

use crate::world::{device, in_fresh_namespace, run};

fn received(name: &str) -> Result<u64> {
    let seen = device(&format!("ip -j -s link show dev {name}"))?;
    seen["stats64"]["rx"]["packets"].as_u64().context("no number of packets")
}

#[test]
fn only_what_was_sent_in_comes_out_of_a_delaying_pair() -> Result<()> {
    in_fresh_namespace(|| async {
        run("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
        let spec = DelaySpec {
            entrance: "weft-wait".into(),
            exit: "weft-back".into(),
            alias: "weft waiting room".into(),
            rate: 12_500_000,
            minimum_packet: 1_500,
            burst: 66_000,
            limit: 170,
        };
        Netlink::new()?.ensure_delay(&spec).await?;
        // A report of MLD is sent twice, at random times of up to a second (RFC 3810 sections 9.1 and 9.11).
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!((received("weft-wait")?, received("weft-back")?), (0, 0));

        run("ip address add 192.0.2.1/24 dev weft-wait")?;
        UdpSocket::bind("192.0.2.1:0")?.send_to(b"who has 192.0.2.2?", "192.0.2.2:9")?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(received("weft-back")? > 0);
        Ok(())
    })
}
