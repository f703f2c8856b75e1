//! Leases of what has left the files: kept for a while, for it may come back, and not for ever, for files that name their
//! containers anew each day would make the leases grow without end.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Leases;
use crate::{model::DesiredState, reconcile::names};

/// How long the lease of something that is no longer declared is kept at least, if there are not too many. A container
/// that comes back after the weekend has the address that it had.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Leases of containers that are no longer declared, and as many of networks and of peers: more are pruned before their
/// time, the longest gone first.
const MOST: usize = 4096;

/// Notes what is no longer declared, and forgets the leases of what has been so for long. Numbers and epochs are never
/// used again; an address is, which is why this waits.
///
/// By the clock of the machine: one that was wrong and is set forward may prune too early, which costs a container that
/// was not declared at that moment its address and harms nothing that runs. `exists`: the device of this name is there.
pub fn prune(leases: &mut Leases, desired: &DesiredState, now: SystemTime, exists: impl Fn(&str) -> bool) {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut gone = Gone { now, since: Vec::new() };
    for (container, networks) in &mut leases.endpoints {
        let declared = desired.containers.get(container).map(|found| &found.attachments);
        for (network, lease) in networks {
            let declared = declared.is_some_and(|attachments| attachments.contains_key(network));
            gone.note(declared, &mut lease.gone_since, (container.clone(), network.clone()));
        }
    }
    let mut pruned = !gone.since.is_empty();
    for (container, network) in gone.due() {
        if let Some(networks) = leases.endpoints.get_mut(&container) {
            networks.remove(&network);
        }
    }
    leases.endpoints.retain(|_, networks| !networks.is_empty());

    let in_use: BTreeSet<&String> = leases.endpoints.values().flat_map(|networks| networks.keys()).collect();
    let mut gone = Gone { now, since: Vec::new() };
    for (name, lease) in &mut leases.networks {
        // As long as a container may come back to it.
        let needed = desired.networks.contains_key(name) || in_use.contains(name);
        gone.note(needed, &mut lease.gone_since, name.clone());
    }
    pruned |= !gone.since.is_empty();
    for name in gone.due() {
        leases.networks.remove(&name);
    }

    let declared: HashSet<_> = desired.peers.iter().map(|peer| peer.vtep).collect();
    let mut gone = Gone { now, since: Vec::new() };
    for vtep in leases.peers.keys() {
        let mut since = leases.gone_peers.remove(vtep);
        gone.note(declared.contains(vtep), &mut since, *vtep);
        leases.gone_peers.extend(since.map(|since| (*vtep, since)));
    }
    for vtep in gone.due() {
        leases.peers.remove(&vtep);
        leases.gone_peers.remove(&vtep);
    }
    if pruned {
        forget_devices(leases, desired, exists);
    }
}

/// Names of devices: those that a lease or the files may still lead to, and those that are there.
fn forget_devices(leases: &mut Leases, desired: &DesiredState, exists: impl Fn(&str) -> bool) {
    let networks = leases.networks.keys().flat_map(|name| [names::bridge(name), names::vxlan(name)]);
    let chosen = desired.networks.values().filter_map(|network| network.bridge_name.clone());
    let veths = leases.endpoints.iter().flat_map(|(container, networks)| {
        networks.keys().map(move |network| names::veth(container, network))
    });
    let wanted: HashSet<String> = networks.chain(chosen).chain(veths).collect();
    leases.devices.retain(|device| wanted.contains(device) || exists(device));
}

/// Leases of one kind whose object is gone, and since when.
struct Gone<K> {
    now: u64,
    since: Vec<(u64, K)>,
}

impl<K: Ord> Gone<K> {
    fn note(&mut self, declared: bool, since: &mut Option<u64>, key: K) {
        if declared {
            *since = None;
            return;
        }
        // A clock that was set back must not keep a lease for ever.
        let found = since.filter(|since| *since <= self.now).unwrap_or(self.now);
        *since = Some(found);
        self.since.push((found, key));
    }

    /// Those whose time has come, and the longest gone of what is too much.
    fn due(mut self) -> impl Iterator<Item = K> {
        self.since.sort();
        let too_many = self.since.len().saturating_sub(MOST);
        let now = self.now;
        let due = move |(position, (since, _)): &(usize, (u64, K))| {
            *position < too_many || now - *since > KEEP.as_secs()
        };
        self.since.into_iter().enumerate().filter(due).map(|(_, (_, key))| key)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{MacAddress, Peer},
        reconcile::leases::{EndpointLease, NetworkLease},
    };

