//! `weft status`.

use super::{
    Failure, Global, Outcome, output,
    output::{both, or_dash},
    unexpected,
};
use crate::{
    control::{
        client::{self, ask},
        protocol::{Reply, Request},
    },
    dataplane::Pinned,
    observe::{self, Counts, StatusView},
};

pub(super) fn run(global: &Global) -> Outcome {
    let status = match ask(&global.socket, &Request::Status) {
        Ok(Reply::Status(status)) => *status,
        Ok(other) => return Err(unexpected(other)),
        Err(client::Error::NotRunning(_)) => from_pins(global)?,
        Err(error) => return Err(error.into()),
    };
    match global.output {
        output::Format::Json => output::json(&status)?,
        output::Format::Table => print(&status)?,
    }
    // Without a daemon nothing is repaired, however well the packets flow.
    if status.running { Ok(()) } else { Err(Failure::Shown(1)) }
}

/// What is left to see when the daemon is dead.
fn from_pins(global: &Global) -> Result<StatusView, Failure> {
    let mut status = StatusView::default();
    if let Some(pinned) = Pinned::open(&global.bpf_dir) {
        status.counters = observe::counters(&pinned.counters()?);
        status.drops = observe::drops(&pinned.drops()?);
    }
    Ok(status)
}

fn print(status: &StatusView) -> Outcome {
    let mut parts = Vec::new();
    if status.running {
        parts.push(format!("daemon      running, process {}", or_dash(status.pid)));
        let files: Vec<String> = status.config.files.iter().map(|file| file.display().to_string()).collect();
        let served = if status.config.state == "bad" { "; the last good state is served" } else { "" };
        parts.push(format!("config      {}{served}: {}", status.config.state, files.join(" ")));
        parts.extend(status.config.errors.iter().map(|error| format!("            {error}")));
        parts.extend(status.config.warnings.iter().map(|warning| format!("            warning: {warning}")));
        let forwarding = match &status.forwarding.reason {
            Some(reason) => reason.clone(),
            None => "on".to_owned(),
        };
        parts.push(format!("forwarding  {forwarding}"));
        let masquerade = status.masquerade_ports.map(|ports| format!("masquerade  ports {ports}"));
        parts.extend(masquerade);
    } else if status.counters.is_empty() {
        parts.push("daemon      not running, and it has left nothing pinned here".to_owned());
    } else {
        parts.push("daemon      not running; the dataplane goes on as it was left".to_owned());
    }
    section(
        &mut parts,
        "PROBLEMS",
        status.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    );
    let uplinks = status.uplinks.iter().map(|uplink| {
        let address = both(uplink.address, uplink.address_v6);
        let xdp = format!("{} ({}: {})", uplink.xdp.mode, uplink.xdp.wanted.as_str(), uplink.xdp.reason);
        [uplink.name.clone(), uplink.ifindex.to_string(), address, uplink.mtu.to_string(), xdp]
    });
    section(&mut parts, "", rows(["UPLINK", "INDEX", "ADDRESS", "MTU", "XDP"], uplinks));
    let dash = |text: &String| if text.is_empty() { "-".to_owned() } else { text.clone() };
    let sysctls =
        status.sysctls.iter().map(|found| [found.name.clone(), dash(&found.before), dash(&found.now)]);
    section(&mut parts, "", rows(["SYSCTL", "BEFORE", "NOW"], sysctls));
    let programs = status.programs.iter().map(|program| {
        [
            program.name.clone(),
            program.id.to_string(),
            program.attached.to_string(),
            or_dash(program.verified_instructions),
            program.jited_bytes.to_string(),
        ]
    });
    section(&mut parts, "", rows(["PROGRAM", "ID", "ATTACHED", "VERIFIED", "JITED"], programs));
    let maps = status.maps.iter().map(|map| {
        [map.name.clone(), map.kind.clone(), map.max_entries.to_string(), format!("{}", map.bytes)]
    });
    section(&mut parts, "", rows(["MAP", "KIND", "ENTRIES", "BYTES"], maps));
    section(&mut parts, "", counts("PATH", &status.counters));
    section(&mut parts, "", counts("DROP", &status.drops));
    output::print(&parts.join("\n"))
}

fn section(parts: &mut Vec<String>, title: &str, text: String) {
    if text.is_empty() {
        return;
    }
    parts.push(String::new());
    if !title.is_empty() {
        parts.push(title.to_owned());
    }
    parts.push(text);
}

fn rows<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    if rows.is_empty() { String::new() } else { output::table(header, rows.into_iter()) }
}

fn counts(title: &str, counts: &Counts) -> String {
    let moved = counts.iter().filter(|(_, count)| count.packets > 0);
    rows(
        [title, "PACKETS", "BYTES"],
        moved.map(|(name, count)| [name.clone(), count.packets.to_string(), count.bytes.to_string()]),
    )
}
