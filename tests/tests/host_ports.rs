//! Published ports and the sockets of the host itself: what its kernel picks, and what its processes are shown.

mod common;

use std::time::Duration;

use anyhow::Result;
use common::{ONE_HOST, OneHost, within};

const WAIT: Duration = Duration::from_secs(5);

/// Opens sockets of one protocol to one destination until the kernel has no port left; prints the ports used.
const EXHAUST: &str = r#"
import errno, socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
explicit = sys.argv[2] == "bind"
sockets = []
try:
    while len(sockets) < 1000:
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(5)
        sockets.append(s)
        if explicit: s.bind(("192.0.2.1", 0))
        s.connect(("192.0.2.100", 9100))
except OSError as error:
    # connect(2), bind(2), and a datagram socket that binds itself (inet_autobind).
    assert error.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EAGAIN), error
    sockets.pop()
else:
    sys.exit("the ports never ran out")
print(*sorted(s.getsockname()[1] for s in sockets))
"#;

/// The kernel never picks a published port for an outgoing connection: the answers would go to the container.
#[test]
fn published_ports_are_never_picked() -> Result<()> {
    let it = OneHost::with(
        "picked",
        &ONE_HOST.replace(
            "\"8080:80\"",
            "\"20003:80\"\n      - \"192.0.2.1:20010-20013:90-93\"\n      - \"20005-20008:95-98/udp\"\n      - \"127.0.0.1:20031:99/udp\"",
        ),
    )?;
    let published = [20003, 20005, 20006, 20007, 20008, 20010, 20011, 20012, 20013, 20031];
    it.host.sysctl("net.ipv4.ip_local_port_range", "20000 20031")?;
    let _server = it.client.serve_echo(9100)?;
    let script = it.lab.directory().join("exhaust.py");
    std::fs::write(&script, EXHAUST)?;
    for protocol in ["tcp", "udp"] {
        for way in ["bind", "connect"] {
            let used = it.host.check(&format!("python3 {} {protocol} {way}", script.display()))?;
            let used: Vec<u16> = used.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            // All others were: it was really the end.
            let free: Vec<u16> = (20000..=20031).filter(|port| !published.contains(port)).collect();
            assert_eq!(used, free, "{protocol}, {way}");
            // The ports of closed connections are held by TIME-WAIT, into which they come when the other end has answered.
            within(WAIT, "their ports are free again", || {
                it.host.run("ss -K state time-wait")?;
                Ok(it.host.check("ss -Htan dst 192.0.2.100:9100")?.is_empty())
            })?;
        }
    }
    it.lab.finish()
}

/// A port that a process of the host gives up is published in every way by the round that finds it free, be it one that
/// works only on a difference.
#[test]
fn a_port_that_is_given_up_is_published_in_every_way() -> Result<()> {
    // Where ports are chosen every round is a whole one.
    let before = ONE_HOST.replace("      - \"11000-11002:80\"\n", "");
    let it = OneHost::with("givenup", &before)?;
    let _shop = it.shop.serve_http(80, "hello")?;
    let mut holder = it.host.serve_echo(8090)?;
    let wanted = before.replace("  shop:\n", "  shop:\n    ports: [ \"8090:80\" ]\n");
    it.daemon.rewrite(&wanted)?;
    let told = || -> Result<String> { Ok(it.daemon.json(&["status"])?["problems"].to_string()) };
    within(WAIT, "it is refused", || Ok(told()?.contains("8090/tcp of container shop")))?;
    // When the kernel is done with an IPv6 address weft does a whole round.
    within(WAIT, "no address is tentative", || {
        Ok(it.host.check("ip -6 address show tentative")?.is_empty())
    })?;
    std::thread::sleep(Duration::from_millis(100));
    holder.kill();
    // A change that makes no event of the kernel, which would lead to more rounds.
    it.daemon.rewrite(&wanted.replace("  other:\n", "  other:\n    links: [ db ]\n"))?;
    within(WAIT, "it is refused no more", || Ok(told()? == "[]"))?;
    let reserved = it.host.check("cat /proc/sys/net/ipv4/ip_local_reserved_ports")?;
    assert!(reserved.split(',').any(|ports| ports.trim() == "8090"), "{reserved}");
    let bound = common::bind(&it.host, "0.0.0.0", 8090)?;
    assert!(bound.stderr.contains("Address already in use"), "{bound:?}");
    assert_eq!(it.client.curl("http://192.0.2.1:8090")?.stdout, "hello");
    it.lab.finish()
}

/// MPTCP sockets of the host reach published ports as TCP sockets do; the server speaks TCP, so the connection falls back.
/// But `connect` shows the programs the subflow's socket and `getpeername` MPTCP's own, whose cookies differ, so that it
/// tells the container's address (README, limits).
#[test]
fn mptcp_sockets_reach_published_ports() -> Result<()> {
    const CONNECT: &str = "
import errno, socket, sys
for address in [('127.0.0.1', 8080), ('192.0.2.1', 8080), ('10.10.0.1', 8080)]:
    try: s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT): raise
        print('no MPTCP:', error); sys.exit()
    s.settimeout(5)
    s.connect(address)
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 262
    assert s.getpeername() == ('10.10.0.10', 80), s.getpeername()
    s.send(b'GET / HTTP/1.0\\r\\n\\r\\n')
    data = b''
    while chunk := s.recv(4096): data += chunk
    assert data.endswith(b'hello'), data
print('done')
";
    let it = OneHost::new("mptcp")?;
    let _web = it.web.serve_http(80, "hello")?;
    let script = it.lab.directory().join("mptcp.py");
    std::fs::write(&script, CONNECT)?;
    let said = it.host.check(&format!("python3 {}", script.display()))?;
    if said.starts_with("no MPTCP") {
        println!("skipped: this kernel has {}", said.trim());
    } else {
        assert_eq!(said.trim(), "done");
    }
    it.lab.finish()
}
