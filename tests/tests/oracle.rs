//! The oracle: weft against the kernel's own way, on random topologies with random actions.
//!
//! `WEFT_ORACLE_CASES` is the number of cases (500), `WEFT_ORACLE_SEED` the seed of the first (1), `WEFT_ORACLE_STAGES` the
//! pairs of labs at one time (5), `WEFT_ORACLE_FAMILIES=ipv4` draws cases of IPv4 alone. `WEFT_ORACLE_CASE` is the
//! description of one case to replay.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::oracle::{
    description::{Case, NetworkKind, Protocol, Topology},
    family::Family,
    rules::RULES,
    runner::{self, Plan},
};

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

/// Whether cases are of both families; `WEFT_ORACLE_FAMILIES=ipv4` draws those of IPv4 alone.
fn both_families() -> Result<bool> {
    match env::var("WEFT_ORACLE_FAMILIES").as_deref() {
        Ok("both") | Err(_) => Ok(true),
        Ok("ipv4") => Ok(false),
        Ok(other) => anyhow::bail!("WEFT_ORACLE_FAMILIES={other} is neither both nor ipv4"),
    }
}

/// weft is told the truth.
fn truth(topology: &Topology) -> Topology {
    topology.clone()
}

/// A case is one topology with its actions, in up to three steps with changes of the configuration in between.
#[test]
fn weft_does_what_the_kernel_does() -> Result<()> {
    if let Ok(text) = env::var("WEFT_ORACLE_CASE") {
        let case: Case = serde_json::from_str(&text).context("WEFT_ORACLE_CASE")?;
        let findings = runner::replay(&case, truth)?;
        ensure!(findings.is_empty(), "{}", findings.concat());
        return Ok(());
    }
    let plan = Plan {
        cases: number("WEFT_ORACLE_CASES", 500)?,
        seed: number("WEFT_ORACLE_SEED", 1)?,
        stages: number("WEFT_ORACLE_STAGES", 5)?,
        told: truth,
        finds: 10,
        is_dual: both_families()?,
    };
    let start = Instant::now();
    let report = runner::run(&plan)?;
    println!(
        "{} cases from seed {} with {} configurations and {} actions in {:.1?}",
        report.cases,
        plan.seed,
        report.configurations,
        report.actions,
        start.elapsed()
    );
    for rule in &RULES {
        println!("rule {} applied {} times", rule.name, rule.applied());
    }
    println!("{} actions differed at first only\n{}", report.unsteady.len(), report.unsteady.concat());
    ensure!(report.found.is_empty(), "{} cases differ", report.found.len());
    Ok(())
}

/// Ports of containers are taken for others.
fn wrong_port(topology: &Topology) -> Topology {
    let mut wrong = topology.clone();
    for publication in wrong.containers.iter_mut().flatten().flat_map(|container| &mut container.ports) {
        publication.container_port = if publication.container_port == 7000 { 7001 } else { 7000 };
    }
    wrong
}

/// Members of isolated networks reach one another, and those of internal ones the world.
fn no_isolation(topology: &Topology) -> Topology {
    let mut wrong = topology.clone();
    for network in &mut wrong.networks {
        if matches!(network.kind, NetworkKind::Isolated | NetworkKind::Internal) {
            network.kind = NetworkKind::Plain;
        }
    }
    wrong
}

/// UDP ports are not published.
fn without_udp(topology: &Topology) -> Topology {
    let mut wrong = topology.clone();
    for container in wrong.containers.iter_mut().flatten() {
        container.ports.retain(|publication| publication.protocol != Protocol::Udp);
    }
    wrong
}

/// Ports are published by IPv4 only.
fn without_ipv6(topology: &Topology) -> Topology {
    let mut wrong = topology.clone();
    for container in wrong.containers.iter_mut().flatten() {
        let both = container.ports.iter_mut().filter(|publication| publication.is_of_both());
        both.for_each(|publication| publication.family = Some(Family::V4));
        container.ports.retain(|publication| {
            publication.family != Some(Family::V6)
                && topology.leads_somewhere(&container.networks, publication)
        });
    }
    wrong
}

