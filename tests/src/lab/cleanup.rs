//! The end of a lab.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Inner,
    leftover::{self, Objects},
    process,
};

/// Longest time until killed processes are gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Removes everything of this lab; what should not have been there, in words.
pub(super) fn clean(lab: &Inner) -> Vec<String> {
    let (namespaces, mut installations) = {
        let state = lab.state();
        (state.namespaces.clone(), state.installations.clone())
    };
    let mut left = kill_processes(&namespaces);
    // A host's daemon may have been started several times; it has one installation to tear down.
    installations.reverse();
    let mut seen = Vec::new();
    for installation in installations {
        if seen.contains(&installation.bpf_dir) {
            continue;
        }
        seen.push(installation.bpf_dir.clone());
        let of_host = |text: String| format!("{text}, in host {}", installation.host);
        let objects = Objects::pinned_under(&installation.bpf_dir).unwrap_or_else(|error| {
            left.push(of_host(format!("unknown BPF objects ({error:#})")));
            Objects::default()
        });
        match installation.teardown() {
            Ok(output) if output.ok() => {}
            Ok(output) => left.push(of_host(format!(
                "a dataplane that `weft teardown` could not remove ({}: {})",
                output.status,
                output.stderr.trim_end()
            ))),
            Err(error) => left.push(of_host(format!("a dataplane: `weft teardown` did not run ({error:#})"))),
        }
        match leftover::of(&installation, &objects) {
            Ok(found) => left.extend(found.into_iter().map(of_host)),
            Err(error) => left.push(of_host(format!("what could not be looked for ({error:#})"))),
        }
        leftover::remove_pins(&installation.bpf_dir);
    }
    for netns in &namespaces {
        if let Err(error) = process::ip(&format!("netns delete {netns}")) {
            left.push(format!("the namespace {netns} ({error:#})"));
        }
    }
    for netns in namespaces_of(&lab.prefix) {
        left.push(format!("the namespace {netns}, which the lab did not make"));
        remove_namespace(&netns);
    }
    for pins in pin_directories_of(&lab.prefix) {
        left.push(format!("pins under {pins}"));
        leftover::remove_pins(Path::new(&pins));
    }
    if let Err(error) = fs::remove_dir_all(&lab.directory) {
        left.push(format!("the directory {} ({error})", lab.directory.display()));
    }
    left
}

/// Removes what is left of labs whose process was killed: their names tell its process id.
pub(super) fn sweep_dead_labs() {
    let mut dead = names_in("/run/netns")
        .into_iter()
        .chain(names_in("/sys/fs/bpf"))
        .chain(names_in(env::temp_dir()))
        .filter_map(|name| prefix_of_dead_process(name.strip_prefix("weft-").unwrap_or(&name)))
        .collect::<Vec<_>>();
    dead.sort();
    dead.dedup();
    for prefix in dead {
        let namespaces = namespaces_of(&prefix);
        kill_processes(&namespaces);
        for pins in pin_directories_of(&prefix) {
            leftover::remove_pins(Path::new(&pins));
        }
        namespaces.iter().for_each(|netns| remove_namespace(netns));
        // Another lab may be sweeping the same: whoever comes second finds nothing.
        let _ = fs::remove_dir_all(env::temp_dir().join(format!("weft-{prefix}")));
    }
}

/// Makes the program end with exit code 101: a lab went out of scope without `finish`, yet nothing failed.
/// If something did fail the exit code is that already.
pub(super) fn fail_at_exit(title: &str) {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn fail() {
        eprintln!(
            "error: a lab was dropped without finish(): its test failed, or did not check what it left"
        );
        // SAFETY: _exit only ends the process.
        unsafe { libc::_exit(101) }
    }
    eprintln!("the lab `{title}` was dropped without finish()");
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler neither unwinds nor uses thread-local or freed state.
        unsafe { libc::atexit(fail) };
    }
}

/// Kills whatever runs in these namespaces; what would not die, in words.
fn kill_processes(namespaces: &[String]) -> Vec<String> {
    let inodes = namespaces
        .iter()
        .filter_map(|netns| fs::metadata(format!("/run/netns/{netns}")).ok())
        .map(|metadata| format!("net:[{}]", metadata.ino()))
        .collect::<Vec<_>>();
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        let running = names_in("/proc")
            .into_iter()
            .filter_map(|name| name.parse::<i32>().ok())
            .filter(|pid| {
                fs::read_link(format!("/proc/{pid}/ns/net"))
                    .is_ok_and(|link| link.to_str().is_some_and(|link| inodes.iter().any(|net| net == link)))
            })
            .collect::<Vec<_>>();
        if running.is_empty() {
            return Vec::new();
        }
        if Instant::now() > deadline {
            return running.iter().map(|pid| format!("the process {pid}")).collect();
        }
        for pid in running {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn remove_namespace(netns: &str) {
    kill_processes(&[netns.to_owned()]);
    let _ = process::ip(&format!("netns delete {netns}"));
}

fn namespaces_of(prefix: &str) -> Vec<String> {
    let start = format!("{prefix}-");
    names_in("/run/netns").into_iter().filter(|name| name.starts_with(&start)).collect()
}

fn pin_directories_of(prefix: &str) -> Vec<String> {
    let start = format!("weft-{prefix}-");
    let names = names_in("/sys/fs/bpf").into_iter().filter(|name| name.starts_with(&start));
    names.map(|name| format!("/sys/fs/bpf/{name}")).collect()
}

fn names_in(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// `lab12x3` of `lab12x3-a`, if no process 12 exists.
fn prefix_of_dead_process(name: &str) -> Option<String> {
    let prefix = name.split('-').next()?;
    let (pid, counter) = prefix.strip_prefix("lab")?.split_once('x')?;
    counter.parse::<u32>().ok()?;
    let pid = pid.parse::<i32>().ok().filter(|pid| *pid > 0)?;
    (kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)).then(|| prefix.to_owned())
}
