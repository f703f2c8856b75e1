//! A pair of labs that are one topology after another: what a case is played on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::{
    runtime::{Builder, Runtime},
    task::LocalSet,
};

use super::{
    actions::Doer,
    comparison::{Difference, compare},
    description::{Action, Address, Case, HOSTS, Place, Topology},
    kernel::KernelSide,
    observation::Facts,
    site::{Actors, Site},
    weft::WeftSide,
};
use crate::Lab;

/// What may be blocked is waited for so long at first,
const PATIENCE: Duration = Duration::from_millis(150);
/// and so long when the sides differ: a lost SYN is sent again after a second (RFC 6298 section 2.1).
pub const SURE: Duration = Duration::from_millis(1300);
/// Instead of it where a mistake does no harm.
pub const QUICK: Duration = Duration::from_millis(300);
/// Longest wait for new containers.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// Two labs and everybody in them.
#[derive(Debug)]
pub struct Stage {
    kernel: KernelSide,
    weft: WeftSide,
    sites: [Site; 2],
    /// What weft is told: the topology, or something wrong on purpose.
    told: fn(&Topology) -> Topology,
    topology: Topology,
    // Tasks and sockets go before the namespaces do.
    actors: [Actors; 2],
    tasks: LocalSet,
    runtime: Runtime,
    labs: [Lab; 2],
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Actions that were compared.
    pub actions: usize,
    /// Those whose sides differed at first, but not at the second try, with what differed.
    pub unsteady: Vec<Finding>,
    /// Those that differ.
    pub findings: Vec<Finding>,
}

/// An action whose two sides differ.
#[derive(Debug)]
pub struct Finding {
    /// The step, from 0.
    pub step: usize,
    /// What was done.
    pub action: Action,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Everything that the kernel's side saw.
    pub kernel: Facts,
    /// Everything that weft's side saw.
    pub weft: Facts,
}

impl Stage {
    /// Builds both labs.
    pub fn build(told: fn(&Topology) -> Topology) -> Result<Self> {
        let labs = [Lab::new("oracle, kernel")?, Lab::new("oracle, weft")?];
        let sites = [Site::build(&labs[0])?, Site::build(&labs[1])?];
        let kernel = KernelSide::start(&sites[0])?;
        let weft = WeftSide::start(&sites[1])?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        let [kernel_site, weft_site] = &sites;
        let actors = tasks.block_on(&runtime, async {
            Ok::<_, anyhow::Error>([kernel_site.start()?, weft_site.start()?])
        })?;
        Ok(Self { kernel, weft, sites, told, topology: Topology::default(), actors, tasks, runtime, labs })
    }

