//! One round of reconciliation.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::Read,
    path::Path,
    time::SystemTime,
};

use super::{
    containers::{Containers, Host, Looked},
    devices,
    facts::KernelFacts,
    kernel::{Changed, Kernel, READ_SINGLY},
    leases::{Leases, StateLock, Store, StoreError, journal::Journal, prune, resolve, withhold},
    maps::Maps,
    namespaces::Cookies,
    overlay,
    ports::{self, Ports, Refused, key},
    problem::Problem,
    programs,
    resolved::{EndpointId, ResolvedPublication, ResolvedState},
    sysctls, tables, uplinks,
    waiting_room::{self, WaitingRoom},
    xdp,
};
use crate::{
    dataplane::{self, Dataplane},
    model::{DesiredState, Family, PerProtocol, PortRange},
    netdev::{self, Change, Namespace, NamespaceIdentity, NamespaceLock, Netlink, PortRanges, bound_ports},
};

mod difference;
mod keeping;
mod reading;

use difference::{Memory, troubled};
use keeping::Keeping;

/// How much a round looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What is known to have changed.
    Changes,
    /// The whole host, every map and every program.
    Full,
}

/// Why a round could not be done at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host cannot be read or entered.
    #[error(transparent)]
    Kernel(#[from] netdev::Error),
    /// The programs or maps are not usable.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// The leases cannot be read or kept. Nothing is changed then: what is not kept would be chosen anew next time.
    #[error(transparent)]
    Leases(#[from] StoreError),
    /// Another daemon has this network namespace.
    #[error(
        "another weft daemon runs in this network namespace (it holds the abstract socket @weft, see `ss -xap`): have \
         that one serve these files with `weft --socket ITS_SOCKET apply`, or stop it first"
    )]
    NamespaceInUse,
}

/// The outcome of a round, for `status` and the lists.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The state.
    pub state: ResolvedState,
    /// What the host has.
    pub facts: KernelFacts,
    /// Publications that are not served, by [`key`].
    pub refused: Refused,
    /// Interfaces that are not right.
    pub failed: HashSet<EndpointId>,
    /// Everything that is not as declared.
    pub problems: Vec<Problem>,
}

/// Owner of everything weft has in the kernel.
#[derive(Debug)]
pub struct Reconciler {
    netlink: Netlink,
    /// Programs and maps.
    pub dataplane: Dataplane,
    own: NamespaceIdentity,
    own_cookie: u64,
    store: Store,
    journal: Journal,
    leases: Leases,
    kept: Option<Leases>,
    cookies: Cookies,
    containers: Containers,
    ports: Ports,
    maps: Maps,
    bound: PerProtocol<PortRanges>,
    applied: Applied,
    /// The host as last read, until it is heard that anything may have changed there.
    kernel: Option<Kernel>,
    /// What the next round needs to work on a difference only. None after a round that left something to be done.
    memory: Option<Memory>,
    /// Index of the device that fragments wait in.
    waiting_room: WaitingRoom,
    _state: StateLock,
    _namespace: NamespaceLock,
}

impl Reconciler {
    /// Takes over what an earlier daemon left: leases and the pinned dataplane.
    pub async fn open(state_dir: &Path, options: &dataplane::Options) -> Result<Self, Error> {
        let namespace = NamespaceLock::take()?.ok_or(Error::NamespaceInUse)?;
        let store = Store::new(state_dir);
        let state = store.create_and_lock()?;
        let kept = store.load()?;
        let leases = kept.clone().unwrap_or_else(|| Leases::new(random_seed()));
        let own = Namespace::own()?;
        let own_cookie = own.cookie().await?;
        let dataplane = tokio::task::block_in_place(|| Dataplane::open(options))?;
        Ok(Self {
            netlink: Netlink::new()?,
            dataplane,
            own: own.identity(),
            own_cookie,
            journal: Journal::new(store.directory()),
            store,
            leases,
            kept,
            cookies: Cookies::default(),
            containers: Containers::default(),
            ports: Ports::default(),
            maps: Maps::default(),
            bound: PerProtocol::default(),
            applied: Applied::default(),
            kernel: None,
            memory: None,
            waiting_room: WaitingRoom::default(),
            _state: state,
            _namespace: namespace,
        })
    }

    /// The outcome of the last round.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The choices made so far.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Whether an interface is not right, so that what is heard of any container may be what it waits for.
    pub fn waits_for_containers(&self) -> bool {
        !self.containers.failed().is_empty()
    }

    /// Something changed in a container's namespace.
    pub fn doubt(&mut self, namespace_id: i32) {
        self.containers.doubt(namespace_id);
    }

