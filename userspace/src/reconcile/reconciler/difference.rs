//! A round that works only on what is different: a few containers declared, changed or removed, or their veths changed
//! behind weft's back, and nothing else. It costs the same however many containers there are.
//!
//! Whatever is not as simple as that is left to a whole round, and so is what a difference leaves undone.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Applied, Error, Reconciler, reading::device_fact};
use crate::{
    model::{ContainerNamespace, DesiredState},
    reconcile::{
        containers::Host,
        facts::DeviceFact,
        kernel::{Kernel, READ_SINGLY},
        leases::{
            Leases,
            difference::{self, Index, Patched},
        },
        namespaces::{self, Holders},
        ports::{self, key},
        problem::{self, Problem, Scope},
        resolved::{EndpointId, FoundNamespace, ResolvedState},
        tables::difference::Difference,
    },
};

/// More touched containers than these are the work of a whole round, which reads much at once.
const MOST: usize = READ_SINGLY;

/// The state that the last round left, with nothing undone but what some containers wait for.
#[derive(Debug)]
pub(super) struct Memory {
    desired: DesiredState,
    index: Index,
    namespaces: Holders,
    /// Containers with problems of their own. Each round tries them again.
    pub(super) troubled: BTreeSet<String>,
}

/// The containers with problems of their own, if there are no other problems.
pub(super) fn troubled(problems: &[Problem], failed: &HashSet<EndpointId>) -> Option<BTreeSet<String>> {
    let mut troubled = problem::containers(problems)?;
    troubled.extend(failed.iter().map(|id| id.container.clone()));
    Some(troubled)
}

impl Memory {
    pub(super) fn new(
        desired: &DesiredState,
        leases: &Leases,
        state: &ResolvedState,
        namespaces: &BTreeMap<String, FoundNamespace>,
        troubled: BTreeSet<String>,
    ) -> Self {
        Self {
            desired: desired.clone(),
            index: Index::new(desired, leases, state),
            namespaces: Holders::new(namespaces),
            troubled,
        }
    }

    /// The same with other containers that have problems of their own.
    pub(super) fn with(self, troubled: BTreeSet<String>) -> Self {
        Self { troubled, ..self }
    }

    pub(super) fn is_of(&self, desired: &DesiredState) -> bool {
        self.desired == *desired
    }

    /// The containers that `desired` declares otherwise; `None` if anything else is different. `declared` are those that
    /// it may, if that is known.
    pub(super) fn touched(
        &self,
        desired: &DesiredState,
        declared: Option<&BTreeSet<String>>,
    ) -> Option<BTreeSet<String>> {
        let (before, after) = (&self.desired, desired);
        let differs = |name: &&String| before.containers.get(*name) != after.containers.get(*name);
        if let Some(declared) = declared {
            return Some(declared.iter().filter(differs).cloned().collect());
        }
        if (&before.networks, &before.peers, &before.host) != (&after.networks, &after.peers, &after.host) {
            return None;
        }
        let all = before.containers.keys().chain(after.containers.keys());
        Some(all.filter(differs).cloned().collect())
    }

    /// Takes over what `desired` says of the touched containers.
    fn adopt(&mut self, desired: &DesiredState, touched: &BTreeSet<String>) {
        for name in touched {
            match desired.containers.get(name) {
                Some(container) => drop(self.desired.containers.insert(name.clone(), container.clone())),
                None => drop(self.desired.containers.remove(name)),
            }
        }
    }
}

impl Reconciler {
    /// A round where nothing is known to have changed but the declarations or the veths of the touched containers.
    pub(super) async fn difference_round(
        &mut self,
        desired: &DesiredState,
        mut memory: Memory,
        touched: BTreeSet<String>,
        mut kernel: Kernel,
    ) -> Result<(), Error> {
        if touched.len() > MOST {
            return self.whole_round(desired, super::Depth::Changes, Some(memory), kernel).await;
        }
        if touched.is_empty() {
            (self.memory, self.kernel) = (Some(memory), Some(kernel));
            return Ok(());
        }
        tracing::debug!(containers = touched.len(), "difference");
        // What only a whole round tries again.
        let before = self.applied.problems.iter();
        let mut problems: Vec<_> =
            before.filter(|problem| problem.scope == Scope::Nothing).cloned().collect();
        let patched = self.patch(desired, &mut memory, &touched, &kernel, &mut problems).await;
        let Some(patched) = patched else {
            return self.whole_round(desired, super::Depth::Changes, None, kernel).await;
        };
        // Before anything is made, as in a whole round, which serves what does not rest on these choices.
        if self.keep_leases_of(&touched).is_err() {
            patched.undo(&touched, &mut self.applied.state);
            return self.whole_round(desired, super::Depth::Changes, None, kernel).await;
        }
        memory.adopt(desired, &touched);

        let refused =
            self.ports.check_difference(&patched.publications_before, &patched.publications).await?;
        problems.extend(ports::problems(&patched.publications, &refused));
        let devices_before = self.remove_gone(&patched, &mut kernel, &mut problems).await?;
        let host = Host { netlink: &self.netlink, kernel: &kernel, dataplane: &self.dataplane };
        let Applied { state, facts, .. } = &self.applied;
        let ids = patched.endpoints.iter();
        let (uplinks, vtep) = (&facts.uplinks, facts.vtep);
        let pending = self.containers.ensure_some(ids, state, uplinks, vtep, host, &mut problems).await;
        for made in &pending {
            kernel.read_device(&self.netlink, &made.device).await?;
        }
        self.enter_veths(&patched, &kernel);

        let Applied { state, facts, .. } = &self.applied;
        let served =
            patched.publications.iter().filter(|publication| !refused.contains_key(&key(publication)));
        let others = memory.index.published_by_others(&patched, &touched);
        let Some(written) = self.maps.written() else {
            // Something failed to be written; the whole round has everything compared.
            return self.whole_round(desired, super::Depth::Full, None, kernel).await;
        };
        let difference = Difference::new(written, &patched, &devices_before, state, served, &others, facts);
        let published = difference.port_sets.as_ref().map(|sets| sets.published.union());
        self.maps.write_difference(difference, &mut self.dataplane, &mut problems);
        self.containers.bring_up(&pending, &self.netlink, &mut problems).await;
        if let Some(published) = published {
            self.reserve(&published, &mut kernel, &mut problems)?;
        } else {
            debug_assert_eq!(self.kept.as_ref(), Some(&self.leases), "the journal has all of a difference");
        }
        let failed: HashSet<EndpointId> = self.containers.failed().iter().cloned().collect();
        self.memory = troubled(&problems, &failed).map(|troubled| memory.with(troubled));
        self.kernel = Some(kernel);
        (self.applied.refused, self.applied.failed, self.applied.problems) = (refused, failed, problems);
        Ok(())
    }