    /// Plays a case. What differs is done a second time, with this patience.
    pub fn play(&mut self, case: &Case, second: Duration) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        // From nothing, so that it plays the same way again.
        self.configure(&Topology::default())?;
        let mut topology = case.topology.clone();
        for (number, step) in case.steps.iter().enumerate() {
            for change in &step.changes {
                topology.apply(change);
            }
            self.configure(&topology)?;
            // A minimal description may have lost the container that acts.
            let is_there = |action: &Action| match action.from() {
                Place::Container(slot) => topology.container(slot).is_some(),
                _ => true,
            };
            let actions: Vec<Action> =
                step.actions.iter().filter(|action| is_there(action)).cloned().collect();
            outcome.actions += actions.len();
            for action in self.differing(actions, PATIENCE)? {
                let again = self.differing(vec![action.action.clone()], second)?;
                let is_steady = !again.is_empty();
                let finding = again.into_iter().next().unwrap_or(action);
                let list = if is_steady { &mut outcome.findings } else { &mut outcome.unsteady };
                list.push(Finding { step: number, ..finding });
            }
            if !outcome.findings.is_empty() {
                break;
            }
            self.actors.iter().for_each(|actors| actors.registry.clear());
        }
        Ok(outcome)
    }

    fn configure(&mut self, topology: &Topology) -> Result<()> {
        if *topology == self.topology {
            return Ok(());
        }
        let pending = self.weft.begin(&self.sites[1], &(self.told)(topology))?;
        self.kernel.configure(&self.sites[0], topology).context("the kernel's side")?;
        WeftSide::finish(pending).context("weft's side")?;
        self.topology = topology.clone();
        self.settle()
    }

    /// Waits until hosts and containers reach their gateways: a bridge forwards for a new port when the kernel's link watch has
    /// seen its carrier, and an ARP request before that is lost; an IPv6 address is listed before packets for it are taken,
    /// and leave by the default route until then. What never settles differs then.
    fn settle(&self) -> Result<()> {
        let networks = &self.topology.networks;
        let members = self.topology.present().flat_map(|(slot, container)| {
            container.networks.iter().map(move |network| (Place::Container(slot), *network))
        });
        let hosts = (0..HOSTS).flat_map(|host| {
            let of_host = networks.iter().enumerate().filter(move |(_, network)| network.is_on(host));
            of_host.map(move |(network, _)| (Place::Host(host), network))
        });
        let gateways: Vec<Action> = members
            .chain(hosts)
            .flat_map(|(from, network)| {
                networks[network].families.iter().map(move |family| Action::Ping {
                    from,
                    family,
                    to: Address::Gateway(network),
                    size: 32,
                })
            })
            .collect();
        let pings = gateways.iter().flat_map(|ping| self.actors.iter().map(move |actors| (actors, ping)));
        let futures = pings.map(|(actors, ping)| async move {
            let start = Instant::now();
            let doer = Doer { actors, topology: &self.topology, patience: Duration::from_millis(50) };
            while start.elapsed() < SETTLE_LIMIT {
                if doer.perform(ping).await?.get("result").is_some_and(|result| result == "answered") {
                    break;
                }
            }
            Ok::<_, anyhow::Error>(())
        });
        let joined = futures_util::future::join_all(futures);
        self.tasks.block_on(&self.runtime, joined).into_iter().collect()
    }

    /// Does these actions on both sides at once, and gives those that differ.
    fn differing(&self, actions: Vec<Action>, patience: Duration) -> Result<Vec<Finding>> {
        // Those that need the same port take turns.
        let mut turns: Vec<Vec<Action>> = Vec::new();
        for action in actions {
            let shares = |turn: &&mut Vec<Action>| {
                action.exclusive().is_some() && turn.iter().any(|it| it.exclusive() == action.exclusive())
            };
            match turns.iter_mut().find(shares) {
                Some(turn) => turn.push(action),
                None => turns.push(vec![action]),
            }
        }
        let doers = self.actors.each_ref().map(|actors| Doer { actors, topology: &self.topology, patience });
        let all = turns.iter().flat_map(|turn| doers.iter().map(move |doer| (doer, turn)));
        let futures = all.map(|(doer, turn)| async move {
            let mut facts = Vec::new();
            for action in turn {
                let side =
                    if std::ptr::eq(doer.actors, &raw const self.actors[0]) { "kernel" } else { "weft" };
                facts.push(doer.perform(action).await.with_context(|| format!("{side}: {action:?}"))?);
            }
            Ok::<_, anyhow::Error>(facts)
        });
        let joined = futures_util::future::join_all(futures);
        let results = self.tasks.block_on(&self.runtime, joined);
        let mut results = results.into_iter().collect::<Result<Vec<_>>>()?.into_iter();
        let mut findings = Vec::new();
        for turn in turns {
            let (Some(kernel), Some(weft)) = (results.next(), results.next()) else { break };
            for ((action, kernel), weft) in turn.into_iter().zip(kernel).zip(weft) {
                let differences = compare(&self.topology, &action, &kernel, &weft);
                if !differences.is_empty() {
                    findings.push(Finding { step: 0, action, differences, kernel, weft });
                }
            }
        }
        Ok(findings)
    }

    /// Removes both labs and fails if something is left.
    pub fn finish(self) -> Result<()> {
        let Self { labs, actors, tasks, runtime, weft, .. } = self;
        drop((actors, tasks, runtime, weft));
        let [kernel, weft] = labs;
        kernel.finish()?;
        weft.finish()
    }
}
