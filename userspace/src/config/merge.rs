//! Several files, one state: every file's networks and services put together; what two files say about the same
//! thing must be the same.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    error::{Position, Report, quote},
    ipam::host_address_in,
    located::Located,
    networks::{NetworkDraft, Scope},
    services::{DEFAULT_NETWORK, ServiceDraft},
};
use crate::model::{Container, Family};

/// The networks of all files.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// Networks by name in the model.
    pub drafts: BTreeMap<String, NetworkDraft>,
    /// For each file: from the key in its `networks` to the name in the model.
    names: HashMap<usize, BTreeMap<String, String>>,
    /// The network `default` is there because it is used.
    implicit_default: bool,
}

impl Networks {
    /// Puts the networks of all files together.
    pub(super) fn merge(scopes: Vec<(usize, Scope)>, report: &mut Report) -> Self {
        let mut merged = Self::default();
        let mut external = Vec::new();
        for (file, scope) in scopes {
            merged.enter_names(file, scope.names);
            external.extend(scope.external);
            for (name, draft) in scope.declared {
                match merged.drafts.get(&name) {
                    None => {
                        merged.drafts.insert(name, draft);
                    }
                    Some(first) if first.network == draft.network || first.faulty || draft.faulty => {}
                    Some(first) => {
                        let place = report.place(first.at);
                        report.add(
                            draft.at,
                            format!("the network {} is declared differently at {place}", quote(&name)),
                        );
                    }
                }
            }
        }
        for name in external {
            if !merged.drafts.contains_key(&name.value) {
                report.add(
                    name.at,
                    format!("the external network {} is declared in none of the files", quote(&name.value)),
                );
            }
        }
        merged
    }

    /// Enters what a file calls networks.
    pub(super) fn enter_names(&mut self, file: usize, names: BTreeMap<String, String>) {
        if !names.is_empty() {
            self.names.insert(file, names);
        }
    }

    /// Forgets what a file calls networks.
    pub(super) fn forget_names(&mut self, file: usize) {
        self.names.remove(&file);
    }

    /// Whether the network `default` is there only because something is in it.
    pub(super) fn has_implicit_default(&self) -> bool {
        self.implicit_default
    }

    /// The model's name of the network that a file calls `key`: its own networks first, then the other files'. The
    /// network `default` comes into being where it is used.
    pub(super) fn resolve(&mut self, key: &Located<String>) -> Option<String> {
        if let Some(name) = self.names.get(&key.at.file).and_then(|names| names.get(&key.value)) {
            return Some(name.clone());
        }
        if self.drafts.contains_key(&key.value) {
            return Some(key.value.clone());
        }
        if key.value == DEFAULT_NETWORK {
            self.drafts.insert(DEFAULT_NETWORK.to_owned(), NetworkDraft::implicit(key.at));
            self.implicit_default = true;
            return Some(DEFAULT_NETWORK.to_owned());
        }
        None
    }

    /// Whether a container, here or at a peer, can have this address in the network.
    pub(super) fn check_address(&self, network: &str, address: IpAddr, at: Position, report: &mut Report) {
        // A faulty network has said its own error already.
        let Some(draft) = self.drafts.get(network).filter(|draft| !draft.faulty) else { return };
        let family = Family::of(address);
        let Some((range, _)) = draft.subnets.of(family) else {
            let reason = if !draft.network.has(family) {
                let enable = if address.is_ipv4() { "enable_ipv4" } else { "enable_ipv6" };
                format!(
                    "the network {} has no such addresses: add '{enable}: true' and a subnet to it",
                    quote(network)
                )
            } else {
                format!(
                    "the network {} has no subnet of its own, so nothing can have a fixed address in it: add ipam: {{ \
                     config: [ {{ subnet: … }} ] }}",
                    quote(network)
                )
            };
            report.add(at, reason);
            return;
        };
        if !host_address_in(*range, address, "the address", at, report) {
            return;
        }
        if draft.gateway(family) == Some(address) {
            report.add(at, format!("{address} is the gateway of the network {}", quote(network)));
        }
        if draft.reserved.contains(&address) {
            report.add(
                at,
                format!("{address} is kept free by aux_addresses of the network {}", quote(network)),
            );
        }
    }

    /// The network whose addresses a container's ports lead to: the one that gives it the default route (highest
    /// `gw_priority`, then the first name), as in Docker.
    pub(super) fn publishing(&self, container: &Container) -> Option<&NetworkDraft> {
        let reachable = container.attachments.iter().filter_map(|(name, attachment)| {
            let draft = self.drafts.get(name).filter(|draft| !draft.network.policy.internal)?;
            Some((attachment.gateway_priority, draft))
        });
        // `min_by_key` keeps the first of equals.
        reachable.min_by_key(|(priority, _)| std::cmp::Reverse(*priority)).map(|(_, draft)| draft)
    }
}

/// The services of all files, by name, and the names of those that are declared more than once.
pub(super) fn merge_services(
    drafts: impl IntoIterator<Item = (String, ServiceDraft)>,
    report: &mut Report,
) -> (BTreeMap<String, ServiceDraft>, HashSet<String>) {
    let mut merged: BTreeMap<String, ServiceDraft> = BTreeMap::new();
    let mut repeated = HashSet::new();
    for (name, draft) in drafts {
        match merged.get(&name) {
            None => {
                merged.insert(name, draft);
            }
            Some(first) => {
                let shared =
                    |draft: &ServiceDraft| draft.shared_with.as_ref().map(|shared| shared.value.clone());
                if first.container != draft.container || shared(first) != shared(&draft) {
                    let place = report.place(first.at);
                    report.add(
                        draft.at,
                        format!("the service {} is declared differently at {place}", quote(&name)),
                    );
                }
                repeated.insert(name);
            }
        }
    }
    (merged, repeated)
}

/// Remembers who holds something that only one may have.
pub(super) struct Holders<K>(BTreeMap<K, Position>);

impl<K: Ord> Holders<K> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Claims `key` for the place `at`; the place that already has it otherwise.
    pub(super) fn claim(&mut self, key: K, at: Position) -> Option<Position> {
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Occupied(holder) => Some(*holder.get()),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(at);
                None
            }
        }
    }
}
