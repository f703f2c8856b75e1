//! Uplinks that are no Ethernet devices, and files that are swapped under a running daemon.

mod common;

use std::{fs, os::unix::fs::symlink, time::Duration};

use anyhow::Result;
use common::{ONE_HOST, OneHost, within};

const WAIT: Duration = Duration::from_secs(3);

/// A tun, WireGuard or ppp device gives packets without Ethernet header, which the programs would misread. It is refused
/// by name, as a default route and in the file, and the other uplinks are served.
#[test]
fn uplinks_without_ethernet_are_refused() -> Result<()> {
    let automatic = ONE_HOST.replace("x-weft: { uplinks: [ eth0 ] }", "");
    let it = OneHost::with("tun", &automatic)?;
    let _web = it.web.serve_http(80, "hello")?;
    let status = || it.daemon.json(&["status"]);
    let refused = || -> Result<bool> {
        let status = status()?;
        let uplinks = &status["uplinks"];
        let served = uplinks.as_array().map(Vec::len) == Some(1) && uplinks[0]["name"] == "eth0";
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let named = problems.iter().filter(|problem| problem["object"] == "uplink tun0");
        let mut reasons = named.filter_map(|problem| problem["reason"].as_str());
        Ok(served
            && reasons.next().is_some_and(|reason| reason.contains("no Ethernet device"))
            && reasons.next().is_none())
    };
    let works = || -> Result<bool> {
        Ok(it.client.curl("http://192.0.2.1:8080")?.stdout == "hello" && it.web.pings("192.0.2.100")?)
    };
    it.host.ip("tuntap add dev tun0 mode tun")?;
    it.host.ip("addr add 198.51.100.1/24 dev tun0")?;
    it.host.ip("link set dev tun0 up")?;
    // Twice, as with two address families or metrics: one problem.
    it.host.ip("route add default dev tun0 metric 100")?;
    it.host.ip("route add default dev tun0 metric 200")?;
    within(WAIT, "the default route's device is refused", refused)?;
    assert!(works()?);
    it.daemon.rewrite(&ONE_HOST.replace("[ eth0 ]", "[ tun0, eth0 ]"))?;
    within(WAIT, "the configured one is refused", refused)?;
    assert!(works()?);
    // Alone it leaves none, which is said, and the host's own is served all the same.
    it.daemon.rewrite(&ONE_HOST.replace("[ eth0 ]", "[ tun0 ]"))?;
    within(WAIT, "there is no uplink", || {
        let status = status()?;
        Ok(status["uplinks"].as_array().is_some_and(Vec::is_empty)
            && status["problems"].to_string().contains("no Ethernet device"))
    })?;
    assert!(it.web.pings("10.10.0.11")? && it.host.curl("http://127.0.0.1:8080")?.stdout == "hello");
    it.host.ip("link del tun0")?;
    it.lab.finish()
}

/// Kubernetes replaces mounted files by renaming a link to a directory, `..data`, beside them.
#[test]
fn a_swapped_link_takes_effect() -> Result<()> {
    let it = OneHost::new("swap")?;
    let directory = it.lab.directory();
    let published = |port: &str| Ok(it.daemon.command(&["port", "ls"])?.stdout.contains(port));
    let release = |name: &str, port: &str| -> Result<()> {
        fs::create_dir(directory.join(name))?;
        let text = it.host.localized(&ONE_HOST.replace("8080:80", &format!("{port}:80")));
        Ok(fs::write(directory.join(name).join("state.yaml"), text)?)
    };
    let swap = |link: &str, to: &str| -> Result<()> {
        symlink(to, directory.join("new-link"))?;
        Ok(fs::rename(directory.join("new-link"), directory.join(link))?)
    };
    for (name, port) in [("..1", "8111"), ("..2", "8112"), ("..3", "8113"), ("..4", "8114")] {
        release(name, port)?;
    }
    // The watched file is a link through `..data`, in the same directory.
    symlink("..1", directory.join("..data"))?;
    fs::remove_file(it.daemon.file())?;
    symlink("..data/state.yaml", it.daemon.file())?;
    within(WAIT, "the first release", || published("8111"))?;
    swap("..data", "..2")?;
    within(WAIT, "the second, by the link's rename", || published("8112"))?;
    fs::remove_dir_all(directory.join("..1"))?;
    // A link further up on the way: no directory that is watched hears of it; the full round looks.
    symlink("..3", directory.join("current"))?;
    let path = directory.join("current/state.yaml").display().to_string();
    it.daemon.command(&["apply", "-f", &path])?.expect_ok()?;
    assert!(published("8113")?);
    swap("current", "..4")?;
    within(Duration::from_secs(10), "the fourth, by the full round", || published("8114"))?;
    // From now on its new directory is watched.
    fs::write(directory.join("..4/state.yaml"), it.host.localized(&ONE_HOST.replace("8080:80", "8115:80")))?;
    within(WAIT, "a change there", || published("8115"))?;
    it.lab.finish()
}
