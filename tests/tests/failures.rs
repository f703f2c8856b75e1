//! What goes wrong is said: by exit codes, in JSON for programs, and in `status`, while everything else goes on.

mod common;

use std::{fs, os::unix::fs::symlink, time::Duration};

use anyhow::{Context, Result};
use common::{ONE_HOST, OneHost, within};
use serde_json::Value;
use tests::{Daemon, lab::process::Output};

const WAIT: Duration = Duration::from_secs(5);

/// The one JSON document on standard output.
fn document(output: &Output) -> Result<Value> {
    serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))
}

fn problems(daemon: &Daemon) -> Result<String> {
    Ok(daemon.json(&["status"])?["problems"].to_string())
}

/// Exit code 2 and what is wrong in parts for bad files, exit code 1 and the reason for everything else, always one JSON
/// document with `-o json`.
#[test]
fn failures_have_exit_codes_and_documents() -> Result<()> {
    let mut it = OneHost::new("codes")?;
    let bad = it.lab.directory().join("bad.yaml");
    fs::write(&bad, "services:\n  web: { netwoks: {} }\n")?;
    let (bad, good) = (bad.display().to_string(), it.daemon.file().display().to_string());
    for words in [
        vec!["apply", "-f", &bad],
        vec!["apply", "--dry-run", "-f", &bad],
        vec!["config", "check", "-f", &bad],
    ] {
        let table = it.daemon.command(&words)?;
        assert_eq!((table.code(), table.stdout.as_str()), (Some(2), ""), "{table:?}");
        assert!(table.stderr.contains(&format!("{bad}:2:10: ")), "{table:?}");
        let json = it.daemon.command(&[words.as_slice(), &["-o", "json"]].concat())?;
        assert_eq!(json.code(), Some(2), "{json:?}");
        let error = &document(&json)?["errors"][0];
        assert_eq!((&error["line"], &error["column"]), (&2.into(), &10.into()), "{error}");
    }
    // One that succeeds has its own document.
    let applied = it.daemon.json(&["apply", "-f", &good])?;
    assert!(applied["changes"].is_array() && applied["problems"].is_array(), "{applied}");
    // No daemon.
    it.daemon.kill9();
    for words in [&["apply", "-f", &good][..], &["network", "ls"], &["status"]] {
        let json = it.daemon.command(&[words, &["-o", "json"]].concat())?;
        assert_eq!(json.code(), Some(1), "{json:?}");
        let document = document(&json)?;
        let no_daemon = document["error"].as_str().is_some_and(|error| error.contains("no weft daemon"));
        assert!(no_daemon || document["running"] == false, "{document}");
    }
    // A teardown that cannot end its work says all that is left, and can be tried again.
    let leases = it.daemon.state_dir().join("leases.json");
    let kept = fs::read(&leases)?;
    fs::write(&leases, "{ not JSON")?;
    let state = it.daemon.state_dir().display().to_string();
    let teardown = ["teardown", "--state-dir", &state, "-o", "json"];
    let json = it.daemon.command(&teardown)?;
    assert_eq!(json.code(), Some(1), "{json:?}");
    assert!(document(&json)?["error"].to_string().contains("leases.json is damaged"), "{json:?}");
    fs::write(&leases, kept)?;
    let json = it.daemon.command(&teardown)?;
    assert_eq!((json.code(), document(&json)?["removed"].as_bool()), (Some(0), Some(true)), "{json:?}");
    it.lab.finish()
}

