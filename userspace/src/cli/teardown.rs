//! `weft teardown`: removes everything weft has made here, with or without a daemon, and says all that failed.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{Failure, Global, Outcome, output};
use crate::{
    control::{
        client::{self, ask},
        protocol::Request,
        server,
    },
    dataplane,
    netdev::{self, Link, Namespace, NamespaceLock, Netlink},
    reconcile::{
        devices,
        leases::{Leases, Store, SysctlScope},
        names::{self, Owner},
        sysctls,
    },
};

/// How long a daemon whose pins are free already may take for the rest of its end.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// How long a daemon that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(global: &Global) -> Outcome {
    if server::is_something_else(&global.socket)? {
        return Err(Failure::Failed(format!(
            "{} is not a socket: nothing was removed; name the daemon's --socket",
            global.socket.display()
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = Store::new(&global.state_dir);
    let here = runtime.block_on(own_scope()).map_err(|error| Failure::Failed(error.to_string()))?;
    // First of all: sockets, pins and leases are files, which another network namespace sees as well.
    refuse_elsewhere(&store, &here)?;
    match ask(&global.socket, &Request::Shutdown) {
        Ok(_) | Err(client::Error::NotRunning(_)) => {}
        Err(error) => return Err(error.into()),
    }
    wait_until_ended(&global.bpf_dir)?;
    // No daemon may start while its devices are being removed.
    let _namespace = lock_namespace()?;
    let _state = store.lock().map_err(|error| Failure::Failed(error.to_string()))?;
    let mut errors = Vec::new();
    // Devices before programs: no packet of a container may pass without them.
    // A damaged file is reported once, further down.
    let leases = store.load().ok().flatten().filter(|leases| leases.sysctls_of.as_ref() == Some(&here));
    if let Err(error) = runtime.block_on(remove_devices(leases.as_ref(), &mut errors)) {
        errors.push(error.to_string());
    }
    if let Err(error) = dataplane::teardown(&global.bpf_dir) {
        errors.push(error.to_string());
    }
    match store.load() {
        Ok(Some(leases)) => errors.extend(sysctls::restore(&leases, &here)),
        Ok(None) => {}
        Err(error) => errors.push(error.to_string()),
    }
    // The leases hold what the settings were: they stay until everything else is done, for another try.
    if errors.is_empty() {
        if let Err(error) = store.remove() {
            errors.push(error.to_string());
        }
        remove_directory(&global.state_dir, &mut errors);
    }
    remove_socket(&global.socket, &mut errors);
    if errors.is_empty() {
        match global.output {
            output::Format::Json => output::json(&serde_json::json!({ "removed": true })),
            output::Format::Table => Ok(()),
        }
    } else {
        Err(Failure::Failed(format!("not everything could be removed:\n{}", errors.join("\n"))))
    }
}

async fn own_scope() -> netdev::Result<SysctlScope> {
    Ok(sysctls::scope(Namespace::own()?.cookie().await?))
}

/// Devices and settings can only be put right in the namespace that they are in, and what is known of them is in the
/// files that would be removed here.
fn refuse_elsewhere(store: &Store, here: &SysctlScope) -> Outcome {
    // Damaged leases are named when all else is done: without them there is nothing to compare with.
    let Ok(Some(leases)) = store.load() else { return Ok(()) };
    match leases.sysctls_of {
        Some(there) if there.boot == here.boot && there.namespace_cookie != here.namespace_cookie => {
            Err(Failure::Failed(format!(
                "{} belongs to a weft daemon of another network namespace (cookie {}, this one has {}): nothing was \
                 removed. Run teardown there (`nsenter --net=/run/netns/NAME weft teardown` or `nsenter --net \
                 --target PID weft teardown`), or name this namespace's own --state-dir, --bpf-dir and --socket. \
                 If that namespace is gone, move the file away and try again",
                store.path().display(),
                there.namespace_cookie,
                here.namespace_cookie,
            )))
        }
        _ => Ok(()),
    }
}

fn wait_until_ended(bpf_dir: &Path) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while dataplane::in_use(bpf_dir)? {
        if Instant::now() > deadline {
            return Err(Failure::Failed(format!(
                "a weft daemon that does not listen on the control socket uses {}; stop it, or name its --socket",
                bpf_dir.display()
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn lock_namespace() -> Result<NamespaceLock, Failure> {
    let deadline = Instant::now() + LAST_STEPS;
    loop {
        match NamespaceLock::take() {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                return Err(Failure::Failed(
                    "another weft daemon runs in this network namespace (it holds the abstract socket @weft, see \
                     `ss -xap`); name its --socket, --bpf-dir and --state-dir, or stop it"
                        .to_owned(),
                ));
            }
            Err(error) => return Err(Failure::Failed(error.to_string())),
        }
    }
}

async fn remove_devices(leases: Option<&Leases>, errors: &mut Vec<String>) -> netdev::Result<()> {
    let netlink = Netlink::new()?;
    let all = netlink.links().await?;
    for link in leases.map(|leases| devices::unmarked(&all, leases)).unwrap_or_default() {
        if let Err(error) = netlink.remove_unmarked_link(link).await {
            errors.push(error.to_string());
        }
    }
    let mut links: Vec<(bool, Link)> = all
        .into_iter()
        .filter_map(|link| {
            let owner = names::owner(link.alias.as_deref()?)?;
            Some((matches!(owner, Owner::Network(_)), link))
        })
        .collect();
    // Containers' interfaces, then what they were connected to.
    links.sort_by_key(|(of_network, link)| (*of_network, link.ifindex));
    for (_, link) in links {
        let Some(alias) = &link.alias else { continue };
        if let Err(error) = netlink.remove_link(&link.name, alias).await {
            errors.push(error.to_string());
        }
    }
    Ok(())
}

fn remove_socket(socket: &Path, errors: &mut Vec<String>) {
    match server::is_something_else(socket)
        .and_then(|other| if other { Ok(()) } else { fs::remove_file(socket) })
    {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            errors.push(format!("cannot remove {}: {error}", socket.display()));
        }
        _ => {}
    }
    // Only the directory that weft makes by default; another one may be anybody's.
    if let Some(directory) = socket.parent().filter(|directory| *directory == Path::new("/run/weft")) {
        remove_directory(directory, errors);
    }
}

/// Removes a directory if it is empty; what others put there keeps it.
fn remove_directory(directory: &Path, errors: &mut Vec<String>) {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            errors.push(format!("cannot remove {}: {error}", directory.display()));
        }
        _ => {}
    }
}
