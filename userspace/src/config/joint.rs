//! What the files say together, kept so that a file that changes is held against what the others claim instead of
//! reading all of them again.
//!
//! Only what is plainly right is taken over so: services, each declared once, that clash with nothing. Whatever else there
//! is in a changed file, and every error, is left to a reading of all files, which knows the places to complain about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use super::{
    Loaded,
    error::{Report, place},
    host::HostDraft,
    merge::Networks,
    networks,
    ports::PortSpec,
    schema::ComposeFile,
    services::{self, DEFAULT_NETWORK, MOST_PUBLICATIONS, ServiceDraft, Shared},
    values,
};
use crate::model::{ContainerNamespace, Driver, Family, MacAddress, PortRange, Protocol, VXLAN_PORT};

/// Something that only one service may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    Address(String, IpAddr),
    MacAddress(String, MacAddress),
    ContainerName(String),
    Namespace(ContainerNamespace),
    /// A container port whose host port is left open, by service, protocol, host address and the range of the choice.
    ContainerPort(String, Protocol, Option<IpAddr>, u16, Option<PortRange>),
}

/// Host ports that only one service may have: first to last, by protocol and host address (`None`: all of them).
#[derive(Debug, Default)]
struct HostPorts(BTreeMap<(Protocol, Option<IpAddr>), BTreeMap<u16, u16>>);

impl HostPorts {
    fn remove(&mut self, protocol: Protocol, address: Option<IpAddr>, first: u16) {
        if let Some(ranges) = self.0.get_mut(&(protocol, address)) {
            ranges.remove(&first);
        }
    }

    /// Whether nobody had any of them.
    fn claim(&mut self, protocol: Protocol, address: Option<IpAddr>, first: u16, last: u16) -> bool {
        let overlaps = |ranges: &BTreeMap<u16, u16>| {
            ranges.range(..=last).next_back().is_some_and(|(_, reach)| *reach >= first)
        };
        let of = |address| self.0.get(&(protocol, address)).is_some_and(overlaps);
        let taken = match address {
            Some(one) if !one.is_unspecified() => {
                of(address) || of(Some(Family::of(one).unspecified())) || of(None)
            }
            // All addresses, of one family or of both. That another claim is for the other family alone makes no clash, but
            // a reading of all files is what knows.
            _ => self.0.iter().any(|((other, _), ranges)| *other == protocol && overlaps(ranges)),
        };
        self.0.entry((protocol, address)).or_default().insert(first, last);
        !taken
    }
}

/// A file that changed: its number, and what it said before and says now, where it was or is there.
pub(super) struct Changed<'a> {
    pub number: usize,
    pub path: &'a Path,
    pub before: Option<ComposeFile>,
    pub after: Option<&'a ComposeFile>,
}

/// What all files of a good load claim.
#[derive(Debug)]
pub(super) struct Joint {
    networks: Networks,
    claims: HashSet<Claim>,
    host_ports: HostPorts,
    /// How often a service is named by another one's `links` or `network_mode`.
    named: HashMap<String, usize>,
    /// Services that several files declare.
    repeated: HashSet<String>,
    /// A `network_mode` may mean a service by its container name.
    shared_by_container_name: bool,
    publications: usize,
    /// The UDP port of the overlay networks, if there are any.
    tunnel_port: Option<u16>,
}