/// Files that cannot be looked at were not removed: what they declared stays, and `status` and `apply` name them.
#[test]
fn files_that_cannot_be_looked_at_take_nothing_along() -> Result<()> {
    let it = OneHost::new("vanish")?;
    let extra = [it.host.container("single")?, it.host.container("linked")?];
    let service = |name: &str, host: u8| {
        let network = format!("{{ front: {{ ipv4_address: 10.10.0.{host} }} }}");
        let text = format!("services:\n  {name}: {{ networks: {network}, x-weft: {{ netns: {name} }} }}\n");
        it.host.localized(&text)
    };
    let directory = it.daemon.write_directory(&[])?;
    let (single, target) = (it.lab.directory().join("single.yaml"), it.lab.directory().join("target"));
    fs::write(&single, service("single", 21))?;
    fs::write(&target, service("linked", 22))?;
    symlink(&target, directory.join("linked.yaml"))?;
    let sources = [it.daemon.file(), &single, &directory].map(|path| path.display().to_string());
    let [whole, single_file, directory_of_links] = sources.each_ref().map(String::as_str);
    let apply = ["apply", "-f", whole, single_file, directory_of_links];
    it.daemon.command(&apply)?.expect_ok()?;
    let all_there = || -> Result<()> {
        for container in &extra {
            assert!(container.pings("10.10.0.10")?, "{}", container.netns());
        }
        Ok(())
    };
    all_there()?;
    for (lost, named) in [(&single, &single), (&target, &directory.join("linked.yaml"))] {
        let aside = lost.with_extension("aside");
        let place = format!("{}:1:1: cannot be read: No such file", named.display());
        fs::rename(lost, &aside)?;
        let refused = it.daemon.command(&apply)?;
        assert!(refused.code() == Some(2) && refused.stderr.contains(&place), "{refused:?}");
        all_there()?;
        fs::rename(&aside, lost)?;
        it.daemon.command(&apply)?.expect_ok()?;
        // The full round finds it by itself: no event tells of what a link leads to.
        fs::rename(lost, &aside)?;
        within(Duration::from_secs(12), "it is told", || {
            let config = it.daemon.json(&["status"])?["config"].clone();
            Ok(config["state"] == "bad" && config["errors"].to_string().contains("cannot be read"))
        })?;
        all_there()?;
        fs::rename(&aside, lost)?;
        within(Duration::from_secs(12), "it is good again", || {
            Ok(it.daemon.json(&["status"])?["config"]["state"] == "good")
        })?;
        all_there()?;
    }
    it.lab.finish()
}

/// `apply` of the files that the daemon watches takes over what it can, and says so: it is no bad input, which changes
/// nothing, and it is not done.
#[test]
fn apply_says_what_waits_for_its_namespace() -> Result<()> {
    let it = OneHost::new("waits")?;
    let _web = it.web.serve_http(80, "hello")?;
    let own = it.daemon.file().display().to_string();
    let text = ONE_HOST.replace("\"8080:80\"", "\"8090:80\"").replace("netns: db", "netns: no-such");
    it.daemon.rewrite(&text)?;
    let applied = it.daemon.command(&["apply", "-f", &own])?;
    assert_eq!(applied.code(), Some(1), "{applied:?}");
    let line = 1 + text.lines().position(|line| line.contains("no-such")).context("a line")?;
    let place = format!("{own}:{line}:13: service db: ");
    for part in ["the files were applied, but not all of it", &place, "no-such"] {
        assert!(applied.stderr.contains(part), "{applied:?}");
    }
    assert_eq!(it.client.curl("http://192.0.2.1:8090")?.stdout, "hello", "the rest is applied");
    // Other files have to be right as a whole before they are taken.
    let other = it.lab.directory().join("other.yaml");
    fs::copy(it.daemon.file(), &other)?;
    let refused = it.daemon.command(&["apply", "-f", &other.display().to_string()])?;
    assert!(refused.code() == Some(2) && refused.stderr.contains(":13: service db: "), "{refused:?}");
    it.lab.finish()
}

/// A waiting room that cannot be made concerns nothing else: it stays told while others change.
#[test]
fn a_waiting_room_that_cannot_be_made_stays_told() -> Result<()> {
    let mut it = OneHost::with("room", &without_chosen_ports())?;
    it.daemon.terminate()?;
    for command in ["ip link del weft-wait", "ip link add weft-wait type bridge"] {
        it.host.check(command)?;
    }
    it.daemon.restart()?;
    assert!(problems(&it.daemon)?.contains("waiting room"));
    let extra = it.host.container("extra")?;
    let service = "services:\n  extra: { networks: { front: {} }, x-weft: { netns: extra } }\n";
    it.daemon.rewrite(&without_chosen_ports().replace("services:\n", service))?;
    within(WAIT, "the new container is there", || extra.pings("10.10.0.10"))?;
    assert!(problems(&it.daemon)?.contains("waiting room"));
    it.host.check("ip link del weft-wait")?;
    within(Duration::from_secs(12), "it is made once it can be", || Ok(problems(&it.daemon)? == "[]"))?;
    it.lab.finish()
}

