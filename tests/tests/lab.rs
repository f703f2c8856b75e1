//! The lab tests itself, on the plain kernel: what it makes works, and it notices what is left behind.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Container, Lab, Tools, lab::namespace::labtool_result};

const LIMIT: Duration = Duration::from_secs(60);

/// Two containers of one host on its kernel bridge.
fn two_containers(lab: &Lab) -> Result<(Container, Container)> {
    let host = lab.host("host")?;
    let bridge = host.kernel_bridge("bridge0", "10.9.0.1/24")?;
    let a = host.container("a")?.on_bridge(&bridge, "10.9.0.2/24")?;
    let b = host.container("b")?.on_bridge(&bridge, "10.9.0.3/24")?;
    Ok((a, b))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("no number `{key}` in {value}"))
}

#[test]
fn hosts_on_a_segment_and_containers_on_a_bridge_reach_each_other() -> Result<()> {
    let lab = Lab::new("reachability")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let host = lab.host("host")?.on(&wire, "192.0.2.1/24")?;
    let client = lab.host("client")?.on(&wire, "192.0.2.100/24")?.default_via("192.0.2.1")?;
    let bridge = host.kernel_bridge("bridge0", "10.9.0.1/24")?;
    let web = host.container("web")?.on_bridge(&bridge, "10.9.0.2/24")?;
    let _http = web.serve_http(80, "hello from web")?;
    let _whoami = web.serve_whoami(7)?;
    assert!(client.pings("192.0.2.1")?, "client to host");
    assert!(client.pings("10.9.0.2")?, "client to container, routed by the host");
    assert!(!client.pings("192.0.2.99")?, "nobody has this address");
    assert_eq!(client.curl("http://10.9.0.2/")?.expect_ok()?.stdout, "hello from web");
    assert_eq!(client.curl("http://10.9.0.2:81/")?.code(), Some(7), "nobody listens there");
    for protocol in ["tcp", "udp"] {
        assert_eq!(client.whoami(protocol, "10.9.0.2:7")?.ip(), client.address()?, "{protocol}");
    }
    // The lab's word is the kernel's: with forwarding off the container cannot be reached.
    host.sysctl("net.ipv4.ip_forward", "0")?;
    assert!(!client.pings("10.9.0.2")?, "forwarding is off");
    assert!(host.interface("eth0")?.rx.packets > 0);
    assert!(lab.host("c")?.on(&wire, "198.51.100.1/24").is_err(), "not an address of the segment");
    lab.finish()
}

#[test]
fn a_cable_joins_two_hosts_for_both_families() -> Result<()> {
    let lab = Lab::new("cable")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    lab.cable((&a, "2001:db8::1/64"), (&b, "2001:db8::2/64"))?;
    let _echo = b.serve_echo(7)?;
    assert!(a.pings("2001:db8::2")?);
    assert_eq!(number(&a.labtool("latency udp [2001:db8::2]:7 --count 100")?, "count")?, 100);
    lab.finish()
}

#[test]
fn bulk_data_arrives_as_it_was_sent() -> Result<()> {
    let lab = Lab::new("bulk")?;
    let (a, b) = two_containers(&lab)?;
    let mut receiver = b.serve("tcp-receive [::]:9000")?;
    let sent = a.labtool("tcp-send 10.9.0.3:9000 --bytes 20000001")?;
    let received = labtool_result(&mut receiver, LIMIT)?;
    assert_eq!(number(&sent, "bytes")?, 20_000_001);
    assert_eq!((&sent["bytes"], &sent["sha256"]), (&received["bytes"], &received["sha256"]));
    assert!(received["peer"].as_str().is_some_and(|peer| peer.starts_with("10.9.0.2:")), "{received}");

    let mut receiver = b.serve("tcp-receive [::]:9001")?;
    let sent = a.labtool("tcp-send 10.9.0.3:9001 --seconds 0.5 --seed 2")?;
    assert_eq!(sent["sha256"], labtool_result(&mut receiver, LIMIT)?["sha256"]);

    for (port, segments) in [(9002, 1), (9003, 40)] {
        let mut receiver = b.serve(&format!("udp-receive [::]:{port} --count 4001"))?;
        let sent =
            a.labtool(&format!("udp-send 10.9.0.3:{port} --count 4001 --size 1400 --segments {segments}"))?;
        assert_eq!(number(&sent, "sends")?, 4001_u64.div_ceil(segments), "{sent}");
        let received = labtool_result(&mut receiver, LIMIT)?;
        assert_eq!((number(&received, "datagrams")?, number(&received, "bytes")?), (4001, 4001 * 1400));
        assert_eq!((number(&received, "corrupted")?, number(&received, "duplicates")?), (0, 0));
    }
    assert_eq!(b.checksum_errors()?, 0);
    assert!(b.snmp()?["Udp.InDatagrams"] >= 8002);
    lab.finish()
}

