//! The controller: it applies differences, repairs what is deleted behind its back, survives being killed, and leaves
//! nothing when it goes.

mod common;

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::Result;
use common::{Family, LIMIT, ONE_HOST, OneHost, dual_stack, number, within};
use tests::{Lab, Process, lab::namespace::labtool_result};

/// Traffic of every kind that must not notice what happens around it.
struct Running {
    receiver: Process,
    sender: Process,
    requests: Process,
    outgoing: Process,
    datagrams: Process,
    _servers: Vec<Process>,
}

impl Running {
    /// Bulk TCP through a published port, new connections through it and out of a container, and a UDP echo.
    fn start(it: &OneHost, family: Family, seconds: f64) -> Result<Self> {
        let [published, other, requests, echo] = [(1, 8080), (1, 8082), (100, 9100), (100, 7)]
            .map(|(host, port)| family.at(&format!("192.0.2.{host}"), port));
        let servers = vec![
            it.web.serve("request-serve [::]:81")?,
            it.client.serve("request-serve [::]:9100")?,
            it.client.serve_echo(7)?,
        ];
        let receiver = it.web.serve("tcp-receive [::]:80")?;
        Ok(Self {
            sender: it.client.start_labtool(&format!("tcp-send {published} --seconds {seconds}"))?,
            receiver,
            requests: it.client.start_labtool(&format!("requests {other} --rate 100 --seconds {seconds}"))?,
            outgoing: it
                .shop
                .start_labtool(&format!("requests {requests} --rate 100 --seconds {seconds}"))?,
            datagrams: it.web.start_labtool(&format!(
                "udp-ping {echo} --count {} --interval-us 1000",
                (seconds * 1000.0) as u64
            ))?,
            _servers: servers,
        })
    }

    /// Not one byte, connection or datagram is lost.
    fn finish(mut self) -> Result<()> {
        let (sent, received) =
            (labtool_result(&mut self.sender, LIMIT)?, labtool_result(&mut self.receiver, LIMIT)?);
        assert_eq!((&sent["bytes"], &sent["sha256"]), (&received["bytes"], &received["sha256"]));
        for process in [&mut self.requests, &mut self.outgoing] {
            let report = labtool_result(process, LIMIT)?;
            assert!(number(&report, "succeeded") > 100 && number(&report, "failed") == 0, "{report}");
        }
        let report = labtool_result(&mut self.datagrams, LIMIT)?;
        assert_eq!(number(&report, "lost"), 0, "{report}");
        assert!(number(&sent, "longest_pause_ms") < 1000, "{sent}");
        Ok(())
    }
}

const WAIT: Duration = Duration::from_secs(5);

/// A change applies its difference and disturbs nothing else.
#[test]
fn changes_disturb_nothing_else() -> Result<()> {
    changes(Family::V4, "diff")
}

#[test]
fn nor_do_they_over_ipv6() -> Result<()> {
    changes(Family::V6, "v6diff")
}

fn changes(family: Family, title: &str) -> Result<()> {
    let it = OneHost::of(family, title, ONE_HOST)?;
    let extra = it.host.container("extra")?;
    let running = Running::start(&it, family, 8.0)?;
    let more = ONE_HOST
        .replace("services:\n", "  lab: { ipam: { config: [ { subnet: 10.13.0.0/24 } ] } }\nservices:\n  extra:\n    networks: { lab: { ipv4_address: 10.13.0.2 } }\n    ports: [ \"9090:90\" ]\n    x-weft: { netns: extra }\n")
        .replace("\"8080:80\"", "\"8080:80\"\n      - \"30000-30999:1000-1999/udp\"");
    for _ in 0..3 {
        it.daemon.rewrite(&family.file(&more))?;
        within(WAIT, "the new container is there", || extra.pings(&family.address("10.13.0.1")))?;
        within(WAIT, "its port is published", || {
            Ok(it.daemon.command(&["port", "ls"])?.stdout.contains("9090"))
        })?;
        it.daemon.rewrite(&family.file(ONE_HOST))?;
        within(WAIT, "it has gone", || Ok(!extra.has_device("eth0")?))?;
        within(WAIT, "and its network", || {
            Ok(!it.daemon.command(&["network", "ls"])?.stdout.contains("10.13.0.0"))
        })?;
    }
    running.finish()?;
    it.lab.finish()
}