    const DAY: u64 = 24 * 3600;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn keep(leases: &mut Leases, container: &str, network: &str) {
        let number = leases.next_network;
        leases.next_network += 1;
        leases.networks.entry(network.to_owned()).or_insert(NetworkLease::new(number));
        let lease = EndpointLease {
            address: Some(Ipv4Addr::new(10, 10, 0, 2)),
            address_v6: None,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            epoch: 1,
            namespace_cookie: None,
            interface: None,
            gone_since: None,
        };
        leases.endpoints.entry(container.to_owned()).or_default().insert(network.to_owned(), lease);
        leases.devices.extend([names::veth(container, network), names::bridge(network)]);
    }

    #[test]
    fn what_is_gone_is_kept_for_a_week() {
        let mut leases = Leases::new(1);
        keep(&mut leases, "web", "front");
        let peer = IpAddr::from([192, 0, 2, 2]);
        leases.peers.insert(peer, 1);
        let (before, nothing) = (leases.clone(), DesiredState::default());
        prune(&mut leases, &nothing, at(100 * DAY), |_| false);
        prune(&mut leases, &nothing, at(107 * DAY), |_| false);
        assert_eq!(leases.endpoints["web"]["front"].address, before.endpoints["web"]["front"].address);
        assert!(leases.networks.contains_key("front") && leases.peers.contains_key(&peer));
        assert!(leases.devices.contains(&names::veth("web", "front")));
        // Declared again: it is gone anew when it goes again.
        let mut desired = DesiredState::default();
        desired.peers.push(Peer { vtep: peer, network: "front".into(), endpoints: Vec::new() });
        prune(&mut leases, &desired, at(107 * DAY), |_| false);
        assert!(leases.gone_peers.is_empty());
        prune(&mut leases, &nothing, at(107 * DAY + 1), |device| device == names::bridge("front"));
        assert!(leases.endpoints.is_empty() && leases.peers.contains_key(&peer), "{leases:?}");
        // The network follows its last container; its device is still there.
        assert_eq!(leases.devices, [names::bridge("front")].into());
        prune(&mut leases, &nothing, at(120 * DAY), |_| false);
        assert!(leases.networks.is_empty() && leases.peers.is_empty() && leases.gone_peers.is_empty());
        assert!(leases.devices.is_empty());
        assert_eq!((leases.next_network, leases.next_epoch), (before.next_network, before.next_epoch));
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_for_ever() {
        let mut leases = Leases::new(1);
        keep(&mut leases, "web", "front");
        for (now, left) in [(1000 * DAY, 1), (10 * DAY, 1), (17 * DAY, 1), (17 * DAY + 1, 0)] {
            prune(&mut leases, &DesiredState::default(), at(now), |_| false);
            assert_eq!(leases.endpoints.len(), left, "day {}", now / DAY);
        }
    }

    #[test]
    fn the_longest_gone_make_room() {
        let mut leases = Leases::new(1);
        for number in 0..MOST {
            keep(&mut leases, &format!("old{number}"), "front");
        }
        prune(&mut leases, &DesiredState::default(), at(DAY), |_| false);
        for number in 0..10 {
            keep(&mut leases, &format!("new{number}"), "front");
        }
        prune(&mut leases, &DesiredState::default(), at(DAY + 60), |_| false);
        assert_eq!(leases.endpoints.len(), MOST);
        assert_eq!(leases.endpoints.keys().filter(|name| name.starts_with("new")).count(), 10);
    }

    proptest! {
        /// However containers come and go, the leases stay bounded, and none goes before its time.
        #[test]
        fn leases_stay_bounded(rounds in proptest::collection::vec((0_u64..40, 0_u64..2 * DAY), 1..200)) {
            let mut leases = Leases::new(1);
            let mut now = 1000 * DAY;
            let mut last = std::collections::HashMap::new();
            for (name, later) in rounds {
                now += later;
                keep(&mut leases, &format!("c{name}"), &format!("n{}", name % 7));
                last.insert(name, now);
                prune(&mut leases, &DesiredState::default(), at(now), |_| false);
                for (name, since) in &last {
                    let kept = leases.endpoints.contains_key(&format!("c{name}"));
                    prop_assert_eq!(kept, now - since <= KEEP.as_secs());
                }
                prop_assert!(leases.devices.len() <= 2 * leases.endpoints.len() + leases.networks.len());
            }
        }
    }
}
