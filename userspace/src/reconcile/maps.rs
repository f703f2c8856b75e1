//! Writes the tables into the maps, only those that differ from what was written last or that are due for a check.

use std::hash::Hash;

use dataplane_common::abi::PortSet;

use super::{
    problem::Problem,
    tables::{
        PortSets, Tables,
        difference::{Difference, Entries},
    },
};
use crate::{
    dataplane::{self, Changes, Dataplane, Order},
    model::Protocol,
    netdev::PortRanges,
};

/// What the maps hold as far as weft has written it.
#[derive(Debug, Default)]
pub struct Maps {
    written: Option<Tables>,
}

/// Writes one table if it is due, and notes what went wrong.
macro_rules! write {
    ($self:ident, $wanted:ident, $dataplane:ident, $check:ident, $problems:ident, $order:expr, $($table:ident),+) => {$(
        let due = $check || $self.written.as_ref().is_none_or(|written| written.$table != $wanted.$table);
        if due {
            note($dataplane.tables.$table.sync_ordered(&$wanted.$table, $order), stringify!($table), $problems);
        }
    )+};
}

impl Maps {
    /// Takes out what must not work any more, before the devices and programs behind it go: publications first, then
    /// endpoints.
    pub fn withdraw(&mut self, wanted: &Tables, dataplane: &mut Dataplane, problems: &mut Vec<Problem>) {
        let before = problems.len();
        let Some(written) = &mut self.written else { return };
        let mut published = written.published.clone();
        published.retain(|key, _| wanted.published.contains_key(key));
        let mut endpoints = written.endpoints.clone();
        endpoints.retain(|key, _| wanted.endpoints.contains_key(key));
        if published.len() != written.published.len() {
            note(dataplane.tables.published.sync(&published), "published", problems);
            written.published = published;
        }
        if endpoints.len() != written.endpoints.len() {
            note(dataplane.tables.endpoints.sync(&endpoints), "endpoints", problems);
            written.endpoints = endpoints;
        }
        self.forget_after(before, problems);
    }

    /// What failed is not known to be written: the next round tries again.
    fn forget_after(&mut self, before: usize, problems: &[Problem]) {
        if problems.len() != before {
            self.written = None;
        }
    }

    /// Makes all maps what they must be. Settings and ports come first, then what a packet is judged by, and what
    /// leads packets to containers last: at no moment a packet finds more open than both states allow.
    pub fn write(
        &mut self,
        wanted: Tables,
        dataplane: &mut Dataplane,
        check: bool,
        problems: &mut Vec<Problem>,
    ) {
        let before = problems.len();
        if check || self.written.as_ref().is_none_or(|written| written.settings != wanted.settings) {
            note(dataplane.set_settings(&wanted.settings), "settings", problems);
        }
        self.write_port_sets(&wanted.port_sets, dataplane, check, problems);
        write!(self, wanted, dataplane, check, problems, Order::RemoveFirst, vxlan, peers, addresses);
        write!(self, wanted, dataplane, check, problems, Order::AddFirst, subnets, devices);
        write!(self, wanted, dataplane, check, problems, Order::AddFirst, remotes, endpoints, published);
        // What failed is not known to be written: the next round tries again.
        self.written = (problems.len() == before).then_some(wanted);
    }

    /// What the maps hold, where that is known.
    pub fn written(&self) -> Option<&Tables> {
        self.written.as_ref()
    }

    /// Takes out, of what is about to change, what leads to containers that are gone: as [`Self::withdraw`].
    pub fn withdraw_difference(
        &mut self,
        difference: &Difference,
        dataplane: &mut Dataplane,
        problems: &mut Vec<Problem>,
    ) {
        let before = problems.len();
        let Some(written) = &mut self.written else { return };
        let tables = &mut dataplane.tables;
        let published = removals(&difference.published);
        note(tables.published.update(&published), "published", problems);
        written.published.retain(|key, _| !published.contains_key(key));
        let endpoints = removals(&difference.endpoints);
        note(tables.endpoints.update(&endpoints), "endpoints", problems);
        written.endpoints.retain(|key, _| !endpoints.contains_key(key));
        self.forget_after(before, problems);
    }

    /// Writes a difference, in the order of [`Self::write`].
    pub fn write_difference(
        &mut self,
        difference: Difference,
        dataplane: &mut Dataplane,
        problems: &mut Vec<Problem>,
    ) {
        let before = problems.len();
        if let Some(port_sets) = &difference.port_sets {
            self.write_port_sets(port_sets, dataplane, false, problems);
        }
        let tables = &mut dataplane.tables;
        note(tables.devices.update(&difference.devices), "devices", problems);
        note(tables.endpoints.update(&difference.endpoints), "endpoints", problems);
        note(tables.published.update(&difference.published), "published", problems);
        if let Some(written) = &mut self.written {
            difference.enter(written);
        }
        self.forget_after(before, problems);
    }

    fn write_port_sets(
        &self,
        wanted: &PortSets,
        dataplane: &mut Dataplane,
        check: bool,
        problems: &mut Vec<Problem>,
    ) {
        let before = self.written.as_ref().map(|written| &written.port_sets);
        for protocol in Protocol::ALL {
            let number = protocol.number();
            for (set, ports, before) in [
                (
                    PortSet::reserved(number),
                    wanted.reserved.of(protocol),
                    before.map(|before| before.reserved.of(protocol)),
                ),
                (
                    PortSet::published(number),
                    wanted.published.of(protocol),
                    before.map(|before| before.published.of(protocol)),
                ),
            ] {
                if check || before != Some(ports) {
                    note(dataplane.tables.port_sets.sync(set, each(ports)), "port_sets", problems);
                }
            }
        }
    }
}

fn removals<K: Clone + Eq + Hash, V>(entries: &Entries<K, V>) -> Entries<K, V> {
    entries.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| (key.clone(), None)).collect()
}

fn each(ranges: &PortRanges) -> impl Iterator<Item = u16> + '_ {
    ranges.iter().flat_map(|range| range.first..=range.last)
}

/// Something a write answers.
trait Outcome {
    fn describe(&self) -> Option<String>;
}

impl Outcome for Changes {
    fn describe(&self) -> Option<String> {
        (!self.is_empty()).then(|| format!("+{} ~{} -{}", self.added, self.changed, self.removed))
    }
}

impl Outcome for usize {
    fn describe(&self) -> Option<String> {
        (*self > 0).then(|| format!("~{self}"))
    }
}

impl Outcome for bool {
    fn describe(&self) -> Option<String> {
        self.then(|| "~1".to_owned())
    }
}

fn note<T: Outcome>(result: dataplane::Result<T>, map: &str, problems: &mut Vec<Problem>) {
    match result {
        Ok(outcome) => {
            if let Some(changes) = outcome.describe() {
                tracing::debug!(map, changes, "map written");
            }
        }
        Err(error) => problems.push(Problem::new(format!("map {map}"), error)),
    }
}