/// `apply --dry-run` shows what would change and changes nothing.
#[test]
fn dry_run_shows_the_difference() -> Result<()> {
    let it = OneHost::new("dry")?;
    let path = it.lab.directory().join("other.yaml");
    fs::write(&path, it.host.localized(&ONE_HOST.replace("\"8080:80\"", "\"8088:80\"")))?;
    let path = path.display().to_string();
    let output = it.daemon.command(&["apply", "--dry-run", "-f", &path])?.expect_ok()?;
    assert!(output.stdout.contains("8088") && output.stdout.contains("8080"), "{}", output.stdout);
    assert!(it.daemon.command(&["port", "ls"])?.stdout.contains("8080"));
    let same = it.daemon.file().display().to_string();
    let nothing = it.daemon.command(&["apply", "--dry-run", "-f", &same])?.expect_ok()?;
    assert!(!nothing.stdout.contains("80"), "no difference: {}", nothing.stdout);
    it.daemon.command(&["apply", "-f", &path])?.expect_ok()?;
    within(WAIT, "applied", || Ok(it.daemon.command(&["port", "ls"])?.stdout.contains("8088")))?;
    it.lab.finish()
}

/// `kill -9` under traffic, and starting again: not one connection fails, none is reset.
#[test]
fn kill_9_and_restart_harm_nothing() -> Result<()> {
    kill_and_restart(Family::V4, "kill")
}

#[test]
fn nor_do_they_harm_ipv6() -> Result<()> {
    kill_and_restart(Family::V6, "v6kill")
}

fn kill_and_restart(family: Family, title: &str) -> Result<()> {
    let mut it = OneHost::of(family, title, ONE_HOST)?;
    let running = Running::start(&it, family, 10.0)?;
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        it.daemon.kill9();
        std::thread::sleep(Duration::from_millis(700));
        it.daemon.restart()?;
        std::thread::sleep(Duration::from_millis(500));
    }
    it.daemon.terminate()?;
    running.finish()?;
    it.daemon.restart()?;
    assert!(it.web.pings(&family.address("192.0.2.100"))?);
    it.lab.finish()
}

/// What works goes on without a daemon: new connections, too.
#[test]
fn the_dataplane_works_without_its_daemon() -> Result<()> {
    let mut it = OneHost::of(Family::V6, "dead", ONE_HOST)?;
    let _web = it.web.serve_http(80, "hello")?;
    it.daemon.kill9();
    for family in [Family::V4, Family::V6] {
        it.greets(family)?;
        for to in ["192.0.2.100", "10.10.0.10"] {
            assert!(it.shop.pings(&family.address(to))?, "{family:?} {to}");
        }
    }
    let status = it.daemon.command(&["status"])?;
    assert_eq!(status.code(), Some(1), "{status:?}");
    assert!(it.daemon.command(&["flow", "ls"])?.ok() && it.daemon.command(&["drop", "ls"])?.ok());
    it.daemon.restart()?;
    it.lab.finish()
}

