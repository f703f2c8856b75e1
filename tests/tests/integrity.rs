//! Every byte that is sent arrives as it was sent, on every path of one host: plain, CHECKSUM_PARTIAL and GSO.

mod common;

use anyhow::Result;
use common::{LIMIT, OneHost, number};
use tests::{Namespace, lab::namespace::labtool_result};

/// TCP bulk, small and large datagrams, and UDP_SEGMENT, with the receiver's checksum counters.
fn bulk(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    tcp: u16,
    udp: u16,
    listen: (u16, u16),
) -> Result<()> {
    let mut receiver = to.serve(&format!("tcp-receive [::]:{}", listen.0))?;
    let sent = from.labtool(&format!("tcp-send {address}:{tcp} --bytes 100000007"))?;
    let received = labtool_result(&mut receiver, LIMIT)?;
    assert_eq!(
        (&sent["bytes"], &sent["sha256"]),
        (&received["bytes"], &received["sha256"]),
        "{address}:{tcp}"
    );
    for (segments, size) in [(1, 64), (1, 1400), (40, 1400)] {
        let mut receiver = to.serve(&format!("udp-receive [::]:{} --count 4000", listen.1))?;
        from.labtool(&format!("udp-send {address}:{udp} --count 4000 --size {size} --segments {segments}"))?;
        let received = labtool_result(&mut receiver, LIMIT)?;
        let counts =
            (number(&received, "datagrams"), number(&received, "corrupted"), number(&received, "duplicates"));
        assert_eq!(counts, (4000, 0, 0), "{address}:{udp} {size} bytes x {segments}: {received}");
    }
    assert_eq!((from.checksum_errors()?, to.checksum_errors()?), (0, 0), "{address}");
    Ok(())
}

#[test]
fn bridge() -> Result<()> {
    let it = OneHost::new("ibridge")?;
    bulk(&it.shop, &it.web, "10.10.0.10", 9000, 9001, (9000, 9001))?;
    assert!(it.packets("bridge")? > 10_000);
    it.lab.finish()
}

#[test]
fn masquerade() -> Result<()> {
    let it = OneHost::new("imasq")?;
    bulk(&it.web, &it.client, "192.0.2.100", 9000, 9001, (9000, 9001))?;
    assert!(it.packets("masquerade_out")? > 10_000 && it.packets("masquerade_in")? > 1000);
    it.lab.finish()
}

#[test]
fn port_mapping() -> Result<()> {
    let it = OneHost::new("iport")?;
    bulk(&it.client, &it.web, "192.0.2.1", 8080, 5353, (80, 53))?;
    assert!(it.packets("portmap_in")? > 10_000 && it.packets("portmap_out")? > 1000);
    it.lab.finish()
}

#[test]
fn hairpin() -> Result<()> {
    let it = OneHost::new("ihair")?;
    bulk(&it.shop, &it.web, "192.0.2.1", 8080, 5353, (80, 53))?;
    bulk(&it.other, &it.web, "10.12.0.1", 8080, 5353, (80, 53))?;
    bulk(&it.web, &it.web, "192.0.2.1", 8080, 5353, (80, 53))?;
    assert!(it.packets("hairpin_in")? > 30_000 && it.packets("hairpin_out")? > 3000);
    it.lab.finish()
}

#[test]
fn host_sockets() -> Result<()> {
    let it = OneHost::new("ihost")?;
    bulk(&it.host, &it.web, "127.0.0.1", 8080, 5353, (80, 53))?;
    assert!(it.packets("host_socket")? > 0);
    it.lab.finish()
}