impl Joint {
    /// Of services that were found to clash with nothing. `repeated` are those that several files declare.
    pub(super) fn new(
        networks: Networks,
        services: &BTreeMap<String, ServiceDraft>,
        repeated: HashSet<String>,
        host: &HostDraft,
    ) -> Self {
        let overlays = networks.drafts.values().any(|draft| draft.network.driver != Driver::Bridge);
        let mut joint = Self {
            networks,
            claims: HashSet::new(),
            host_ports: HostPorts::default(),
            named: HashMap::new(),
            repeated,
            shared_by_container_name: services.values().any(
                |draft| matches!(&draft.shared_with, Some(shared) if matches!(shared.value, Shared::Container(_))),
            ),
            publications: 0,
            tunnel_port: overlays.then(|| host.settings.vxlan_port.unwrap_or(VXLAN_PORT)),
        };
        for peer in &host.peers {
            for endpoint in &peer.endpoints {
                let network = || peer.peer.network.clone();
                for (address, _) in &endpoint.addresses {
                    joint.claims.insert(Claim::Address(network(), *address));
                }
                joint.claims.insert(Claim::MacAddress(network(), endpoint.mac_address));
            }
        }
        for (name, draft) in services {
            joint.add(name, draft);
        }
        joint
    }

    /// Takes over what changed files say now; answers the services that are others than before. `None`: that takes a
    /// reading of all files, and nothing here is of any use any more.
    pub(super) fn update(&mut self, files: &[Changed<'_>], loaded: &mut Loaded) -> Option<BTreeSet<String>> {
        // Only counted: who has errors is read again for the places.
        let mut report = Report::new([]);
        let mut before = BTreeSet::new();
        for file in files {
            let Some(parsed) = &file.before else { continue };
            self.enter_networks(file.number, parsed, &mut report)?;
            for (name, draft) in self.read(parsed, &mut report)? {
                self.remove(&name, &draft);
                before.insert(name);
            }
            self.networks.forget_names(file.number);
        }
        let mut after = BTreeMap::new();
        for file in files {
            let Some(parsed) = file.after else { continue };
            self.enter_networks(file.number, parsed, &mut report)?;
            for (name, draft) in self.read(parsed, &mut report)? {
                let known = loaded.state.containers.contains_key(&name) && !before.contains(&name);
                if known || !self.add(&name, &draft) {
                    return None;
                }
                let place = place(file.path, draft.location_at);
                if after.insert(name, (draft, place)).is_some() {
                    return None;
                }
            }
        }
        let declared = |name: &String| {
            after.contains_key(name) || loaded.state.containers.contains_key(name) && !before.contains(name)
        };
        let links = after.values().flat_map(|(draft, _)| &draft.links);
        let named = |name: &String| self.named.get(name).is_some_and(|times| *times > 0);
        if report.count() > 0
            || self.publications > MOST_PUBLICATIONS
            || !links.map(|link| &link.value).all(declared)
            || before.iter().any(|name| !after.contains_key(name) && named(name))
        {
            return None;
        }

        let mut touched = BTreeSet::new();
        for name in before.into_iter().filter(|name| !after.contains_key(name)) {
            loaded.state.containers.remove(&name);
            loaded.services.remove(&name);
            touched.insert(name);
        }
        for (name, (draft, place)) in after {
            loaded.services.insert(name.clone(), place);
            if loaded.state.containers.get(&name) != Some(&draft.container) {
                loaded.state.containers.insert(name.clone(), draft.container);
                touched.insert(name);
            }
        }
        Some(touched)
    }

    /// The names that a file has for the other files' networks; `None` if it says more than that about anything but
    /// services.
    fn enter_networks(&mut self, number: usize, file: &ComposeFile, report: &mut Report) -> Option<()> {
        if let Some(name) = &file.name {
            values::docker_name(name, "project name", report);
        }
        let scope = networks::read_all(file.networks.as_ref(), report);
        let implicit = self.networks.has_implicit_default();
        let external =
            |name: &String| self.networks.drafts.contains_key(name) && !(implicit && name == DEFAULT_NETWORK);
        let plain = file.host.is_none()
            && scope.declared.is_empty()
            && scope.external.iter().all(|name| external(&name.value));
        plain.then(|| self.networks.enter_names(number, scope.names))
    }

    /// The services of a file, if they are of the simple kind.
    fn read(&mut self, file: &ComposeFile, report: &mut Report) -> Option<Vec<(String, ServiceDraft)>> {
        let mut drafts = Vec::new();
        for (name, service) in file.services.iter().flat_map(|services| &services.0) {
            let draft = services::read(name, service, &mut self.networks, report);
            // The network `default` without a declaration is there as long as somebody is in it.
            let in_implicit = self.networks.has_implicit_default()
                && draft.attachments.iter().any(|attachment| attachment.network == DEFAULT_NETWORK);
            let may_be_shared = self.shared_by_container_name && draft.container_name.is_some();
            let is_repeated = self.repeated.contains(&name.value);
            if draft.shared_with.is_some() || in_implicit || may_be_shared || is_repeated {
                return None;
            }
            drafts.push((name.value.clone(), draft));
        }
        Some(drafts)
    }

    /// Enters the claims of a service; `false` if somebody has one of them.
    fn add(&mut self, name: &str, draft: &ServiceDraft) -> bool {
        let mut free = true;
        claims(name, draft, |claim| free &= self.claims.insert(claim));
        for (spec, address) in host_ports(draft) {
            let Some(ports) = spec.host_ports else { continue };
            let tunnel = self.tunnel_port.filter(|_| {
                spec.protocol == Protocol::Udp && address.is_none_or(|address| address.is_unspecified())
            });
            free &= tunnel.is_none_or(|tunnel| !(ports.first..=ports.last).contains(&tunnel));
            free &= self.host_ports.claim(spec.protocol, address, ports.first, ports.last);
        }
        for other in named(draft) {
            *self.named.entry(other.to_owned()).or_default() += 1;
        }
        self.publications += draft.container.publications.len();
        free
    }

    fn remove(&mut self, name: &str, draft: &ServiceDraft) {
        claims(name, draft, |claim| {
            self.claims.remove(&claim);
        });
        for (spec, address) in host_ports(draft) {
            let Some(ports) = spec.host_ports else { continue };
            self.host_ports.remove(spec.protocol, address, ports.first);
        }
        for other in named(draft) {
            if let Some(times) = self.named.get_mut(other) {
                *times = times.saturating_sub(1);
            }
        }
        self.publications = self.publications.saturating_sub(draft.container.publications.len());
    }
}

/// What a service claims, host ports left out.
fn claims(name: &str, draft: &ServiceDraft, mut each: impl FnMut(Claim)) {
    for attachment in &draft.attachments {
        for (address, _) in &attachment.addresses {
            each(Claim::Address(attachment.network.clone(), *address));
        }
        if let Some((mac, _)) = attachment.mac_address {
            each(Claim::MacAddress(attachment.network.clone(), mac));
        }
    }
    if let Some(container_name) = &draft.container_name {
        each(Claim::ContainerName(container_name.value.clone()));
    }
    let namespace = &draft.container.namespace;
    if namespace.is_own() {
        each(Claim::Namespace(namespace.clone()));
    }
    for port in draft.ports.iter().filter(|port| !port.value.is_fixed()) {
        let (spec, address) = (port.value, draft.host_address(&port.value));
        for number in spec.container_ports.first..=spec.container_ports.last {
            each(Claim::ContainerPort(name.to_owned(), spec.protocol, address, number, spec.host_ports));
        }
    }
}

/// The host ports that a service claims with their host address; a range that offers a choice gives way.
fn host_ports(draft: &ServiceDraft) -> impl Iterator<Item = (PortSpec, Option<IpAddr>)> + '_ {
    let ports = draft.ports.iter().map(|port| port.value).filter(|_| draft.has_host_ports);
    ports.filter(PortSpec::is_fixed).map(|spec| (spec, draft.host_address(&spec)))
}

/// The services that another one's `links` and `network_mode` name.
fn named(draft: &ServiceDraft) -> impl Iterator<Item = &str> {
    let shared = match &draft.container.namespace {
        ContainerNamespace::SharedWith(owner) => Some(owner.as_str()),
        _ => None,
    };
    draft.links.iter().map(|link| link.value.as_str()).chain(shared)
}