/// `teardown` leaves nothing (`finish` looks for devices, pins, links, programs, files and sockets) and restores sysctls.
#[test]
fn teardown_leaves_nothing() -> Result<()> {
    let lab = Lab::new("gone")?;
    let wire = lab.segment("192.0.2.0/24")?;
    let host = lab.host("a")?.on(&wire, "192.0.2.1/24")?;
    dual_stack(&host, &lab.host("client")?.on(&wire, "192.0.2.100/24")?)?;
    host.sysctl("net.ipv4.ip_forward", "0")?;
    host.sysctl("net.ipv6.conf.all.forwarding", "0")?;
    host.sysctl("net.ipv4.ip_local_reserved_ports", "4000,5000-5002")?;
    for name in ["web", "shop", "other", "db"] {
        host.container(name)?;
    }
    let web = host.container("last")?;
    // The kernel says so a moment after the cable is plugged in.
    within(WAIT, "the uplink has a carrier", || Ok(!host.ip("-br link show")?.contains("NO-CARRIER")))?;
    // What a host has besides addresses that it is still trying.
    let shown = || -> Result<BTreeSet<String>> {
        let text = host.check(
            "ip -br link; ip -6 -o addr show scope global; ip -6 route show table all; ip -6 rule; ip -6 neigh show proxy; \
             sysctl -a -r '^net.ipv[46].(conf|ip_forward|ip_local_reserved_ports)' 2>/dev/null",
        )?;
        Ok(text.lines().filter(|line| !line.contains("fe80::")).map(str::to_owned).collect())
    };
    let before = shown()?;
    let mut daemon = host.weft(&Family::V6.file(&ONE_HOST.replace("netns: web", "netns: last")))?;
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        assert_eq!(host.check(&format!("cat /proc/sys/net/{setting}"))?.trim(), "1", "{setting}");
    }
    assert!(host.check("cat /proc/sys/net/ipv4/ip_local_reserved_ports")?.contains("5000-5002"));
    assert!(web.ip("-6 addr show dev eth0")?.contains("fd00:10::10/64"));
    assert!(host.ip("-6 route show")?.contains("fd00:10::/64"));
    daemon.teardown()?;
    let after = shown()?;
    assert!(after == before, "{:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
    assert!(!web.has_device("eth0")?);
    lab.finish()
}

/// A bad file gives its place and reason and exit code 2; the daemon keeps its last good state and says so.
#[test]
fn bad_files_change_nothing() -> Result<()> {
    let it = OneHost::new("bad")?;
    let _web = it.web.serve_http(80, "hello")?;
    it.daemon.rewrite(&ONE_HOST.replace("10.10.0.11", "10.99.0.11"))?;
    within(WAIT, "status tells", || {
        let status = it.daemon.json(&["status"])?;
        Ok(status["config"]["state"] == "bad"
            && status["config"]["errors"].to_string().contains("10.99.0.11"))
    })?;
    assert_eq!(it.client.curl("http://192.0.2.1:8080")?.stdout, "hello");
    assert!(it.shop.pings("10.10.0.10")?);
    let path = it.daemon.file().display().to_string();
    for words in [vec!["config", "check", "-f", &path], vec!["apply", "-f", &path]] {
        let output = it.daemon.command(&words)?;
        assert_eq!(output.code(), Some(2), "{words:?}: {output:?}");
        assert!(output.stderr.contains(&format!("{path}:")), "{}", output.stderr);
    }
    it.daemon.rewrite(ONE_HOST)?;
    within(WAIT, "good again", || Ok(it.daemon.json(&["status"])?["config"]["state"] == "good"))?;
    it.lab.finish()
}

/// A namespace that is missing is a named problem; the container is plugged in when it appears.
#[test]
fn a_missing_namespace_is_awaited() -> Result<()> {
    let it = OneHost::new("missing")?;
    let late = it.host.container("late")?;
    let netns = late.netns().to_owned();
    it.host.check(&format!("ip netns del {netns}"))?;
    let more = ONE_HOST.replace("services:\n", "services:\n  late:\n    networks: { front: { ipv4_address: 10.10.0.77 } }\n    x-weft: { netns: late }\n");
    it.daemon.rewrite(&more)?;
    within(WAIT, "the problem is named", || {
        Ok(it.daemon.json(&["status"])?["problems"].to_string().contains(&netns))
    })?;
    it.host.check(&format!("ip netns add {netns}"))?;
    within(Duration::from_secs(12), "it is plugged in", || late.pings("10.10.0.10"))?;
    it.lab.finish()
}

