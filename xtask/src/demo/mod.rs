//! The demonstration: weft's four jobs in a lab of their own, each shown to have taken its eBPF path.

mod counters;
mod probes;
mod topology;

use std::{fs, path::Path};

use ::tests::{Daemon, Lab, Namespace, Tools};
use anyhow::{Result, ensure};
use comfy_table::{Table, presets::NOTHING};
use nix::sys::signal::{SigSet, Signal};

use counters::Counters;
use probes::{Expected, Probe};
use topology::Topology;

/// Shows the demonstration with the programs of this directory.
pub fn run(programs: &Path, once: bool) -> Result<()> {
    // Ctrl-C ends the wait below, not the program in the middle of something: the lab is removed in any case.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let tools = Tools { weft: programs.join("weft"), labtool: programs.join("labtool") };
    let lab = Lab::with_tools("demonstration", tools.clone())?;
    let shown = show(&lab, &tools.weft, (!once).then_some(&signals));
    let finished = lab.finish();
    shown.and(finished)
}

/// Builds the topology, prints the table, and waits for one of these signals if there are any.
fn show(lab: &Lab, weft: &Path, signals: Option<&SigSet>) -> Result<()> {
    let topology = Topology::build(lab)?;
    let wrong = table(&topology)?;
    if let Some(signals) = signals {
        print_hints(&topology, weft);
        let signal = signals.wait()?;
        println!("\n{signal}: removing the lab");
    }
    if wrong > 0 {
        for (host, daemon) in [("a", &topology.weft_a), ("b", &topology.weft_b)] {
            eprintln!("--- weft in host {host}:\n{}---", daemon.log()?);
        }
    }
    ensure!(wrong == 0, "{wrong} rows are not as they must be");
    Ok(())
}

/// Prints the reachability table; the number of rows that are not as they must be.
fn table(topology: &Topology) -> Result<usize> {
    let daemons = [("a", &topology.weft_a), ("b", &topology.weft_b)];
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["", "from", "to", "how", "expected", "got", "eBPF path"]);
    let mut wrong = 0;
    for probe in probes::all(topology) {
        let before = Counters::read(&daemons)?;
        let answer = (probe.ask)().unwrap_or_else(|error| Some(format!("error: {error:#}")));
        let moved = Counters::read(&daemons)?.moved_since(&before);
        let right = is_right(&probe, answer.as_deref(), &moved);
        wrong += usize::from(!right);
        table.add_row([
            if right { "ok" } else { "WRONG" },
            probe.from,
            probe.to,
            probe.how,
            if probe.expected == Expected::Reached { "reached" } else { "blocked" },
            answer.as_deref().unwrap_or("blocked"),
            &shown_paths(&probe, &moved),
        ]);
    }
    println!("{table}");
    println!("\n{}", if wrong == 0 { "every row is as it must be".into() } else { format!("{wrong} wrong") });
    Ok(wrong)
}

fn is_right(probe: &Probe, answer: Option<&str>, moved: &[String]) -> bool {
    let as_expected = match probe.expected {
        Expected::Reached => answer.is_some_and(|answer| answer.contains(probe.answer)),
        Expected::Blocked => answer.is_none(),
    };
    as_expected && probe.paths.iter().all(|path| counters::contains(moved, path))
}

/// The required counters that moved, those that did not, and else whatever did.
fn shown_paths(probe: &Probe, moved: &[String]) -> String {
    let missing = probe.paths.iter().filter(|path| !counters::contains(moved, path));
    let missing = missing.map(|path| format!("NOT {path}"));
    let required =
        |name: &&String| probe.paths.iter().any(|path| counters::contains(&[(*name).clone()], path));
    let shown: Vec<_> = moved.iter().filter(required).cloned().chain(missing).collect();
    // A row that requires nothing shows a few of those that moved all the same.
    if shown.is_empty() {
        moved.iter().take(3).cloned().collect::<Vec<_>>().join(" ")
    } else {
        shown.join(" ")
    }
}

fn print_hints(topology: &Topology, weft: &Path) {
    let Topology { a, client, weft_a, cache, .. } = topology;
    let enter = |namespace: &Namespace| format!("nsenter --net=/run/netns/{}", namespace.netns());
    let options = format!("--socket {} --bpf-dir {}", weft_a.socket().display(), weft_a.bpf_dir().display());
    let weft = |words: &str| format!("{} {} {words} {options}", enter(a), weft.display());
    println!("\nWorth trying in another terminal, as root (all of it is inside the lab):");
    for (what, command) in [
        ("a published port, from outside", format!("{} curl http://192.0.2.1:8080/", enter(client))),
        ("the flow records", weft("flow ls")),
        ("containers and their ports", format!("{}\n  {}", weft("endpoint ls"), weft("port ls"))),
        ("what was dropped, and why", weft("drop ls")),
        ("a map, with named fields", format!("bpftool map dump pinned {}", a_map(weft_a))),
        ("VXLAN on the wire", format!("{} tcpdump -ni eth0 udp port 4789", enter(a))),
        ("…while this runs", format!("{} ping 10.20.0.20", enter(cache))),
        ("change the declared state", format!("$EDITOR {}", weft_a.file().display())),
    ] {
        println!("# {what}\n  {command}");
    }
    println!("\nCtrl-C removes the lab.");
}

/// A pin worth looking at: the endpoints if that is the map's name, else any.
fn a_map(daemon: &Daemon) -> String {
    let versions = fs::read_dir(daemon.bpf_dir()).into_iter().flatten().flatten();
    let maps = versions.flat_map(|version| fs::read_dir(version.path().join("maps")).into_iter().flatten());
    let mut maps = maps.flatten().map(|map| map.path()).collect::<Vec<_>>();
    maps.sort_by_key(|map| !map.ends_with("endpoints"));
    maps.first().map_or_else(|| format!("{}/…", daemon.bpf_dir().display()), |map| map.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(expected: Expected, paths: &'static [&'static str]) -> Probe<'static> {
        Probe {
            from: "a",
            to: "b",
            how: "test",
            expected,
            answer: "hello",
            paths,
            ask: Box::new(|| Ok(None)),
        }
    }

    #[test]
    fn a_row_is_right_only_with_its_answer_and_its_path() {
        let moved = ["a:bridge".to_owned(), "a:drop(isolated)".to_owned()];
        let reached = probe(Expected::Reached, &["a:bridge"]);
        assert!(is_right(&reached, Some("hello you"), &moved));
        assert!(!is_right(&reached, Some("hello you"), &[]), "another path took it");
        assert!(!is_right(&reached, Some("DAMAGED"), &moved));
        assert!(!is_right(&reached, None, &moved));
        let blocked = probe(Expected::Blocked, &["a:drop"]);
        assert!(is_right(&blocked, None, &moved));
        assert!(!is_right(&blocked, None, &moved[..1]), "nothing counted the drop");
        assert!(!is_right(&blocked, Some("hello"), &moved));
        assert_eq!(shown_paths(&reached, &moved[1..]), "NOT a:bridge");
        assert_eq!(shown_paths(&blocked, &moved), "a:drop(isolated)");
    }
}
