//! What the README says that weft does not do is so: whoever changes it finds the line.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use common::{ONE_HOST, OneHost, within};
use tests::Namespace;

/// A socket of this protocol, bound and connected; prints the name of the error, if there is one.
fn connect(from: &Namespace, kind: &str, bound: &str, address: &str) -> Result<String> {
    let said = from.check(&format!(
        "python3 -c \"
import errno, socket
s = socket.socket(socket.AF_INET, socket.SOCK_{kind}); s.settimeout(5)
s.bind(('{bound}', 0))
try: s.connect(('{address}', {port}))
except OSError as error: print(errno.errorcode.get(error.errno, error))
else: print('connected')
\"",
        port = if kind == "STREAM" { 8080 } else { 5353 },
    ))?;
    Ok(said.trim().to_owned())
}

/// A socket that is bound to 127.0.0.1 cannot be led to a container: its packets would leave with that address.
#[test]
fn sockets_bound_to_loopback_do_not_connect() -> Result<()> {
    let it = OneHost::new("bound")?;
    let _web = it.web.serve_whoami(80)?;
    for kind in ["STREAM", "DGRAM"] {
        for address in ["127.0.0.1", "192.0.2.1"] {
            assert_eq!(connect(&it.host, kind, "127.0.0.1", address)?, "EINVAL", "{kind} {address}");
            assert_eq!(connect(&it.host, kind, "0.0.0.0", address)?, "connected", "{kind} {address}");
        }
    }
    it.lab.finish()
}

/// A datagram socket reaches a container that has no IPv6 address by `[::1]` if it is connected, and else not.
#[test]
fn the_ipv6_loopback_needs_a_connected_socket() -> Result<()> {
    let it = OneHost::new("sendto")?;
    let _web = it.web.serve_whoami(53)?;
    assert_eq!(it.host.whoami("udp", "[::1]:5353")?.ip().to_string(), "10.10.0.1");
    let said = it.host.check(
        "python3 -c \"
import errno, socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(3)
def answered(address):
    try: s.sendto(b'x', address); return s.recv(100).decode()
    except OSError as error: return errno.errorcode.get(error.errno, 'nothing')
print(answered(('::ffff:127.0.0.1', 5353)), answered(('::1', 5353)))
\"",
    )?;
    // The first is the same socket's, which can be answered.
    ensure!(said.starts_with("10.10.0.1:") && said.trim().ends_with(" nothing"), "{said}");
    it.lab.finish()
}

/// The bridge answers for members that may not talk to one another only while it forwards.
#[test]
fn isolated_members_need_forwarding() -> Result<()> {
    for isolated in [false, true] {
        let option = format!("driver_opts: {{ com.docker.network.bridge.enable_icc: \"{}\" }}", !isolated);
        let file = ONE_HOST.replace("  front: { ipam", &format!("  front: {{ {option}, ipam"));
        let it = OneHost::with("iccoff", &file)?;
        let _web = it.web.serve_whoami(80)?;
        let reached = || -> Result<bool> {
            it.web.check("ip neigh flush dev eth0")?;
            it.shop.reaches("tcp", "192.0.2.1:8080")
        };
        assert!(reached()?);
        it.host.sysctl("net.ipv4.ip_forward", "0")?;
        within(Duration::from_secs(5), "the world is reached no more", || {
            Ok(!it.shop.pings("192.0.2.100")?)
        })?;
        assert_eq!(reached()?, !isolated, "isolated: {isolated}");
        it.host.sysctl("net.ipv4.ip_forward", "1")?;
        within(Duration::from_secs(5), "it is reached", reached)?;
        it.lab.finish()?;
    }
    Ok(())
}
