//! Answers to the command line.

use std::path::PathBuf;

use super::{
    lines,
    owner::{Owner, Stopwatch, located},
};
use crate::{
    config::{Known, Loaded},
    control::protocol::{Reply, Request},
    dataplane,
    model::Family,
    observe,
    observe::{
        ConfigView, ForwardingView, MapView, ProgramView, StatusView, SysctlView, UplinkView, XdpView,
    },
    providers::{
        file::{self, FileError},
        once,
    },
    reconcile::{Depth, changes, sysctls},
};

fn load(files: &[PathBuf], texts: Option<Vec<String>>) -> Result<(Known, Loaded), Vec<FileError>> {
    let mut known = Known::default();
    let loaded = match texts {
        Some(texts) => once::parse_checked(&files.iter().cloned().zip(texts).collect::<Vec<_>>()),
        None => file::load_checked(files, &mut known),
    };
    Ok((known, loaded?))
}

impl Owner {
    /// Answers one request.
    pub async fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Status => match self.status() {
                Ok(status) => Reply::Status(Box::new(status)),
                Err(error) => Reply::Failed(error.to_string()),
            },
            Request::Networks => Reply::Networks(observe::networks(self.applied())),
            Request::Endpoints => Reply::Endpoints(observe::endpoints(self.applied(), &self.desired.state)),
            Request::Ports => Reply::Ports(observe::ports(self.applied())),
            Request::Plan { files, texts } => self.plan(&files, texts).await,
            Request::Apply { files, texts } => self.apply(files, texts).await,
            Request::Reload => {
                let before = self.state().clone();
                self.reload().await;
                if self.errors.is_empty() {
                    self.changes_since(&before)
                } else {
                    Reply::BadInput(self.errors.clone())
                }
            }
            Request::Shutdown => Reply::Ending,
        }
    }

    async fn plan(&mut self, files: &[PathBuf], texts: Option<Vec<String>>) -> Reply {
        let (_, loaded) = match load(files, texts) {
            Ok(loaded) => loaded,
            Err(errors) => return Reply::BadInput(errors),
        };
        match self.reconciler.preview(&loaded.state).await {
            Ok(state) => Reply::Changes {
                changes: changes::between(self.state(), &state),
                problems: located(&loaded, state.problems),
            },
            Err(error) => Reply::Failed(error.to_string()),
        }
    }

    async fn apply(&mut self, files: Vec<PathBuf>, texts: Option<Vec<String>>) -> Reply {
        let watched = texts.is_none();
        if watched && self.watches(&files) {
            return self.apply_watched().await;
        }
        let stopwatch = Stopwatch::start();
        let loaded = match load(&files, texts) {
            Ok(loaded) => loaded,
            Err(errors) => return Reply::BadInput(errors),
        };
        let before = self.state().clone();
        self.adopt(files, watched, loaded, stopwatch).await;
        self.changes_since(&before)
    }

    /// The daemon takes these files over by itself; now instead of in a moment, and only those that are others.
    async fn apply_watched(&mut self) -> Reply {
        let before = self.state().clone();
        let applied = self.reload().await;
        if !self.errors.is_empty() {
            return Reply::BadInput(self.errors.clone());
        }
        if !applied {
            self.round(Depth::Changes).await;
        }
        let missing = file::missing_namespaces(&self.desired);
        if missing.is_empty() || self.failure.is_some() {
            return self.changes_since(&before);
        }
        // The daemon takes over the rest by itself; bad input changes nothing.
        Reply::Failed(format!(
            "the files were applied, but not all of it; what is missing is taken up when it comes:\n{}",
            lines(&missing)
        ))
    }

    fn changes_since(&self, before: &crate::reconcile::resolved::ResolvedState) -> Reply {
        if let Some(reason) = &self.failure {
            return Reply::Failed(format!(
                "the files were read, but not applied: {reason}; the daemon tries again"
            ));
        }
        Reply::Changes { changes: changes::between(before, self.state()), problems: self.problems() }
    }

    fn status(&self) -> dataplane::Result<StatusView> {
        let applied = self.applied();
        let dataplane = &self.reconciler.dataplane;
        let attached = dataplane.attached()?;
        let programs = dataplane.programs()?.into_iter().map(|program| ProgramView {
            attached: attached.iter().filter(|link| link.live && link.program == program.name).count(),
            name: program.name,
            id: program.id,
            verified_instructions: program.verified_instructions,
            jited_bytes: program.jited_bytes,
        });
        let maps = dataplane.memory()?.into_iter().map(|map| MapView {
            name: map.name.to_owned(),
            kind: map.kind,
            max_entries: map.max_entries,
            bytes: map.bytes,
        });
        let uplinks = applied.facts.uplinks.iter().map(|uplink| UplinkView {
            name: uplink.name.clone(),
            ifindex: uplink.ifindex,
            address: uplink.addresses.v4,
            address_v6: uplink.addresses.v6,
            mtu: uplink.mtu,
            xdp: XdpView {
                wanted: uplink.xdp.wanted,
                mode: if uplink.xdp.native { "native" } else { "none" }.to_owned(),
                reason: uplink.xdp.reason.clone(),
            },
        });
        let sysctls = self.reconciler.leases().sysctls.iter().map(|(name, before)| SysctlView {
            name: name.clone(),
            before: before.clone(),
            now: sysctls::current(name).unwrap_or_else(|error| error.to_string()),
        });
        Ok(StatusView {
            running: true,
            pid: Some(std::process::id()),
            config: ConfigView {
                state: if self.errors.is_empty() { "good" } else { "bad" }.to_owned(),
                files: self.files.clone(),
                watched: self.watched,
                errors: self.errors.clone(),
                warnings: self.desired.state.host.timeouts.below_the_rfcs().collect(),
            },
            last_apply_ms: self.last_apply.map(|taken| taken.elapsed.as_secs_f64() * 1e3),
            last_apply_cpu_ms: self.last_apply.map(|taken| taken.cpu.as_secs_f64() * 1e3),
            uplinks: uplinks.collect(),
            forwarding: self.forwarding(),
            masquerade_ports: Some(self.reconciler.masquerade_ports()),
            problems: self.problems(),
            sysctls: sysctls.collect(),
            programs: programs.collect(),
            maps: maps.collect(),
            counters: observe::counters(&dataplane.counters()?),
            drops: observe::drops(&dataplane.drops()?),
        })
    }

    fn forwarding(&self) -> ForwardingView {
        let facts = &self.applied().facts;
        let has_v6 = self.state().has(Family::V6);
        let reason = if !facts.forwarding {
            Some(
                "net.ipv4.ip_forward is 0: containers cannot reach the world, nor the world their published \
                 ports. Switch it on with: sysctl -w net.ipv4.ip_forward=1"
                    .to_owned(),
            )
        } else if has_v6 && !facts.forwarding_v6 {
            Some(
                "net.ipv6.conf.all.forwarding is 0: containers cannot reach the world by IPv6, nor the world their \
                 published ports. Switch it on with: sysctl -w net.ipv6.conf.all.forwarding=1"
                    .to_owned(),
            )
        } else if facts.uplinks.iter().all(|uplink| uplink.addresses.iter().next().is_none()) {
            Some("no uplink has an address; see the problems".to_owned())
        } else {
            None
        };
        let enabled_v6 = has_v6.then_some(facts.forwarding_v6);
        ForwardingView { enabled: facts.forwarding, enabled_v6, reason }
    }
}
