//! Whose is what: one daemon for a network namespace and for a state directory, and teardown of what is weft's only.

mod common;

use std::path::Path;

use anyhow::Result;
use common::{ONE_HOST, OneHost};
use tests::{Daemon, lab::process::Output};

/// The options that address this daemon's installation.
fn places(daemon: &Daemon) -> [String; 6] {
    let [state, bpf, socket] =
        [daemon.state_dir(), daemon.bpf_dir(), daemon.socket()].map(|path| path.display().to_string());
    ["--state-dir".into(), state, "--bpf-dir".into(), bpf, "--socket".into(), socket]
}

fn words<'a>(first: &[&'a str], rest: &'a [String]) -> Vec<&'a str> {
    first.iter().copied().chain(rest.iter().map(String::as_str)).collect()
}

/// It failed with exit code 1 and said this.
fn assert_refused(output: &Output, reason: &str) {
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains(reason), "{output:?}");
    assert!(!output.stdout.contains("ready"), "{output:?}");
}

/// Sockets, pins and leases are files, which another network namespace sees as well: a teardown there would remove the
/// programs and leave the devices.
#[test]
fn teardown_elsewhere_is_refused() -> Result<()> {
    let mut it = OneHost::new("elsewhere")?;
    let _web = it.web.serve_http(80, "hello")?;
    let pins = || it.host.check(&format!("find {} | sort", it.daemon.bpf_dir().display()));
    let (before, places) = (pins()?, places(&it.daemon));
    let refused = it.client.weft_command(&words(&["teardown"], &places))?;
    assert_refused(&refused, "another network namespace");
    assert_eq!(pins()?, before);
    assert_eq!(it.daemon.json(&["status"])?["problems"].as_array().map(Vec::len), Some(0), "it still runs");
    assert_eq!(it.client.curl("http://192.0.2.1:8080")?.stdout, "hello");
    // Nor when no daemon runs that could be asked.
    it.daemon.kill9();
    assert_refused(&it.client.weft_command(&words(&["teardown"], &places))?, "another network namespace");
    assert_eq!(it.client.curl("http://192.0.2.1:8080")?.stdout, "hello");
    it.daemon.restart()?;
    it.lab.finish()
}

/// Two daemons in one network namespace would take each other's devices for superfluous, two in one state directory
/// would replace each other's leases.
#[test]
fn a_second_daemon_is_refused() -> Result<()> {
    let it = OneHost::new("second")?;
    let _web = it.web.serve_http(80, "hello")?;
    let file = it.lab.directory().join("second.yaml");
    std::fs::write(&file, "services: {}\n")?;
    let file = file.display().to_string();
    let path = |name: &str| it.lab.directory().join(name).display().to_string();
    let bpf = format!("{}-second", it.daemon.bpf_dir().display());
    let (state, socket) = (path("second.state"), path("second.sock"));
    let kept = it.daemon.state_dir().display().to_string();
    let start = |from: &tests::Namespace, state: &str| {
        from.weft_command(&[
            "daemon",
            "-f",
            &file,
            "--state-dir",
            state,
            "--bpf-dir",
            &bpf,
            "--socket",
            &socket,
        ])
    };
    let devices = it.host.ip("-br link show")?;
    assert_refused(&start(&it.host, &state)?, "another weft daemon runs in this network namespace");
    assert_refused(&start(&it.client, &kept)?, "is used by another weft daemon");
    for left in [&bpf, &state, &socket] {
        assert!(!Path::new(left).exists(), "a refused daemon left {left}");
    }
    // The same socket is the one that is found first.
    let places = places(&it.daemon);
    let refused = it.host.weft_command(&words(&["daemon", "-f", &file], &places))?;
    assert_refused(&refused, "another weft daemon serves it");
    assert_eq!(it.host.ip("-br link show")?, devices);
    assert_eq!(it.daemon.json(&["status"])?["problems"].as_array().map(Vec::len), Some(0));
    assert_eq!(it.client.curl("http://192.0.2.1:8080")?.stdout, "hello");
    it.lab.finish()
}

/// A daemon that is killed between the request that makes a device and the one that marks it leaves an unmarked one.
/// Teardown knows it by its name and shape; what a user made stays.
#[test]
fn teardown_removes_half_made_devices() -> Result<()> {
    let overlay = ONE_HOST.replace(
        "services:\n",
        "  mesh:\n    driver: overlay\n    driver_opts: { com.docker.network.driver.overlay.vxlanid_list: \"4097\" }\n    ipam: { config: [ { subnet: 10.20.0.0/24 } ] }\nservices:\n",
    );
    let mut it = OneHost::with("halfmade", &overlay)?;
    it.daemon.kill9();
    let links = it.host.ip_json("link show")?;
    let made: Vec<String> = links
        .as_array()
        .into_iter()
        .flatten()
        .filter(|link| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("weft:")))
        .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(
        made.len(),
        12,
        "four bridges, a vxlan device, five veths and both ends of the waiting room: {made:?}"
    );
    for device in &made {
        it.host.check(&format!("ip link set dev {device} down alias ''"))?;
    }
    // A user's own: of another name; of a name of weft's kind that it never used; with the user's alias.
    it.host.ip("link add br-mine type bridge")?;
    it.host.ip("link add veth00000000000 type veth peer name mine")?;
    let (adopted, rest) = made.split_first().ok_or_else(|| anyhow::anyhow!("weft made nothing"))?;
    it.host.ip(&format!("link set dev {adopted} alias mine"))?;
    it.daemon.teardown()?;
    let names = it.host.ip("-br link show")?;
    for device in rest {
        assert!(!names.contains(device.as_str()), "{device} is left:\n{names}");
    }
    for device in ["br-mine", "veth00000000000", adopted] {
        assert!(names.contains(device), "{device} is gone:\n{names}");
        it.host.ip(&format!("link del {device}"))?;
    }
    it.lab.finish()
}
