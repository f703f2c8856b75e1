//! The entries that some containers have in the tables, and had: what a difference has to write.

use std::{collections::HashMap, hash::Hash};

use dataplane_common::abi::{Device, Endpoint, EndpointKey, Publication, PublicationKey};

use super::{
    KernelFacts, PerProtocol, PortSets, Prefix, ResolvedState, Tables, container_device, container_endpoints,
    endpoint_keys, has_overlays, publication_entries, published_ports,
};
use crate::{
    model::{PortRange, Protocol},
    reconcile::{leases::difference::Patched, resolved::ResolvedPublication},
};

/// Entries to write (`Some`) and to remove (`None`).
pub type Entries<K, V> = HashMap<K, Option<V>>;

/// What makes the tables of one state those of another.
#[derive(Debug, Default)]
pub struct Difference {
    /// Map `devices`.
    pub devices: Entries<u32, Device>,
    /// Map `endpoints`.
    pub endpoints: Entries<EndpointKey, Endpoint>,
    /// Map `published`.
    pub published: Entries<Prefix<PublicationKey>, Publication>,
    /// Map `port_sets`, where it may be another.
    pub port_sets: Option<PortSets>,
}

impl Difference {
    /// Between `written` and what [`super::build`] would make of the patched state. `devices_before` are the indices of
    /// the touched containers' veths before, `served` those of their publications that nothing stands in the way of;
    /// `others` are the publications of other containers of the ports that they published before.
    pub fn new<'a>(
        written: &Tables,
        patched: &Patched,
        devices_before: &[u32],
        state: &ResolvedState,
        served: impl Iterator<Item = &'a ResolvedPublication> + Clone,
        others: &[(Protocol, PortRange)],
        facts: &KernelFacts,
    ) -> Self {
        let mut difference =
            Self::of_containers(written, patched, devices_before, state, served.clone(), facts);
        // Also what is published as before may be served otherwise: a process of the host has given up its port.
        if patched.publications != patched.publications_before || !difference.published.is_empty() {
            let published = PerProtocol::new(|protocol| {
                let of_others =
                    others.iter().filter(|(other, _)| *other == protocol).map(|(_, ports)| *ports);
                let written = written.port_sets.published.of(protocol);
                written
                    .difference(&published_ports(&patched.publications_before, protocol))
                    .union(&published_ports(served.clone(), protocol))
                    .union(&of_others.collect())
            });
            difference.port_sets = Some(PortSets::new(published, state, facts));
        }
        difference
    }

    /// The same without the port sets.
    pub fn of_containers<'a>(
        written: &Tables,
        patched: &Patched,
        devices_before: &[u32],
        state: &ResolvedState,
        served: impl Iterator<Item = &'a ResolvedPublication>,
        facts: &KernelFacts,
    ) -> Self {
        let overlays = has_overlays(state);
        let ids = || patched.endpoints.iter();
        let before = publication_entries(&patched.publications_before);
        Self {
            devices: changed(
                &written.devices,
                devices_before.iter().copied(),
                ids().filter_map(|id| container_device(id, state, facts, overlays)),
            ),
            endpoints: changed(
                &written.endpoints,
                patched.endpoints_before.values().flat_map(endpoint_keys),
                ids().flat_map(|id| container_endpoints(id, state, facts)),
            ),
            published: changed(&written.published, before.into_keys(), publication_entries(served)),
            port_sets: None,
        }
    }

    /// Enters it in the record of what is written.
    pub fn enter(self, written: &mut Tables) {
        enter(self.devices, &mut written.devices);
        enter(self.endpoints, &mut written.endpoints);
        enter(self.published, &mut written.published);
        if let Some(port_sets) = self.port_sets {
            written.port_sets = port_sets;
        }
    }
}

fn changed<K: Eq + Hash, V: PartialEq>(
    written: &HashMap<K, V>,
    before: impl Iterator<Item = K>,
    after: impl IntoIterator<Item = (K, V)>,
) -> Entries<K, V> {
    let mut entries: Entries<K, V> = before.map(|key| (key, None)).collect();
    entries.extend(after.into_iter().map(|(key, value)| (key, Some(value))));
    entries.retain(|key, value| written.get(key) != value.as_ref());
    entries
}

fn enter<K: Eq + Hash, V>(entries: Entries<K, V>, written: &mut HashMap<K, V>) {
    for (key, value) in entries {
        match value {
            Some(value) => drop(written.insert(key, value)),
            None => drop(written.remove(&key)),
        }
    }
}
