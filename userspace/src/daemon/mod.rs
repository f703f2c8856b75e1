//! `weft daemon`: one task owns all state and does one thing at a time; everything else only tells it something.

mod answer;
mod owner;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{
    config::Known,
    control::{protocol::Reply, server::Server},
    dataplane,
    netdev::{self, Change, Event, Monitor, Scope},
    providers::file::{self, FileError, Watch},
    reconcile::{self, Depth},
};

use owner::Owner;

/// Everything is compared with the kernel at least this often: what makes no event is put right within 10 s, the round
/// itself included.
const FULL: Duration = Duration::from_secs(8);
/// Some containers are looked into this often,
const LOOK: Duration = Duration::from_millis(100);
/// and this often while something was heard of them.
const NEXT_LOOK: Duration = Duration::from_millis(5);
/// Expired flows are removed this often.
const EXPIRE: Duration = Duration::from_secs(1);
/// Kernel events come in bursts: this long after the first one the state is read.
const EVENTS: Duration = Duration::from_millis(20);
/// The same for files: an editor writes, renames and sets the mode.
const FILES: Duration = Duration::from_millis(50);

/// What the daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The files that declare the state, and directories of such files.
    pub files: Vec<PathBuf>,
    /// Where choices are kept.
    pub state_dir: PathBuf,
    /// Where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

/// Why the daemon could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files are wrong.
    #[error("{}", lines(.0))]
    BadInput(Vec<FileError>),
    /// The control socket cannot be served.
    #[error("cannot serve {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files cannot be watched.
    #[error("cannot watch the files: {0}")]
    Watch(#[from] notify::Error),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The kernel cannot be listened to.
    #[error(transparent)]
    Netlink(#[from] netdev::Error),
    /// The first state could not be applied.
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
}

fn lines(errors: &[FileError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs until it is told to end. The dataplane goes on without it.
pub async fn run(options: Options) -> Result<(), Error> {
    // From here on a signal ends the daemon in order, also while it starts.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut known = Known::default();
    let loaded = file::load(&options.files, &mut known).map_err(Error::BadInput)?;
    let mut server = Server::listen(&options.socket)
        .map_err(|source| Error::Socket { path: options.socket.clone(), source })?;
    // Both before anything is read: what changes from now on is heard of.
    let mut monitor = Monitor::new(Scope::OwnAndNumbered)?;
    let mut watch = Watch::new(&options.files)?;
    let mut sizes = dataplane::Sizes::default();
    if let Some(max_flows) = loaded.state.host.max_flows {
        sizes.max_flows = max_flows;
    }
    let dataplane = dataplane::Options { bpf_dir: options.bpf_dir.clone(), cgroup: None, sizes };
    let mut owner = Owner::open(&options.state_dir, &dataplane, options.files.clone(), known, loaded).await?;
    owner.first_round().await?;
    announce()?;

    let start = Instant::now();
    let mut full = ticks(start, FULL);
    let mut look_at = Some(start + LOOK);
    let mut expire = ticks(start, EXPIRE);
    let mut round_at: Option<Instant> = None;
    let mut reload_at: Option<Instant> = None;
    let mut watch_failure = None;
    loop {
        tokio::select! {
            // Ending comes first, then the question; work that is due anyway can wait for both.
            biased;
            () = ended(&mut terminate, &mut interrupt) => return Ok(()),
            Some((request, reply)) = server.next() => {
                let answer = owner.answer(request).await;
                let ending = matches!(answer, Reply::Ending);
                // A client that has gone away needs no answer.
                let _ = reply.send(answer);
                if ending {
                    // The answer has to leave before the runtime does.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    return Ok(());
                }
                renew(&mut watch, owner.files(), &mut watch_failure);
            }
            event = monitor.next() => match concerns(&mut owner, event?) {
                Concern::Nothing => {}
                Concern::Container => {
                    let soon = Instant::now() + EVENTS;
                    look_at = Some(look_at.map_or(soon, |at| at.min(soon)));
                }
                Concern::Host => {
                    round_at.get_or_insert_with(|| Instant::now() + owner.patience(EVENTS));
                }
            },
            () = watch.changed() => {
                reload_at.get_or_insert_with(|| Instant::now() + FILES);
            }
            () = at(reload_at) => {
                reload_at = None;
                owner.reload_some(watch.heard()).await;
            }
            () = at(round_at) => {
                round_at = None;
                owner.round(Depth::Changes).await;
            }
            _ = full.tick() => {
                // In this order: what changes after the reading is heard of.
                renew(&mut watch, owner.files(), &mut watch_failure);
                // All files are looked at now.
                let _ = watch.heard();
                owner.reload_if_changed().await;
                owner.round(Depth::Full).await;
            }
            _ = expire.tick() => owner.expire_flows(),
            () = at(look_at) => {
                let looked = owner.look_into_some().await;
                if looked.wrong {
                    round_at.get_or_insert_with(|| Instant::now() + owner.patience(EVENTS));
                }
                look_at = Some(Instant::now() + if looked.more { NEXT_LOOK } else { LOOK });
            }
        }
    }
}

/// Watches where the files are now. Where that cannot be done, the old watch stays and the full tick looks at them.
fn renew(watch: &mut Watch, files: &[PathBuf], failure: &mut Option<String>) {
    if !watch.is_stale(files) {
        *failure = None;
        return;
    }
    match Watch::renewed(files) {
        Ok(renewed) => {
            *watch = renewed;
            *failure = None;
        }
        Err(error) => {
            let text = error.to_string();
            // Once, not at every tick.
            if failure.as_ref() != Some(&text) {
                tracing::warn!(
                    error = text,
                    "the files cannot be watched; they are looked at every few seconds"
                );
            }
            *failure = Some(text);
        }
    }
}

fn ticks(start: Instant, period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(start + period, period);
    // After a long round one tick is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Scripts wait for this line.
fn announce() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "ready")?;
    stdout.flush()
}

/// What an event may mean work for.
enum Concern {
    Nothing,
    Container,
    Host,
}

fn concerns(owner: &mut Owner, event: Event) -> Concern {
    match (event.change, event.namespace_id) {
        // Learned and resolved entries come and go by themselves.
        (Change::Neighbour { notable: false, .. } | Change::Forwarding { notable: false, .. }, _) => {
            return Concern::Nothing;
        }
        // A container's own neighbour cache is its own business.
        (Change::Neighbour { .. } | Change::Forwarding { .. }, Some(_)) => return Concern::Nothing,
        (Change::Resync, _) => owner.doubt_all(),
        (_, Some(namespace_id)) => {
            owner.doubt(namespace_id);
            if !owner.waits_for_containers() {
                return Concern::Container;
            }
        }
        // The bridge enters each of its ports' own addresses.
        (Change::Neighbour { ifindex, .. } | Change::Forwarding { ifindex, .. }, None)
            if !owner.keeps_neighbours_of(ifindex) =>
        {
            return Concern::Nothing;
        }
        (change, None) => owner.doubt_host(change),
    }
    Concern::Host
}
