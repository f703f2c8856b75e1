//! Making a case smaller: the ways to leave something out, the largest first.
//!
//! proptest's own shrinking works on the raw choices, where leaving one out changes what the others mean.

use super::{
    description::{Action, Case, NetworkKind, Step, Topology},
    family::{Families, Family},
};

/// Leaves one thing out.
type Change<'a> = &'a dyn Fn(&mut Case);

/// Smaller cases than this one, each with one thing less.
pub fn candidates(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |change: Change<'_>| {
        let mut smaller = case.clone();
        change(&mut smaller);
        if smaller != *case {
            all.push(smaller);
        }
    };
    for step in (0..case.steps.len()).rev() {
        add(&|it| drop(it.steps.remove(step)));
        add(&|it| it.steps[step].actions.clear());
        add(&|it| it.steps[step].changes.clear());
    }
    for (number, step) in case.steps.iter().enumerate() {
        // Half of them, then each.
        let half = step.actions.len() / 2;
        add(&|it| drop(it.steps[number].actions.drain(..half)));
        add(&|it| it.steps[number].actions.truncate(half));
    }
    for slot in 0..case.topology.containers.len() {
        add(&|it| it.topology.containers[slot] = None);
    }
    for (number, step) in case.steps.iter().enumerate() {
        for index in 0..step.actions.len() {
            add(&|it| drop(it.steps[number].actions.remove(index)));
        }
        for index in 0..step.changes.len() {
            add(&|it| drop(it.steps[number].changes.remove(index)));
        }
    }
    details(case, &mut add);
    all.retain(is_sound);
    all
}

fn details(case: &Case, add: &mut dyn FnMut(Change<'_>)) {
    for (slot, container) in case.topology.present() {
        let change = |topology: &mut Topology, index: usize, ports: bool| {
            if let Some(Some(container)) = topology.containers.get_mut(slot) {
                if ports {
                    container.ports.remove(index);
                } else {
                    container.networks.remove(index);
                }
            }
        };
        (0..container.ports.len()).for_each(|index| add(&|it| change(&mut it.topology, index, true)));
        (0..container.networks.len()).for_each(|index| add(&|it| change(&mut it.topology, index, false)));
    }
    for number in 0..case.topology.networks.len() {
        add(&|it| {
            if it.topology.networks[number].kind != NetworkKind::Overlay {
                it.topology.networks[number].kind = NetworkKind::Plain;
            }
        });
        for families in [Families::V4, Families::V6] {
            add(&|it| {
                if it.topology.networks[number].families == Families::Both {
                    it.topology.networks[number].families = families;
                }
            });
        }
    }
    add(&|it| it.topology.tunnels = Family::V4);
    for (number, Step { actions, .. }) in case.steps.iter().enumerate() {
        for (index, action) in actions.iter().enumerate() {
            if let Action::Udp { to, .. } = action {
                for which in 0..to.len() {
                    add(&|it| {
                        if let Action::Udp { to, .. } = &mut it.steps[number].actions[index] {
                            to.remove(which);
                        }
                    });
                }
            }
        }
    }
}

/// Whether it can be declared and done.
fn is_sound(case: &Case) -> bool {
    let topology = &case.topology;
    let containers = topology.present().all(|(_, it)| {
        !it.networks.is_empty() && it.ports.iter().all(|port| topology.leads_somewhere(&it.networks, port))
    });
    let actions = case.steps.iter().flat_map(|step| &step.actions);
    containers
        && !case.steps.is_empty()
        && actions.into_iter().all(|action| !matches!(action, Action::Udp { to, .. } if to.is_empty()))
}
