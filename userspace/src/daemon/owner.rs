//! The owner of all state: what is desired, and the reconciler that makes it so.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    config::{Known, Loaded},
    dataplane,
    netdev::Change,
    providers::file::{self, FileError, Stamp},
    reconcile::{
        self, Applied, Depth, Reconciler, containers::Looked, problem::Problem, resolved::ResolvedState,
    },
};

/// Everything the daemon knows.
#[derive(Debug)]
pub struct Owner {
    pub(super) reconciler: Reconciler,
    pub(super) files: Vec<PathBuf>,
    /// Whether the files can be read again.
    pub(super) watched: bool,
    /// Of the files as last read; unknown until they are read here.
    stamp: Option<Stamp>,
    known: Known,
    pub(super) desired: Loaded,
    /// What is wrong with the files now; the state is then the last good one.
    pub(super) errors: Vec<FileError>,
    /// Why the last round as a whole, or the expiry of flows, failed.
    pub(super) failure: Option<String>,
    /// How long reading and applying the last change of the files took.
    pub(super) last_apply: Option<Duration>,
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
            stamp: None,
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
        self.reconciler.round(&self.desired.state, Depth::Full).await?;
        self.log_problems(&[]);
        Ok(())
    }

    /// A round; what fails is kept for `status` and tried again.
    pub async fn round(&mut self, depth: Depth) {
        let before = self.reconciler.applied().problems.clone();
        let start = Instant::now();
        match self.reconciler.round(&self.desired.state, depth).await {
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

    /// Reads the files again. Bad ones change nothing.
    pub async fn reload(&mut self) {
        if !self.watched {
            return;
        }
        let start = Instant::now();
        let (stamp, loaded) = file::load_stamped(&self.files, &mut self.known);
        self.stamp = Some(stamp);
        tracing::debug!(elapsed = ?start.elapsed(), "files read");
        match loaded {
            Ok(loaded) => {
                self.errors.clear();
                if loaded != self.desired {
                    tracing::info!("the files have changed");
                    self.desired = loaded;
                    self.round(Depth::Changes).await;
                    self.last_apply = Some(start.elapsed());
                }
            }
            Err(errors) => {
                for error in &errors {
                    tracing::error!(%error, "bad file; the last good state stays");
                }
                self.errors = errors;
            }
        }
    }

    /// Reads the files again if they are others than those last read: not every change makes an event.
    pub async fn reload_if_changed(&mut self) {
        if self.watched && self.stamp.as_ref() != Some(&Stamp::of(&self.files)) {
            self.reload().await;
        }
    }

    /// Takes other files as the state.
    pub(super) async fn adopt(&mut self, files: Vec<PathBuf>, watched: bool, loaded: Loaded) {
        self.files = files;
        self.watched = watched;
        // They were read before, it is not known when.
        self.stamp = None;
        self.known = Known::default();
        self.desired = loaded;
        self.errors.clear();
        self.round(Depth::Changes).await;
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