/// Every map prints named fields, and every command has a table and JSON.
#[test]
fn what_can_be_looked_at() -> Result<()> {
    let it = OneHost::new("look")?;
    assert!(it.web.pings("192.0.2.100")?);
    for words in [
        vec!["status"],
        vec!["network", "ls"],
        vec!["network", "inspect", "front"],
        vec!["endpoint", "ls"],
        vec!["port", "ls"],
        vec!["flow", "ls"],
        vec!["drop", "ls"],
    ] {
        it.daemon.json(&words)?;
        let table = it.daemon.command(&words)?.expect_ok()?.stdout;
        assert!(table.lines().count() > 1, "{words:?}: {table}");
    }
    let flows = it.daemon.json(&["flow", "ls"])?.to_string();
    assert!(flows.contains("192.0.2.100") && flows.contains("10.10.0.10"), "{flows}");
    let bpf = it.daemon.bpf_dir().display().to_string();
    for (map, field) in [
        ("flows", "last_seen_ns"),
        ("endpoints", "epoch"),
        ("published", "first_container_port"),
        ("devices", "prefix_length"),
        ("settings", "udp_timeout_ns"),
        ("ports", "inside"),
        ("subnets", "network"),
        ("port_sets", "bits"),
        ("mappings", "port"),
    ] {
        let dump = it.host.check(&format!("bpftool map dump pinned $(find {bpf} -name {map})"))?;
        assert!(map == "flows" || dump.contains(field), "{map}: {dump}");
    }
    it.lab.finish()
}

/// A container can be talked to, and talks itself, as soon as `apply` has answered: nobody's first ARP request is lost.
#[test]
fn a_new_container_answers_at_once() -> Result<()> {
    answers_at_once(Family::V4, "prompt")
}

/// Nor its first solicitation, or what comes for its address, however long the kernel takes to come to the address: others
/// keep the lock of all network devices.
#[test]
fn so_it_does_over_ipv6() -> Result<()> {
    answers_at_once(Family::V6, "v6prompt")
}

fn answers_at_once(family: Family, title: &str) -> Result<()> {
    let it = OneHost::of(family, title, ONE_HOST)?;
    let busy = "while :; do ip link add busy$$ type veth peer name bee$$; ip link del busy$$; done";
    let _busy = (0..4).map(|_| it.client.spawn(busy)).collect::<Result<Vec<_>>>()?;
    let names = (0..20).map(|index| format!("n{index}")).collect::<Vec<_>>();
    let containers = it.host.containers(&names)?;
    it.daemon.write_directory(&[("all.yaml".to_owned(), family.file(ONE_HOST))])?;
    let weft = it.host.weft_program()?;
    let mut lost = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let address = format!("10.10.0.{}", 100 + index);
        let text = format!(
            "services:\n  n{index}:\n    networks: {{ front: {{ ipv4_address: {address} }} }}\n    x-weft: {{ netns: n{index} }}\n"
        );
        let directory = it.daemon.write_directory(&[(format!("n{index}.yaml"), family.file(&text))])?;
        let (from, to) = match index % 2 {
            0 => (&it.web, family.address(&address)),
            _ => (container, family.address("10.10.0.10")),
        };
        // One shell for both: nothing else passes in between. A request that is lost is repeated after a second.
        let output = it.host.run(&format!(
            "{weft} apply -f {} --socket {} && nsenter --net=/run/netns/{} ping -n -c 1 -W 0.9 {to}",
            directory.display(),
            it.daemon.socket().display(),
            from.netns(),
        ))?;
        if !output.ok() {
            lost.push((index, output.stdout, output.stderr));
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
    it.lab.finish()
}
