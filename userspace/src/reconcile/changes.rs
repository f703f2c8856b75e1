//! The difference between two states as lines for people: `+` new, `~` changed, `-` gone.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{ports::key, resolved::ResolvedState};
use crate::model::BeforePort;

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is made.
    Add,
    /// It is changed.
    Change,
    /// It is removed.
    Remove,
}

/// One line of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// To what.
    pub object: String,
    /// What it is then; for a change, what it was before and is then.
    pub detail: String,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Add => '+',
            Action::Change => '~',
            Action::Remove => '-',
        };
        write!(out, "{sign} {} {}", self.object, self.detail)
    }
}

/// What has to be done to come from one state to the other.
pub fn between(before: &ResolvedState, after: &ResolvedState) -> Vec<Change> {
    let (before, after) = (describe(before, after), describe(after, before));
    let mut changes = Vec::new();
    for (object, detail) in &after {
        match before.get(object) {
            None => changes.push(change(Action::Add, object, detail.clone())),
            Some(old) if old != detail => {
                changes.push(change(Action::Change, object, format!("{old} -> {detail}")));
            }
            Some(_) => {}
        }
    }
    for (object, detail) in before.iter().filter(|(object, _)| !after.contains_key(*object)) {
        changes.push(change(Action::Remove, object, detail.clone()));
    }
    changes
}

fn change(action: Action, object: &str, detail: String) -> Change {
    Change { action, object: object.to_owned(), detail }
}

/// The objects that are not the same in the other state.
fn describe(state: &ResolvedState, other: &ResolvedState) -> BTreeMap<String, String> {
    let mut objects = BTreeMap::new();
    for (name, network) in state.networks.iter().filter(|(name, it)| other.networks.get(*name) != Some(it)) {
        let mut words = Vec::new();
        for subnet in network.subnets.iter() {
            words.extend([subnet.range.to_string(), format!("gateway {}", subnet.gateway)]);
        }
        words.extend(network.vni().map(|vni| format!("vni {vni}")));
        words.extend(network.mtu.map(|mtu| format!("mtu {mtu}")));
        words.extend(network.policy.words());
        words.push(format!("on {}", network.bridge));
        objects.insert(format!("network {name}"), words.join(" "));
    }
    for (id, endpoint) in state.endpoints.iter().filter(|(id, it)| other.endpoints.get(id) != Some(it)) {
        let route = if endpoint.default_route { " default-route" } else { "" };
        let missing = if endpoint.namespace.is_none() { " (namespace missing)" } else { "" };
        let mut words: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
        words.extend([endpoint.mac.to_string(), endpoint.interface.clone()]);
        let detail = format!("{}{route}{missing}", words.join(" "));
        objects.insert(format!("endpoint {id}"), detail);
    }
    let same_ports = state.publications == other.publications;
    for publication in state.publications.iter().filter(|_| !same_ports) {
        let address = BeforePort(publication.address);
        let target = format!("-> {} {address}:{}", publication.endpoint, publication.container_ports);
        objects.insert(format!("port {}", key(publication)), target);
    }
    for remote in &state.remotes {
        let detail = format!("{} behind {}", remote.mac, remote.vtep);
        objects.insert(format!("remote {}/{} {}", remote.network, remote.name, remote.address), detail);
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Filtering, PerFamily},
        reconcile::resolved::{ResolvedNetwork, ResolvedSubnet},
    };

    fn state(gateway: [u8; 4]) -> Option<ResolvedState> {
        let mut state = ResolvedState::default();
        let network = ResolvedNetwork {
            number: 1,
            driver: crate::model::Driver::Bridge,
            subnets: PerFamily {
                v4: Some(ResolvedSubnet { range: "10.10.0.0/24".parse().ok()?, gateway: gateway.into() }),
                v6: None,
            },
            policy: Default::default(),
            mtu: None,
            bridge: "br-front".into(),
            vxlan: None,
        };
        state.networks.insert("front".into(), network);
        Some(state)
    }

    #[test]
    fn differences_are_lines() {
        let lines = |before: &ResolvedState, after: &ResolvedState| -> Vec<String> {
            between(before, after).iter().map(ToString::to_string).collect()
        };
        let nothing = ResolvedState::default();
        let (Some(one), Some(other)) = (state([10, 10, 0, 1]), state([10, 10, 0, 2])) else {
            panic!("literal")
        };
        assert_eq!(lines(&nothing, &one), ["+ network front 10.10.0.0/24 gateway 10.10.0.1 on br-front"]);
        assert_eq!(lines(&one, &nothing), ["- network front 10.10.0.0/24 gateway 10.10.0.1 on br-front"]);
        assert_eq!(lines(&one, &one), Vec::<String>::new());
        assert!(
            lines(&one, &other)[0]
                .starts_with("~ network front 10.10.0.0/24 gateway 10.10.0.1 on br-front -> ")
        );
        let mut open = one.clone();
        for network in open.networks.values_mut() {
            network.policy.filtering = Filtering::EndpointIndependent;
        }
        assert_eq!(
            lines(&one, &open),
            ["~ network front 10.10.0.0/24 gateway 10.10.0.1 on br-front -> 10.10.0.0/24 gateway 10.10.0.1 \
              filtering=endpoint-independent on br-front"]
        );
    }
}