#[test]
fn short_connections_and_pings_are_counted() -> Result<()> {
    let lab = Lab::new("rates")?;
    let (a, b) = two_containers(&lab)?;
    let _requests = b.serve("request-serve [::]:9000")?;
    let _echo = b.serve_echo(7)?;
    let report = a.labtool("requests 10.9.0.3:9000 --rate 500 --seconds 1")?;
    assert_eq!((number(&report, "succeeded")?, number(&report, "failed")?), (500, 0), "{report}");
    let refused = a.labtool("requests 10.9.0.3:9001 --rate 50 --seconds 0.2")?;
    assert_eq!((number(&refused, "succeeded")?, number(&refused, "failed")?), (0, 10));
    assert_eq!(refused["failures"]["connect: connection refused"], 10, "{refused}");

    for protocol in ["tcp", "udp"] {
        let report = a.labtool(&format!("latency {protocol} 10.9.0.3:7 --count 200"))?;
        assert_eq!((number(&report, "count")?, number(&report, "lost")?), (200, 0), "{report}");
        let micros = |key: &str| report[key].as_f64().unwrap_or(f64::NAN);
        assert!(0.0 < micros("p50_us") && micros("p50_us") <= micros("max_us"), "{report}");
    }
    let report = a.labtool("udp-ping 10.9.0.3:7 --count 200 --interval-us 500 --size 1000")?;
    assert_eq!((number(&report, "received")?, number(&report, "lost")?), (200, 0), "{report}");
    lab.finish()
}

#[test]
fn loss_is_seen_by_every_tool_that_counts() -> Result<()> {
    let lab = Lab::new("loss")?;
    let (a, b) = two_containers(&lab)?;
    let _echo = b.serve_echo(7)?;
    // Every fourth datagram to the echo server, and exactly one in ten of the bulk stream, is dropped.
    b.check(
        "nft 'add table inet lab; add chain inet lab in { type filter hook input priority 0; };
              add rule inet lab in udp dport 7 numgen inc mod 4 == 0 drop;
              add rule inet lab in udp dport 9000 numgen inc mod 10 == 5 drop'",
    )?;
    let report = a.labtool("udp-ping 10.9.0.3:7 --count 200 --interval-us 200 --linger-ms 300")?;
    assert_eq!((number(&report, "received")?, number(&report, "lost")?), (150, 50), "{report}");
    let mut receiver = b.serve("udp-receive [::]:9000 --idle-ms 500")?;
    a.labtool("udp-send 10.9.0.3:9000 --count 1000")?;
    let received = labtool_result(&mut receiver, LIMIT)?;
    assert_eq!((number(&received, "datagrams")?, number(&received, "gaps")?), (900, 100), "{received}");
    lab.finish()
}

#[test]
fn wrong_checksums_are_counted() -> Result<()> {
    let lab = Lab::new("checksum")?;
    let (a, b) = two_containers(&lab)?;
    // A raw datagram from 10.9.0.2 port 1 to port 2 of b, with a checksum that cannot be right.
    a.check(r"printf '\000\001\000\002\000\012\276\357hi' | socat -u STDIN IP4-SENDTO:10.9.0.3:17")?;
    assert_eq!(b.checksum_errors()?, 1);
    lab.finish()
}

/// Nothing on this machine carries the lab's prefix.
fn assert_nothing_left(prefix: &str) -> Result<()> {
    for directory in [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), &env::temp_dir()] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            // Not `contains`: lab12x1 is no part of lab12x10.
            ensure!(!name.split('-').any(|part| part == prefix), "{} is left", name);
        }
    }
    Ok(())
}

#[test]
fn a_panic_cleans_up() -> Result<()> {
    let mut prefix = String::new();
    let mut pid = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let lab = Lab::new("panic")?;
        lab.prefix().clone_into(&mut prefix);
        let (a, _) = two_containers(&lab)?;
        // One that outlives its shell and leaves its group, and one whose handle is forgotten.
        a.check("setsid sleep 1000 > /dev/null 2>&1 &")?;
        let sleeper = a.spawn("sleep 1000")?;
        pid = sleeper.pid();
        std::mem::forget(sleeper);
        panic!("this panic is part of the test");
    }));
    assert!(outcome.is_err());
    assert_nothing_left(&prefix)?;
    // Nobody waits for a forgotten child, so a zombie may remain; it must not be running.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    Ok(())
}

#[test]
fn a_namespace_the_lab_did_not_make_is_reported() -> Result<()> {
    let lab = Lab::new("stray namespace")?;
    let prefix = lab.prefix().to_owned();
    let host = lab.host("host")?;
    host.check(&format!("ip netns add {prefix}-stray"))?;
    let error = lab.finish().err().context("the stray namespace was not noticed")?;
    assert!(format!("{error:#}").contains(&format!("{prefix}-stray")), "{error:#}");
    assert_nothing_left(&prefix)
}