    /// Resolves the touched containers; `None` if that takes a whole round.
    async fn patch(
        &mut self,
        desired: &DesiredState,
        memory: &mut Memory,
        touched: &BTreeSet<String>,
        kernel: &Kernel,
        problems: &mut Vec<Problem>,
    ) -> Option<Patched> {
        let is_shared = |name: &String| {
            let container = desired.containers.get(name).or_else(|| memory.desired.containers.get(name));
            container
                .is_some_and(|container| matches!(container.namespace, ContainerNamespace::SharedWith(_)))
        };
        if touched.iter().any(is_shared) {
            return None;
        }
        for name in touched {
            memory.namespaces.remove(name);
            for (_, endpoint) in self.applied.state.of_container(name) {
                let Some(namespace) = &endpoint.namespace else { continue };
                // As in a whole round: without its veth the inode may be that of a new namespace.
                if kernel.link(&endpoint.device).is_none() {
                    self.cookies.forget(&namespace.identity);
                }
            }
        }
        let containers = touched.iter().filter_map(|name| desired.containers.get_key_value(name));
        let holders = &mut memory.namespaces;
        let namespaces =
            namespaces::find_some(containers, self.own, &mut self.cookies, holders, problems).await;
        problem::containers(problems)?;
        difference::patch(
            &memory.desired,
            desired,
            touched,
            &namespaces,
            &mut self.leases,
            &mut self.applied.state,
            &mut memory.index,
        )
    }

    /// Removes the devices of interfaces that are no longer declared or have no namespace, after what leads to them.
    /// Answers the indices of the veths that the touched containers had.
    async fn remove_gone(
        &mut self,
        patched: &Patched,
        kernel: &mut Kernel,
        problems: &mut Vec<Problem>,
    ) -> Result<Vec<u32>, Error> {
        let before: BTreeMap<EndpointId, u32> = patched
            .endpoints_before
            .keys()
            .filter_map(|id| Some((id.clone(), self.applied.facts.veths.get(id)?.ifindex)))
            .collect();
        let endpoints = &self.applied.state.endpoints;
        let is_there = |id: &EndpointId| endpoints.get(id).is_some_and(|now| now.namespace.is_some());
        let gone: Vec<_> = patched.endpoints_before.iter().filter(|(id, _)| !is_there(id)).collect();
        if gone.is_empty() {
            return Ok(before.into_values().collect());
        }
        for (id, _) in &gone {
            self.containers.forget(id);
            self.applied.facts.veths.remove(id);
        }
        let devices: Vec<u32> = before.values().copied().collect();
        let Applied { state, facts, .. } = &self.applied;
        if let Some(written) = self.maps.written() {
            let difference = Difference::of_containers(
                written,
                patched,
                &devices,
                state,
                patched.publications.iter(),
                facts,
            );
            self.maps.withdraw_difference(&difference, &mut self.dataplane, problems);
        }
        for (id, endpoint) in gone {
            let links: Vec<_> = kernel.link(&endpoint.device).cloned().into_iter().collect();
            super::devices::remove(&links, &self.netlink, problems).await;
            kernel.read_device(&self.netlink, &endpoint.device).await?;
            if let Some(ifindex) = before.get(id)
                && kernel.link(&endpoint.device).is_none()
                && let Err(error) = self.dataplane.detach(*ifindex)
            {
                problems.push(Problem::new(format!("programs on device with index {ifindex}"), error));
            }
        }
        Ok(devices)
    }

    /// Enters the veths of the touched containers into the facts, as [`Reconciler::facts`] does for all.
    fn enter_veths(&mut self, patched: &Patched, kernel: &Kernel) {
        for id in &patched.endpoints {
            let device = self.applied.state.endpoints.get(id).map(|endpoint| endpoint.device.as_str());
            let fact = device.and_then(|device| kernel.link(device)).and_then(device_fact);
            let veths = &mut self.applied.facts.veths;
            let before = veths.remove(id);
            if let Some(fact) = fact
                && (!self.containers.failed().contains(id)
                    || before.is_some_and(|before| before.ifindex == fact.ifindex))
            {
                let takes_xdp = self.containers.takes_xdp(id);
                veths.insert(id.clone(), DeviceFact { takes_xdp, ..fact });
            }
        }
    }
}
