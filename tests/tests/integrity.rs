//! Every byte that is sent arrives as it was sent, on every path of one host: plain, CHECKSUM_PARTIAL and GSO.

mod common;

use anyhow::Result;
use common::OneHost;
use tests::Namespace;

/// TCP bulk, small and large datagrams, and UDP_SEGMENT, with the receiver's checksum counters. `ports`: of TCP and UDP,
/// those that are sent to and those that the receiver listens on.
fn everything(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    ports: (u16, u16),
    listen: (u16, u16),
) -> Result<()> {
    common::bulk(from, to, &format!("{address}:{}", ports.0), listen.0, 100_000_007)?;
    for (size, segments) in [(64, 1), (1400, 1), (1400, 40)] {
        common::datagrams(from, to, &format!("{address}:{}", ports.1), listen.1, (4000, size, segments))?;
    }
    assert_eq!((from.checksum_errors()?, to.checksum_errors()?), (0, 0), "{address}");
    Ok(())
}

#[test]
fn bridge() -> Result<()> {
    let it = OneHost::new("ibridge")?;
    everything(&it.shop, &it.web, "10.10.0.10", (9000, 9001), (9000, 9001))?;
    assert!(it.packets("bridge")? > 10_000);
    it.lab.finish()
}

#[test]
fn masquerade() -> Result<()> {
    let it = OneHost::new("imasq")?;
    everything(&it.web, &it.client, "192.0.2.100", (9000, 9001), (9000, 9001))?;
    assert!(it.packets("masquerade_out")? > 10_000 && it.packets("masquerade_in")? > 200);
    it.lab.finish()
}

#[test]
fn port_mapping() -> Result<()> {
    let it = OneHost::new("iport")?;
    everything(&it.client, &it.web, "192.0.2.1", (8080, 5353), (80, 53))?;
    assert!(it.packets("portmap_in")? > 10_000 && it.packets("portmap_out")? > 200);
    it.lab.finish()
}

#[test]
fn hairpin() -> Result<()> {
    let it = OneHost::new("ihair")?;
    everything(&it.shop, &it.web, "192.0.2.1", (8080, 5353), (80, 53))?;
    everything(&it.other, &it.web, "10.12.0.1", (8080, 5353), (80, 53))?;
    everything(&it.web, &it.web, "192.0.2.1", (8080, 5353), (80, 53))?;
    assert!(it.packets("hairpin_in")? > 30_000 && it.packets("hairpin_out")? > 600);
    it.lab.finish()
}

#[test]
fn host_sockets() -> Result<()> {
    let it = OneHost::new("ihost")?;
    everything(&it.host, &it.web, "127.0.0.1", (8080, 5353), (80, 53))?;
    assert!(it.packets("host_socket")? > 0);
    it.lab.finish()
}