/// Pipes and standard input are read once by the command itself; the daemon, which reads again, refuses them.
#[test]
fn pipes_are_read_once() -> Result<()> {
    let it = OneHost::new("pipes")?;
    let (weft, socket) = (it.host.weft_program()?, it.daemon.socket().display());
    let shown = it.host.localized(&ONE_HOST.replace("8080:80", "8181:80"));
    let file = it.lab.directory().join("piped.yaml");
    fs::write(&file, &shown)?;
    let file = file.display();
    let bash = |line: &str| it.host.run(&format!("exec bash -c \"{line}\""));
    for source in ["-f <(cat FILE)", "-f - < FILE", "-f /dev/stdin < FILE", "-f - < <(cat FILE)"] {
        let source = source.replace("FILE", &file.to_string());
        bash(&format!("{weft} config check {source}"))?.expect_ok()?;
        let plan = bash(&format!("{weft} apply --dry-run --socket {socket} {source}"))?.expect_ok()?;
        assert!(plan.stdout.contains("8181"), "{plan:?}");
    }
    // A directory beside a pipe: what is in it is read once as well.
    let more = it.lab.directory().join("more");
    fs::create_dir(&more)?;
    fs::write(
        more.join("more.yaml"),
        "networks: { more: { ipam: { config: [ { subnet: 10.77.0.0/24 } ] } } }\n",
    )?;
    let both = format!("-f {} - < {file}", more.display());
    bash(&format!("{weft} config check {both}"))?.expect_ok()?;
    let plan = bash(&format!("{weft} apply --dry-run --socket {socket} {both}"))?.expect_ok()?;
    assert!(plan.stdout.contains("8181") && plan.stdout.contains("10.77.0.0/24"), "{plan:?}");
    // Errors have their place, by the name that the shell gave.
    let wrong = bash(&format!("sed s/10.10.0.11/10.99.0.11/ {file} | {weft} config check -f -"))?;
    assert!(wrong.code() == Some(2) && wrong.stderr.starts_with("-:20:"), "{wrong:?}");
    let endless = bash(&format!("{weft} config check -f /dev/zero"))?;
    assert!(endless.code() == Some(2) && endless.stderr.contains("/dev/zero:1:1: "), "{endless:?}");

    bash(&format!("{weft} apply --socket {socket} -f <(cat {file})"))?.expect_ok()?;
    assert!(it.daemon.command(&["port", "ls"])?.stdout.contains("8181"));
    let config = it.daemon.json(&["status"])?["config"].clone();
    assert!(config["watched"] == false && config["state"] == "good", "{config}");
    // The full rounds do not look for what is gone, nor does the file from before come back.
    it.daemon.rewrite(ONE_HOST)?;
    std::thread::sleep(Duration::from_secs(9));
    let config = it.daemon.json(&["status"])?["config"].clone();
    assert!(config["watched"] == false && config["state"] == "good", "{config}");
    assert!(it.daemon.command(&["port", "ls"])?.stdout.contains("8181"));
    let own = it.daemon.file().display().to_string();
    it.daemon.command(&["apply", "-f", &own])?.expect_ok()?;
    assert!(it.daemon.command(&["port", "ls"])?.stdout.contains("8080"));
    assert_eq!(it.daemon.json(&["status"])?["config"]["watched"], true);

    for source in ["-f <(cat FILE)", "-f - < FILE"] {
        let source = source.replace("FILE", &file.to_string());
        let refused = it.client.run(&format!(
            "exec bash -c \"timeout 5 {weft} daemon --socket {socket}.2 --state-dir {file}.state --bpf-dir {}.2 {source}\"",
            it.daemon.bpf_dir().display(),
        ))?;
        assert!(refused.code() == Some(2) && refused.stderr.contains("read only once"), "{refused:?}");
    }
    it.lab.finish()
}

/// Leases that cannot be kept stop only what needs a new one: what is there is repaired, and what needs none is applied.
#[test]
fn leases_that_cannot_be_kept_stop_only_what_is_new() -> Result<()> {
    let it = OneHost::new("diskfull")?;
    let _web = it.web.serve_http(80, "hello")?;
    let _extra = it.host.container("extra")?;
    // Something else where the new file is to be written: open(2) fails, as it would on a full or read-only disk.
    // The journal, where a difference is kept, likewise.
    let blocked = ["leases.json.new", "leases.journal"].map(|name| it.daemon.state_dir().join(name));
    for path in &blocked {
        let _ = fs::remove_file(path);
        fs::create_dir(path)?;
    }
    let more = ONE_HOST
        .replace("services:\n", "services:\n  extra:\n    networks: { front: {} }\n    ports: [ \"9090:90\" ]\n    x-weft: { netns: extra }\n")
        .replace("\"8080:80\"", "\"8083:80\"");
    it.daemon.rewrite(&more)?;
    within(WAIT, "what needs no new lease is applied", || {
        Ok(it.client.curl("http://192.0.2.1:8083")?.stdout == "hello")
    })?;
    let told = problems(&it.daemon)?;
    assert!(told.contains("leases.json") && told.contains("container extra in network front"), "{told}");
    assert!(!_extra.has_device("eth0")?, "an address that is not kept is not given");
    it.web.ip("link del eth0")?;
    within(WAIT, "what was there is repaired", || {
        Ok(it.client.curl("http://192.0.2.1:8083")?.stdout == "hello")
    })?;
    assert!(it.web.pings("10.10.0.11")?);
    for path in &blocked {
        fs::remove_dir(path)?;
    }
    within(Duration::from_secs(12), "the new container is there once leases can be kept", || {
        Ok(_extra.ip("link show dev eth0").is_ok()
            && it.daemon.json(&["status"])?["problems"].as_array().is_some_and(Vec::is_empty))
    })?;
    assert!(_extra.pings("10.10.0.10")?);
    it.lab.finish()
}