/// A daemon for the lab to watch: it pins a map and makes a device, its teardown does what the test says.
fn script(lab_directory: &Path, teardown: &str) -> Result<Tools> {
    let path = lab_directory.join("script");
    fs::write(
        &path,
        format!(
            r#"#!/bin/sh
command=$1
while [ $# -gt 0 ]; do
    case $1 in --bpf-dir) bpf=$2;; --state-dir) state=$2;; --socket) socket=$2;; -f) file=$2;; esac
    shift
done
case $command in
daemon)
    # Two that mount at one time would hide each other's pins.
    flock /sys/fs/bpf sh -c 'mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf'
    mkdir -p "$bpf" "$state"; touch "$socket"; cat "$file" >&2
    bpftool map create "$bpf/m" type array key 4 value 4 entries 1 name lab_self_test
    ip link show weft0 > /dev/null 2>&1 || ip link add weft0 type bridge
    echo ready; exec sleep 1000;;
show) echo "{{\"socket\": \"$socket\"}}";;
teardown) {teardown};;
esac
"#
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(Tools { weft: path, ..Tools::find()? })
}

#[test]
fn everything_that_a_teardown_leaves_is_reported() -> Result<()> {
    let scripts = tempfile::tempdir()?;
    let lab = Lab::with_tools("bad teardown", script(scripts.path(), "exit 3")?)?;
    let prefix = lab.prefix().to_owned();
    let host = lab.host("host")?;
    let _daemon = host.weft("{}")?;
    let error = lab.finish().err().context("nothing was noticed")?;
    let error = format!("{error:#}");
    for wanted in
        ["could not remove", "pins under", "the state directory", "the socket", "device weft0", "BPF map"]
    {
        assert!(error.contains(wanted), "`{wanted}` is not in: {error}");
    }
    assert_nothing_left(&prefix)
}

#[test]
fn a_daemon_is_started_killed_restarted_and_torn_down() -> Result<()> {
    let scripts = tempfile::tempdir()?;
    let teardown = r#"rm -r "$bpf" "$state" "$socket"; ip link delete weft0"#;
    let lab = Lab::with_tools("good teardown", script(scripts.path(), teardown)?)?;
    let prefix = lab.prefix().to_owned();
    let host = lab.host("host")?;
    host.container("web")?;
    let mut daemon = host.weft("x-weft: { netns: web }\nother: { netns: \"web-2\" }\n")?;
    assert_eq!(
        daemon.log()?,
        format!("x-weft: {{ netns: {prefix}-host-web }}\nother: {{ netns: \"web-2\" }}\n")
    );
    assert_eq!(daemon.json(&["show"])?["socket"].as_str(), daemon.socket().to_str());
    let first = daemon.pid();
    daemon.kill9();
    fs::remove_file(daemon.bpf_dir().join("m"))?;
    daemon.restart()?;
    assert_ne!(daemon.pid(), first);
    lab.finish()?;
    assert_nothing_left(&prefix)
}

/// Not a test of its own: the program that the next two tests run.
#[test]
#[ignore = "run by other tests"]
fn child() -> Result<()> {
    let lab = Lab::new("child")?;
    let (a, _) = two_containers(&lab)?;
    println!("\nprefix {}", lab.prefix());
    if env::var_os("LAB_CHILD_IS_KILLED").is_some() {
        // The thread that starts it ends at once; the process must live on until the whole test dies.
        let started = std::thread::scope(|scope| scope.spawn(|| a.spawn("sleep 1000")).join());
        let sleeper = started.map_err(|_| anyhow::anyhow!("thread"))??;
        std::thread::sleep(Duration::from_millis(100));
        let alive = fs::read_link(format!("/proc/{}/ns/net", sleeper.pid())).is_ok();
        println!("sleeper {} {alive}", sleeper.pid());
        std::thread::sleep(LIMIT);
    }
    Ok(())
}

fn run_child() -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    Ok(command)
}

#[test]
fn a_lab_that_is_not_finished_fails_its_test() -> Result<()> {
    let output = run_child()?.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(101), "{stdout}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("dropped without finish()"));
    let prefix = stdout.lines().find_map(|line| line.strip_prefix("prefix ")).context("prefix")?;
    assert_nothing_left(prefix)
}

#[test]
fn nothing_survives_a_killed_test() -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut child =
        run_child()?.env("LAB_CHILD_IS_KILLED", "1").stdout(std::process::Stdio::piped()).spawn()?;
    let mut prefix = String::new();
    let mut sleeper = String::new();
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("prefix ") {
            rest.clone_into(&mut prefix);
        }
        if let Some(rest) = line.strip_prefix("sleeper ") {
            rest.clone_into(&mut sleeper);
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    let (pid, alive) = sleeper.split_once(' ').context("the child did not get far enough")?;
    assert_eq!(alive, "true", "the process died with the thread that started it");
    // The kernel kills it with its parent; an orphan's zombie is for init to collect.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while fs::read_link(format!("/proc/{pid}/ns/net")).is_ok() {
        assert!(std::time::Instant::now() < deadline, "the process {pid} survived");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Its namespaces go with the next lab.
    Lab::new("next")?.finish()?;
    assert_nothing_left(&prefix)
}