    /// Something changed in the host itself.
    pub fn doubt_host(&mut self, change: Change) {
        let Some(kernel) = &mut self.kernel else { return };
        match change {
            Change::Resync => self.kernel = None,
            // What the slow path of an overlay needs is read in whole rounds only.
            Change::Neighbour { .. } | Change::Forwarding { .. } => self.memory = None,
            change => kernel.doubt(change),
        }
    }

    /// Whether entries of this device's neighbours and forwarding database are weft's: the bridges and vxlan devices of
    /// overlay networks.
    pub fn keeps_neighbours_of(&self, ifindex: u32) -> bool {
        let facts = &self.applied.facts;
        let of_overlay = |name: &String| facts.vxlans.contains_key(name);
        facts.vxlans.values().any(|vxlan| vxlan.ifindex == ifindex)
            || facts.bridges.iter().any(|(name, bridge)| of_overlay(name) && bridge.ifindex == ifindex)
    }

    /// Events were lost.
    pub fn doubt_all(&mut self) {
        self.containers.doubt_all();
        self.doubt_host(Change::Resync);
    }

    /// Looks into some containers: something was heard of them, or it is their turn.
    pub async fn look_into_some(&mut self) -> Looked {
        // While the host is in doubt a round is due anyway.
        let Some(kernel) = &self.kernel else { return Looked { wrong: true, more: true } };
        let host = Host { netlink: &self.netlink, kernel, dataplane: &self.dataplane };
        let looked = self.containers.look_into_some(host).await;
        if looked.wrong {
            // What is wrong inside a namespace shows neither in the files nor in the host's devices.
            self.memory = None;
        }
        looked
    }

    /// What `desired` would be with every choice made; nothing is kept or changed.
    pub async fn preview(&mut self, desired: &DesiredState) -> Result<ResolvedState, Error> {
        let kernel = Kernel::read(&self.netlink).await?;
        let mut problems = Vec::new();
        let facts = self.lease_facts(desired, &kernel, &mut problems).await?;
        let mut state = resolve(desired, &mut self.leases.clone(), &facts);
        problems.append(&mut state.problems);
        let uplinks = uplinks::find(&state, &kernel, &self.applied.facts.uplinks, &mut problems);
        let vtep = uplinks::tunnel_address(&state, &uplinks);
        overlay::leave_out_own(&mut state, vtep, &kernel, &mut problems);
        let refused = self.ports.clone().check(&state).await?;
        problems.extend(ports::problems(&state.publications, &refused));
        state.problems = problems;
        Ok(state)
    }

    /// Makes the kernel what `desired` asks, as far as it can; what it cannot is in [`Self::applied`]. `declared` are
    /// the containers that it may declare otherwise than in the round before, where nothing else is different.
    pub async fn round(
        &mut self,
        desired: &DesiredState,
        declared: Option<&BTreeSet<String>>,
        depth: Depth,
    ) -> Result<(), Error> {
        // Taken, so that a round that fails leaves nothing to be believed by the next.
        let (memory, kernel) = (self.memory.take(), self.kernel.take());
        let (kernel, changed) = match kernel {
            Some(mut kernel) if depth == Depth::Changes => {
                let changed = kernel.refresh(&self.netlink).await?;
                (kernel, changed)
            }
            _ => (Kernel::read(&self.netlink).await?, Changed::Everything),
        };
        match (memory, changed) {
            (Some(memory), Changed::Containers(veths)) => match memory.touched(desired, declared) {
                Some(touched) => {
                    let touched = &(&touched | &veths) | &memory.troubled;
                    self.difference_round(desired, memory, touched, kernel).await
                }
                None => self.whole_round(desired, depth, Some(memory), kernel).await,
            },
            (memory, _) => self.whole_round(desired, depth, memory, kernel).await,
        }
    }

