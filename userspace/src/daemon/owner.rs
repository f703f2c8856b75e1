//! The owner of all state: what is desired, and the reconciler that makes it so.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use crate::{
    config::{Known, Loaded},
    dataplane,
    netdev::Change,
    providers::file::{self, FileError, Heard},
    reconcile::{
        self, Applied, Depth, Reconciler, containers::Looked, problem::Problem, resolved::ResolvedState,
    },
};

/// Time that something took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub elapsed: Duration,
    /// Of it on a CPU, in all threads: the daemon does one thing at a time.
    pub cpu: Duration,
}

#[derive(Debug)]
pub(super) struct Stopwatch(Instant, Duration);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now(), cpu_time())
    }

    fn taken(&self) -> Taken {
        Taken { elapsed: self.0.elapsed(), cpu: cpu_time().saturating_sub(self.1) }
    }
}

fn cpu_time() -> Duration {
    // It cannot fail for this process's own clock; without it the figure is zero.
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Everything the daemon knows.
#[derive(Debug)]
pub struct Owner {
    pub(super) reconciler: Reconciler,
    pub(super) files: Vec<PathBuf>,
    /// Whether the files can be read again.
    pub(super) watched: bool,
    /// The files as last read; nothing of those that were not read here.
    known: Known,
    pub(super) desired: Loaded,
    /// What is wrong with the files now; the state is then the last good one.
    pub(super) errors: Vec<FileError>,
    /// Why the last round as a whole, or the expiry of flows, failed.
    pub(super) failure: Option<String>,
    /// What reading and applying the last change of the files took.
    pub(super) last_apply: Option<Taken>,
    expiry_failure: Option<String>,
    /// Flows refused so far for want of room, when expiry last ran.
    refused: Option<u64>,
    /// Rounds in a row that failed or ended with the same problems.
    fruitless: u32,
}

impl Owner {
    /// Takes over what an earlier daemon left.
    pub async fn open(
        state_dir: &Path,
        options: &dataplane::Options,
        files: Vec<PathBuf>,
        known: Known,
        desired: Loaded,
    ) -> Result<Self, reconcile::Error> {
        let reconciler = Reconciler::open(state_dir, options).await?;
        for kept in reconciler.dataplane.kept_sizes() {
            tracing::warn!(
                map = kept.map,
                kept = kept.kept,
                wanted = kept.wanted,
                "the map keeps its size, for its content; teardown makes room for another"
            );
        }
        Ok(Self {
            reconciler,
            files,
            watched: true,
            known,
            desired,
            errors: Vec::new(),
            failure: None,
            last_apply: None,
            expiry_failure: None,
            refused: None,
            fruitless: 0,
        })
    }

    /// The first round, whose failure ends the daemon.
    pub async fn first_round(&mut self) -> Result<(), reconcile::Error> {
        self.reconciler.round(&self.desired.state, None, Depth::Full).await?;
        self.log_problems(&[]);
        Ok(())
    }

    /// A round while the files say what they said before.
    pub async fn round(&mut self, depth: Depth) {
        self.round_of(depth, Some(&BTreeSet::new())).await;
    }

    /// A round, after which the files say something else of these containers; `None`: perhaps of everything. What fails is
    /// kept for `status` and tried again.
    async fn round_of(&mut self, depth: Depth, declared: Option<&BTreeSet<String>>) {
        let before = self.reconciler.applied().problems.clone();
        let start = Instant::now();
        match self.reconciler.round(&self.desired.state, declared, depth).await {
            Ok(()) => self.failure = None,
            Err(error) => {
                let text = error.to_string();
                if self.failure.as_ref() != Some(&text) {
                    tracing::error!(error = text, "the state could not be applied; trying again");
                }
                self.failure = Some(text);
            }
        }
        let now = &self.reconciler.applied().problems;
        // A failed round leaves the host in doubt, which asks for the next one by itself.
        let fruitless = self.failure.is_some() || (!now.is_empty() && *now == before);
        self.fruitless = if fruitless { self.fruitless.saturating_add(1) } else { 0 };
        tracing::debug!(?depth, elapsed = ?start.elapsed(), "round");
        self.log_problems(&before);
    }

    /// How long to wait for a round that events ask for. A round that tries in vain makes events itself: it must not
    /// ask for the next one without end. Never so long that a repair would take a second.
    pub fn patience(&self, events: Duration) -> Duration {
        (events * 2_u32.pow(self.fruitless.min(5))).min(Duration::from_millis(640))
    }

    fn log_problems(&self, before: &[Problem]) {
        let now = &self.reconciler.applied().problems;
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!(object = problem.object, reason = problem.reason, "not as declared");
        }
        for problem in before.iter().filter(|problem| !now.contains(problem)) {
            tracing::info!(object = problem.object, "no longer a problem");
        }
    }

    /// Reads again the files that something was heard of.
    pub async fn reload_some(&mut self, heard: Heard) {
        if !self.watched {
            return;
        }
        let stopwatch = Stopwatch::start();
        let touched = match &heard {
            Heard::Files(files) => file::update(&self.files, files, &mut self.known, &mut self.desired),
            Heard::Anything => None,
        };
        self.take_over(touched, stopwatch).await;
    }

    /// Reads again the files that are others than those last read. Bad ones change nothing. Answers whether that led to a
    /// round.
    pub async fn reload(&mut self) -> bool {
        if !self.watched {
            return false;
        }
        let stopwatch = Stopwatch::start();
        let touched = file::refresh(&self.files, &mut self.known, &mut self.desired);
        self.take_over(touched, stopwatch).await
    }

    /// After the files were read, and these containers found to be others; `None`: all files have to be loaded.
    async fn take_over(&mut self, touched: Option<BTreeSet<String>>, stopwatch: Stopwatch) -> bool {
        if touched.is_none() {
            match file::load(&self.files, &mut self.known) {
                Ok(loaded) => {
                    self.errors.clear();
                    if loaded == self.desired {
                        return false;
                    }
                    self.desired = loaded;
                }
                Err(errors) => {
                    for error in &errors {
                        tracing::error!(%error, "bad file; the last good state stays");
                    }
                    self.errors = errors;
                    return false;
                }
            }
        }
        if touched.as_ref().is_some_and(BTreeSet::is_empty) {
            return false;
        }
        let read = stopwatch.taken().elapsed;
        tracing::info!(?read, everything = touched.is_none(), "the files have changed");
        self.round_of(Depth::Changes, touched.as_ref()).await;
        self.last_apply = Some(stopwatch.taken());
        true
    }

    /// Reads the files again if they are others than those last read: not every change makes an event.
    pub async fn reload_if_changed(&mut self) {
        if self.watched && !file::is_current(&self.files, &self.known) {
            self.reload().await;
        }
    }

    /// Whether these are the files that the daemon watches.
    pub(super) fn watches(&self, files: &[PathBuf]) -> bool {
        self.watched && self.files == files
    }

    /// Takes other files as the state, whose reading began with the stopwatch.
    pub(super) async fn adopt(
        &mut self,
        files: Vec<PathBuf>,
        watched: bool,
        (known, loaded): (Known, Loaded),
        stopwatch: Stopwatch,
    ) {
        self.files = files;
        self.watched = watched;
        self.known = known;
        self.desired = loaded;
        self.errors.clear();
        self.round_of(Depth::Changes, None).await;
        self.last_apply = Some(stopwatch.taken());
    }

    /// The files that declare the state and are to be watched.
    pub fn files(&self) -> &[PathBuf] {
        if self.watched { &self.files } else { &[] }
    }

    /// Removes expired flow records. When flows had to be refused since the last time, ports that are held go as well.
    pub fn expire_flows(&mut self) {
        let dataplane = &self.reconciler.dataplane;
        let result = tokio::task::block_in_place(|| {
            let refused = dataplane.refused_for_room()?;
            let before = self.refused.replace(refused);
            dataplane.expire_flows(before.is_some_and(|before| before != refused))
        });
        self.expiry_failure = result.err().map(|error| {
            let text = error.to_string();
            if self.expiry_failure.as_ref() != Some(&text) {
                tracing::error!(error = text, "expired flows could not be removed");
            }
            text
        });
    }

    /// Looks into some containers.
    pub async fn look_into_some(&mut self) -> Looked {
        let start = Instant::now();
        let looked = self.reconciler.look_into_some().await;
        tracing::trace!(?looked, elapsed = ?start.elapsed(), "look");
        looked
    }

    /// Something changed in the host itself.
    pub fn doubt_host(&mut self, change: Change) {
        self.reconciler.doubt_host(change);
    }

    /// Whether weft keeps the neighbours of this device.
    pub fn keeps_neighbours_of(&self, ifindex: u32) -> bool {
        self.reconciler.keeps_neighbours_of(ifindex)
    }

    /// Whether an interface is not right.
    pub fn waits_for_containers(&self) -> bool {
        self.reconciler.waits_for_containers()
    }

    /// Something changed in a container's namespace.
    pub fn doubt(&mut self, namespace_id: i32) {
        self.reconciler.doubt(namespace_id);
    }

    /// Events were lost.
    pub fn doubt_all(&mut self) {
        self.reconciler.doubt_all();
    }

    pub(super) fn applied(&self) -> &Applied {
        self.reconciler.applied()
    }

    /// What is not as declared, with the places in the files.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let whole = self.failure.iter().map(|reason| Problem::new("the state as a whole", reason));
        let expiry = self.expiry_failure.iter().map(|reason| Problem::new("expiry of flows", reason));
        whole.chain(expiry).chain(self.located(self.applied().problems.clone())).collect()
    }

    fn located(&self, problems: Vec<Problem>) -> Vec<Problem> {
        located(&self.desired, problems)
    }

    /// The state last applied.
    pub(super) fn state(&self) -> &ResolvedState {
        &self.applied().state
    }
}

/// Adds where in the files a container is declared.
pub(super) fn located(loaded: &Loaded, mut problems: Vec<Problem>) -> Vec<Problem> {
    for problem in &mut problems {
        let mut words = problem.object.split_whitespace();
        let container = words.by_ref().find(|word| *word == "container").and_then(|_| words.next());
        problem.at =
            container.and_then(|container| loaded.source_of_service(container)).map(ToOwned::to_owned);
    }
    problems
}
