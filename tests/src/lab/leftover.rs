//! What weft must not leave behind: looked for after `weft teardown`, before the namespaces go.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{daemon::Installation, process};

/// The kernel frees programs and maps some time after the last reference is gone (RCU, work queues).
const FREE_LIMIT: Duration = Duration::from_secs(3);

/// Kernel objects of one daemon, by what its pins refer to.
#[derive(Debug, Default)]
pub(super) struct Objects(Vec<(&'static str, u64)>);

impl Objects {
    /// The maps, programs and links pinned under this directory.
    pub(super) fn pinned_under(directory: &Path) -> Result<Self> {
        let mut objects = Vec::new();
        if !directory.exists() {
            return Ok(Self(objects));
        }
        for kind in ["map", "prog", "link"] {
            for object in bpftool(&["-f", kind, "show"])? {
                let mut pins = object["pinned"].as_array().into_iter().flatten().filter_map(Value::as_str);
                if pins.any(|pin| Path::new(pin).starts_with(directory))
                    && let Some(id) = object["id"].as_u64()
                {
                    objects.push((kind, id));
                    // A link keeps its program, which need not have a pin of its own.
                    objects.extend(object["prog_id"].as_u64().map(|program| ("prog", program)));
                }
            }
        }
        Ok(Self(objects))
    }

    /// Those that the kernel still has after a short while.
    fn alive(&self) -> Result<Vec<(&'static str, u64)>> {
        let deadline = Instant::now() + FREE_LIMIT;
        loop {
            let mut alive = Vec::new();
            for kind in ["map", "prog", "link"] {
                let ours = self.0.iter().filter(|(of, _)| *of == kind).collect::<BTreeSet<_>>();
                if !ours.is_empty() {
                    let all = bpftool(&[kind, "show"])?;
                    let ids = all.iter().filter_map(|object| object["id"].as_u64()).collect::<BTreeSet<_>>();
                    alive.extend(ours.into_iter().filter(|(_, id)| ids.contains(id)));
                }
            }
            if alive.is_empty() || Instant::now() > deadline {
                return Ok(alive);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Names of all devices of a namespace.
pub(super) fn devices(netns: &str) -> Result<BTreeSet<String>> {
    let links: Value = serde_json::from_str(&process::ip(&format!("-n {netns} -json link show"))?)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// What an installation left after its teardown, in words.
pub(super) fn of(installation: &Installation, objects: &Objects) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, path) in [
        ("pins under", &installation.bpf_dir),
        ("the state directory", &installation.state_dir),
        ("the socket", &installation.socket),
    ] {
        if path.symlink_metadata().is_ok() {
            found.push(format!("{what} {}", path.display()));
        }
    }
    for device in devices(&installation.netns)?.difference(&installation.devices) {
        found.push(format!("the device {device}"));
    }
    found.extend(objects.alive()?.iter().map(|(kind, id)| format!("the BPF {kind} with id {id}")));
    let netns = format!("--net=/run/netns/{}", installation.netns);
    let attached = process::run("nsenter", &[&netns, "--", "bpftool", "-j", "net", "show"])?.expect_ok()?;
    for hooks in serde_json::from_str::<Value>(&attached.stdout)?.as_array().into_iter().flatten() {
        for (hook, programs) in hooks.as_object().into_iter().flatten() {
            // flow_dissector and netfilter programs are reported apart; weft has none.
            if matches!(hook.as_str(), "xdp" | "tc")
                && programs.as_array().is_some_and(|list| !list.is_empty())
            {
                found.push(format!("attached {hook} programs: {programs}"));
            }
        }
    }
    Ok(found)
}

/// Removes pins that a teardown left, so that the next lab starts clean.
pub(super) fn remove_pins(directory: &Path) {
    // bpffs has plain directories and files; what cannot be removed is reported as left.
    if directory.exists() {
        let _ = fs::remove_dir_all(directory);
    }
}

/// What bpftool lists. It fails when an object of somebody else goes while it lists, so it is asked again.
fn bpftool(arguments: &[&str]) -> Result<Vec<Value>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let output = loop {
        let output = process::run("bpftool", &[&["-j"], arguments].concat())?;
        if output.ok() || Instant::now() > deadline {
            break output.expect_ok()?;
        }
        thread::sleep(Duration::from_millis(50));
    };
    let value: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("output of `{}`: {}", output.command, output.stdout))?;
    match value {
        Value::Array(objects) => Ok(objects),
        other => anyhow::bail!("`{}` printed {other}, not a list", output.command),
    }
}