/// `apply --dry-run` says which ports a process of the host stands in the way of.
#[test]
fn dry_run_names_the_ports_that_are_held() -> Result<()> {
    let it = OneHost::new("held")?;
    let _held = it.host.serve_echo(8090)?;
    let path = it.lab.directory().join("other.yaml");
    fs::write(
        &path,
        it.host.localized(&ONE_HOST.replace("\"8080:80\"", "\"8080:80\"\n      - \"8090:80\"")),
    )?;
    let path = path.display().to_string();
    let plan = it.daemon.json(&["apply", "--dry-run", "-f", &path])?;
    let told = plan["problems"].to_string();
    assert!(told.contains("8090/tcp of container web") && told.contains("labtool"), "{plan}");
    assert_eq!(plan["problems"].as_array().map(Vec::len), Some(1), "{plan}");
    assert!(!it.daemon.command(&["port", "ls"])?.stdout.contains("8090"), "nothing was changed");
    it.lab.finish()
}

/// Where ports are chosen every round is a whole one.
fn without_chosen_ports() -> String {
    ONE_HOST.replace("      - \"11000-11002:80\"\n", "")
}

/// A container that moves to another namespace needs a new epoch: where that cannot be kept it stays where it was. One
/// change alone, which is the work of a difference.
#[test]
fn who_moves_while_leases_cannot_be_kept_stays() -> Result<()> {
    let before = without_chosen_ports();
    let it = OneHost::with("stays", &before)?;
    let _web = it.web.serve_http(80, "hello")?;
    let extra = it.host.container("extra")?;
    let blocked = ["leases.json.new", "leases.journal"].map(|name| it.daemon.state_dir().join(name));
    for path in &blocked {
        let _ = fs::remove_file(path);
        fs::create_dir(path)?;
    }
    it.daemon.rewrite(&before.replace("netns: web", "netns: extra"))?;
    within(WAIT, "it is told", || Ok(problems(&it.daemon)?.contains("container web in network front")))?;
    assert_eq!(it.client.curl("http://192.0.2.1:8080")?.stdout, "hello");
    assert!(!extra.has_device("eth0")?);
    for path in &blocked {
        fs::remove_dir(path)?;
    }
    within(Duration::from_secs(12), "it moves once leases can be kept", || {
        Ok(extra.ip("link show dev eth0").is_ok() && problems(&it.daemon)? == "[]")
    })?;
    it.lab.finish()
}

/// Where only one of the journal and the lease file can be written, that one has the choice, and nothing waits.
#[test]
fn journal_and_lease_file_stand_in_for_one_another() -> Result<()> {
    let mut text = without_chosen_ports();
    let mut it = OneHost::with("standin", &text)?;
    let (first, second) = (it.host.container("first")?, it.host.container("second")?);
    let mut add = |name: &str| {
        let service =
            format!("services:\n  {name}: {{ networks: {{ front: {{}} }}, x-weft: {{ netns: {name} }} }}\n");
        text = text.replace("services:\n", &service);
        text.clone()
    };
    let [file, journal] = ["leases.json.new", "leases.journal"].map(|name| it.daemon.state_dir().join(name));
    fs::create_dir(&file)?;
    it.daemon.rewrite(&add("first"))?;
    within(WAIT, "the journal has it", || first.pings("10.10.0.10"))?;
    assert_eq!(problems(&it.daemon)?, "[]");
    assert!(fs::read_to_string(&journal)?.contains("\"first\""));
    let address = |container: &tests::Container| container.ip("-4 -o address show dev eth0");
    let before = address(&first)?;
    it.daemon.kill9();
    fs::remove_dir(&file)?;
    it.daemon.restart()?;
    assert_eq!(address(&first)?, before);

    let _ = fs::remove_file(&journal);
    fs::create_dir(&journal)?;
    it.daemon.rewrite(&add("second"))?;
    within(WAIT, "the lease file has it", || second.pings("10.10.0.10"))?;
    assert_eq!(problems(&it.daemon)?, "[]");
    assert!(fs::read_to_string(it.daemon.state_dir().join("leases.json"))?.contains("\"second\""));
    fs::remove_dir(&journal)?;
    it.lab.finish()
}