    async fn whole_round(
        &mut self,
        desired: &DesiredState,
        depth: Depth,
        memory: Option<Memory>,
        mut kernel: Kernel,
    ) -> Result<(), Error> {
        let full = depth == Depth::Full;
        let mut problems = Vec::new();
        if sysctls::first_start(&mut self.leases, self.own_cookie)?
            && self.try_to_keep(&mut problems)?.is_kept()
        {
            sysctls::switch_forwarding_on(&mut self.leases)?;
        }
        if full {
            self.bound = bound_ports().await?;
            match self.dataplane.ensure_pins() {
                // With the pins of maps those of links may have gone.
                Ok(true) => self.containers.doubt_all(),
                Ok(false) => {}
                Err(error) => problems.push(Problem::new("pins of maps", error)),
            }
        }
        let lease_facts = self.lease_facts(desired, &kernel, &mut problems).await?;
        let mut state = resolve(desired, &mut self.leases, &lease_facts);
        let is_resolved = state.problems.is_empty();
        problems.append(&mut state.problems);
        if full {
            let exists = |name: &str| kernel.link(name).is_some();
            prune(&mut self.leases, desired, SystemTime::now(), exists);
        }
        // Before anything is made: a name or address that is in use but was not kept would be given away twice.
        let keeping = self.try_to_keep(&mut problems)?;
        if !keeping.is_kept()
            && let Some(kept) = &self.kept
        {
            withhold(&mut state, &self.leases, kept, &self.applied.state, &mut problems);
        }

        let mut uplinks = uplinks::find(&state, &kernel, &self.applied.facts.uplinks, &mut problems);
        xdp::ensure(&mut uplinks, &state.host.xdp, &self.dataplane, &mut problems);
        let vtep = uplinks::tunnel_address(&state, &uplinks);
        overlay::leave_out_own(&mut state, vtep, &kernel, &mut problems);
        let refused = self.ports.check(&state).await?;
        let publications: Vec<&ResolvedPublication> = state
            .publications
            .iter()
            .filter(|publication| !refused.contains_key(&key(publication)))
            .collect();
        problems.extend(ports::problems(&state.publications, &refused));

        if state.has(Family::V6) {
            self.forward_ipv6(&mut kernel, &mut problems)?;
        }

        // Removal: what leads to a container first, then the container's device.
        let superfluous = devices::superfluous(&state, &kernel);
        if !superfluous.is_empty() {
            let facts = self.facts(&state, &uplinks, vtep, &kernel, BTreeMap::new());
            self.maps.withdraw(
                &tables::build(&state, &publications, &facts),
                &mut self.dataplane,
                &mut problems,
            );
            devices::remove(&superfluous, &self.netlink, &mut problems).await;
            kernel.read_devices(&self.netlink).await?;
        }

        if devices::ensure(&state, &uplinks, vtep, &self.netlink, &kernel, &mut problems).await {
            kernel.read_devices(&self.netlink).await?;
        }
        let room = &self.waiting_room;
        self.waiting_room =
            waiting_room::ensure(room, &self.netlink, &mut kernel, &self.dataplane, full, &mut problems)
                .await;
        programs::ensure_bridges(&state, &kernel, &self.dataplane, &mut problems);
        if full {
            programs::ensure_uplinks(&uplinks, &self.dataplane, &mut problems);
            programs::ensure_host_sockets(&self.dataplane, &mut problems);
        }
        let host = Host { netlink: &self.netlink, kernel: &kernel, dataplane: &self.dataplane };
        let pending = self.containers.ensure(&state, &uplinks, vtep, host, &mut problems).await;
        tracing::debug!(interfaces = pending.len(), "made or put right");
        if pending.len() > READ_SINGLY {
            kernel.read_devices(&self.netlink).await?;
        } else {
            for made in &pending {
                kernel.read_device(&self.netlink, &made.device).await?;
            }
        }
        overlay::ensure(&state, &self.netlink, &kernel, &mut problems).await;

        let peer_uplinks = self.peer_uplinks(&state, &uplinks, &mut problems).await?;
        let facts = self.facts(&state, &uplinks, vtep, &kernel, peer_uplinks);
        let wanted = tables::build(&state, &publications, &facts);
        let published = wanted.port_sets.published.union();
        self.maps.write(wanted, &mut self.dataplane, full, &mut problems);
        if !full && self.applied.facts.uplinks != uplinks {
            programs::ensure_uplinks(&uplinks, &self.dataplane, &mut problems);
        }
        self.containers.bring_up(&pending, &self.netlink, &mut problems).await;
        self.reserve(&published, &mut kernel, &mut problems)?;
        self.kernel = Some(kernel);
        if full || !superfluous.is_empty() {
            // Every device of weft that is there, right or not: one that could not be put right needs its guard most.
            let owned = self.kernel.iter().flat_map(Kernel::owned).map(|(link, _)| link.ifindex);
            let wanted = owned.chain(uplinks.iter().map(|uplink| uplink.ifindex)).collect();
            programs::detach_superfluous(&wanted, &self.dataplane, &mut problems);
        }
        let failed: HashSet<EndpointId> = self.containers.failed().iter().cloned().collect();
        self.memory = troubled(&problems, &failed).filter(|_| is_resolved).map(|troubled| {
            let same = keeping == Keeping::Known && self.applied.state == state;
            match memory.filter(|memory| same && memory.is_of(desired)) {
                Some(memory) => memory.with(troubled),
                None => Memory::new(desired, &self.leases, &state, &lease_facts.namespaces, troubled),
            }
        });
        self.applied = Applied { state, facts, refused, failed, problems };
        Ok(())
    }

    /// The external ports that masquerade uses now, for `status`.
    pub fn masquerade_ports(&self) -> PortRange {
        let host = &self.applied.state.host;
        host.masquerade_ports.unwrap_or_else(|| super::pool::default_pool(self.applied.facts.ephemeral))
    }
}

/// Only makes MAC addresses of different hosts differ; where even this cannot be read the time will do.
fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => {
            SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
        }
    }
}