/// Whoever trusts the oracle has seen it find something: weft is told something wrong on purpose.
#[test]
fn planted_mistakes_are_found() -> Result<()> {
    for (name, told) in [
        ("wrong port", wrong_port as fn(&Topology) -> Topology),
        ("no isolation", no_isolation),
        ("without UDP", without_udp),
        ("without IPv6", without_ipv6),
    ] {
        let report = runner::run(&Plan { cases: 60, seed: 1, stages: 1, told, finds: 1, is_dual: true })?;
        let found = report.found.first().with_context(|| format!("{name}: {} cases", report.cases))?;
        let actions = found.smallest.steps.iter().map(|step| step.actions.len()).sum::<usize>();
        let containers = found.smallest.topology.present().count();
        ensure!(actions <= 2 && containers <= 2, "{name} is not small: {}", found.smallest);
        // What was printed is enough to see it again.
        let text = found.smallest.to_string();
        let again = runner::replay(&serde_json::from_str(&text)?, told)?;
        ensure!(!again.is_empty(), "{name} does not replay: {text}");
    }
    Ok(())
}

/// What the kernel answers to long fragments for a container of an overlay narrows no tunnel: that would be there in later
/// cases, and they would differ only then.
#[test]
fn a_case_leaves_nothing_to_the_next() -> Result<()> {
    let at = |host: usize| {
        json!({
            "host": host,
            "networks": [0],
            "ports": [{
                "binding": "Any", "family": "V6", "protocol": "Udp", "host_port": 8084, "container_port": 7002, "count": 1,
            }],
        })
    };
    let send = |from: Value, to: Value, port: u16, size: u16| {
        let to = json!([[{ "address": to, "port": port }, size]]);
        json!({ "Udp": { "from": from, "family": "V6", "source": null, "to": to } })
    };
    let long = |from: usize| send(json!({ "Host": from }), json!({ "Uplink": 1 - from }), 8084, 5000);
    let whole = send(json!({ "Container": 0 }), json!({ "Container": [1, 0] }), 7001, 1353);
    let case: Case = serde_json::from_value(json!({
        "topology": {
            "networks": [{ "kind": "Overlay", "host": 0, "families": "V6" }],
            "containers": [at(1), at(0), null, null],
            "tunnels": "V6",
        },
        "steps": [
            { "changes": [], "actions": [long(0), long(1)] },
            { "changes": [], "actions": [whole] },
        ],
    }))?;
    // On a machine with four times as much to do as it can the kernel's side loses an answer in one run of twelve. What is left
    // to the next case is there each time.
    let mut findings = Vec::new();
    for _ in 0..3 {
        findings = runner::replay(&case, truth)?;
        if findings.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("{}", findings.concat())
}

/// The document names the rules, and only those.
#[test]
fn every_rule_is_documented() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/differences.md");
    let text = fs::read_to_string(path).context(path)?;
    let mut documented: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut rules: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    documented.sort_unstable();
    rules.sort_unstable();
    ensure!(documented == rules, "docs/differences.md has {documented:?}, the code has {rules:?}");
    Ok(())
}

/// Not a test of its own: the program that the next test runs.
#[test]
#[ignore = "run by another test"]
fn a_panic_in_the_middle() {
    let told: fn(&Topology) -> Topology = |topology| {
        assert!(topology.present().count() == 0, "on purpose");
        topology.clone()
    };
    let report = runner::run(&Plan { cases: 5, seed: 1, stages: 2, told, finds: 1, is_dual: false });
    unreachable!("it did not panic: {report:?}");
}

/// A panic leaves no namespace and no pin, on neither side.
#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--exact", "a_panic_in_the_middle", "--ignored", "--nocapture", "--test-threads=1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let prefix = format!("lab{}x", child.id());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("on purpose"), "{said}");
    ensure!(!said.contains("did not panic"), "{said}");
    for directory in [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), &env::temp_dir()] {
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(!name.contains(&prefix), "{}/{name} was left", directory.display());
        }
    }
    Ok(())
}
