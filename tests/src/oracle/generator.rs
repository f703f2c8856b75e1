//! Random cases. Raw choices are small numbers, which shrink well; `Draft::settle` makes a case of them that makes sense.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    description::{
        Action, Address, Binding, CLOSED_PORT, CONTAINERS, Case, Change, Close, Container, HOST_PORTS, HOSTS,
        NETWORKS, Network, NetworkKind, OPEN_PORTS, Place, Protocol, Publication, Step, Target, Topology,
    },
    family::{Families, Family},
};

/// Ports that UDP clients use again and again.
const SOURCE_PORTS: [u16; 2] = [20_000, 20_001];

/// Choices of which some make no sense together.
#[derive(Debug, Clone)]
struct Draft {
    hosts: usize,
    tunnels: Family,
    networks: Vec<Network>,
    containers: Vec<RawContainer>,
    steps: Vec<RawStep>,
}

#[derive(Debug, Clone)]
struct RawContainer {
    host: usize,
    networks: [bool; NETWORKS],
    ports: Vec<Publication>,
}

#[derive(Debug, Clone)]
struct RawStep {
    changes: Vec<RawChange>,
    actions: Vec<RawAction>,
}

#[derive(Debug, Clone)]
enum RawChange {
    Toggle(usize, RawContainer),
    Publish(usize, Publication),
    Unpublish(usize, usize),
}

#[derive(Debug, Clone)]
struct RawAction {
    from: usize,
    /// If everybody has it.
    family: Family,
    to: Vec<(RawTarget, u16)>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Tcp { send: u32, receive: u32, close: Close },
    Udp { source: Option<u16> },
    Ping,
}

/// Where to, and which of the ports that come into question.
#[derive(Debug, Clone, Copy)]
struct RawTarget {
    kind: TargetKind,
    which: usize,
    port: usize,
}

#[derive(Debug, Clone, Copy)]
enum TargetKind {
    /// A published port, on the address that it is published on.
    Published,
    /// An address of a host, and a port that is published there or not.
    Host,
    Loopback,
    Container,
    Client,
}

/// All cases, of IPv4 alone or of both families.
pub fn cases(is_dual: bool) -> impl Strategy<Value = Case> {
    let steps = vec(step(), 1..=3);
    let networks = vec(network(), 1..=NETWORKS);
    let containers = vec(container(), 1..=CONTAINERS);
    (1..=HOSTS, family(), networks, containers, steps).prop_map(
        move |(hosts, tunnels, networks, containers, steps)| {
            let mut draft = Draft { hosts, tunnels, networks, containers, steps };
            if !is_dual {
                draft.tunnels = Family::V4;
                draft.networks.iter_mut().for_each(|network| network.families = Families::V4);
            }
            draft.settle()
        },
    )
}

fn family() -> impl Strategy<Value = Family> {
    select(&Family::ALL[..])
}

fn network() -> impl Strategy<Value = Network> {
    let kinds = vec![NetworkKind::Plain, NetworkKind::Overlay, NetworkKind::Isolated, NetworkKind::Internal];
    let families = prop_oneof![4 => Just(Families::Both), 1 => Just(Families::V4), 1 => Just(Families::V6)];
    (select(kinds), 0..HOSTS, families).prop_map(|(kind, host, families)| Network { kind, host, families })
}

fn container() -> impl Strategy<Value = RawContainer> {
    // Usually one network: the first that its host has.
    let networks = prop::array::uniform3(prop::bool::weighted(0.4));
    (0..HOSTS, networks, vec(publication(), 0..=3)).prop_map(|(host, networks, ports)| RawContainer {
        host,
        networks,
        ports,
    })
}

fn publication() -> impl Strategy<Value = Publication> {
    let bindings =
        prop_oneof![4 => Just(Binding::Any), 2 => Just(Binding::Uplink), 1 => Just(Binding::Loopback)];
    let families = prop_oneof![2 => Just(None), 1 => family().prop_map(Some)];
    let container_ports = prop_oneof![6 => select(&OPEN_PORTS[..]), 1 => Just(CLOSED_PORT)];
    let counts = prop_oneof![3 => Just(1_u16), 1 => 2_u16..=4];
    let protocols = select(vec![Protocol::Tcp, Protocol::Udp]);
    (bindings, families, protocols, HOST_PORTS, container_ports, counts).prop_map(
        |(binding, family, protocol, host_port, container_port, count)| Publication {
            binding,
            family,
            protocol,
            host_port,
            container_port,
            count,
        },
    )
}

fn step() -> impl Strategy<Value = RawStep> {
    let change = prop_oneof![
        (0..CONTAINERS, container()).prop_map(|(slot, container)| RawChange::Toggle(slot, container)),
        (0..CONTAINERS, publication()).prop_map(|(slot, publication)| RawChange::Publish(slot, publication)),
        (0..CONTAINERS, 0_usize..3).prop_map(|(slot, index)| RawChange::Unpublish(slot, index)),
    ];
    (vec(change, 0..=2), vec(action(), 1..=12)).prop_map(|(changes, actions)| RawStep { changes, actions })
}

fn action() -> impl Strategy<Value = RawAction> {
    let kinds = prop_oneof![
        4 => Just(TargetKind::Published),
        2 => Just(TargetKind::Host),
        1 => Just(TargetKind::Loopback),
        3 => Just(TargetKind::Container),
        2 => Just(TargetKind::Client),
    ];
    let target =
        (kinds, 0_usize..16, 0_usize..16).prop_map(|(kind, which, port)| RawTarget { kind, which, port });
    // What fits every network's MTU, and what has to be sent in fragments.
    let datagram = prop_oneof![8 => 32_u16..1380, 1 => 4000_u16..8000];
    let length = || prop_oneof![2 => Just(0_u32), 4 => 1_u32..3000, 1 => 3000_u32..200_000];
    let close = select(vec![
        Close::Client,
        Close::HalfByClient,
        Close::HalfByServer,
        Close::ResetByClient,
        Close::ResetByServer,
    ]);
    let what = prop_oneof![
        4 => (length(), length(), close).prop_map(|(send, receive, close)| What::Tcp { send, receive, close }),
        4 => option::of(select(&SOURCE_PORTS[..])).prop_map(|source| What::Udp { source }),
        1 => Just(What::Ping),
    ];
    (0_usize..16, family(), vec((target, datagram), 1..=3), what)
        .prop_map(|(from, family, to, what)| RawAction { from, family, to, what })
}

impl Draft {
    fn settle(self) -> Case {
        let host = |number: usize| number % self.hosts;
        let networks =
            self.networks.iter().map(|network| Network { host: host(network.host), ..*network }).collect();
        let mut topology = Topology { networks, containers: vec![None; CONTAINERS], tunnels: self.tunnels };
        for (slot, raw) in self.containers.iter().enumerate() {
            add(&mut topology, slot, raw, self.hosts);
        }
        let first = topology.clone();
        let steps = self.steps.iter().map(|step| {
            let changes =
                step.changes.iter().filter_map(|raw| change(&mut topology, raw, self.hosts)).collect();
            let actions = step.actions.iter().filter_map(|raw| raw.settle(&topology, self.hosts)).collect();
            Step { changes, actions }
        });
        let steps = steps.collect();
        Case { topology: first, steps }
    }
}

/// Adds what of this container makes sense; the change that does it.
fn add(topology: &mut Topology, slot: usize, raw: &RawContainer, hosts: usize) -> Option<Change> {
    let host = raw.host % hosts;
    let available = (0..topology.networks.len()).filter(|number| topology.networks[*number].is_on(host));
    let available: Vec<usize> = available.collect();
    let mut networks: Vec<usize> = available.iter().copied().filter(|number| raw.networks[*number]).collect();
    if networks.is_empty() {
        networks.push(*available.first()?);
    }
    let empty = Container { host, networks, ports: Vec::new() };
    if !topology.apply(&Change::Add(slot, empty)) {
        return None;
    }
    for publication in &raw.ports {
        topology.apply(&Change::Publish(slot, *publication));
    }
    Some(Change::Add(slot, topology.container(slot)?.clone()))
}

fn change(topology: &mut Topology, raw: &RawChange, hosts: usize) -> Option<Change> {
    let change = match raw {
        RawChange::Toggle(slot, container) if topology.container(*slot).is_none() => {
            return add(topology, *slot, container, hosts);
        }
        RawChange::Toggle(slot, _) => Change::Remove(*slot),
        RawChange::Publish(slot, publication) => Change::Publish(*slot, *publication),
        RawChange::Unpublish(slot, index) => {
            Change::Unpublish(*slot, *topology.container(*slot)?.ports.get(*index)?)
        }
    };
    topology.apply(&change).then_some(change)
}

impl RawAction {
    fn settle(&self, topology: &Topology, hosts: usize) -> Option<Action> {
        let mut places = vec![Place::Client];
        places.extend(topology.present().map(|(slot, _)| Place::Container(slot)));
        places.extend((0..hosts).map(Place::Host));
        let from = places[self.from % places.len()];
        let protocol = if matches!(self.what, What::Tcp { .. }) { Protocol::Tcp } else { Protocol::Udp };
        let target = |raw: &RawTarget| raw.settle(topology, hosts, protocol);
        let (first, size) = self.to.first()?;
        let family = self.family_for(topology, from, target(first)?.address);
        Some(match self.what {
            What::Tcp { send, receive, close } => {
                Action::Tcp { from, family, to: target(first)?, send, receive, close }
            }
            What::Udp { source } => {
                let to = self.to.iter().filter_map(|(raw, size)| Some((target(raw)?, *size)));
                let to: Vec<_> = to.filter(|(to, _)| topology.has(to.address, family)).collect();
                // One socket tells answers apart by where they come from.
                let mut distinct: Vec<(Target, u16)> = Vec::new();
                for (target, size) in to {
                    if !distinct.iter().any(|(known, _)| *known == target) {
                        distinct.push((target, size));
                    }
                }
                Action::Udp { from, family, source, to: (!distinct.is_empty()).then_some(distinct)? }
            }
            What::Ping => Action::Ping { from, family, to: target(first)?.address, size: *size },
        })
    }
}

impl RawAction {
    /// The family that was drawn, unless there is only the other one at the target, or at the sender.
    fn family_for(&self, topology: &Topology, from: Place, to: Address) -> Family {
        let has = |family| {
            let sends = match from {
                Place::Container(slot) => topology.container(slot).is_none_or(|container| {
                    container.networks.iter().any(|network| topology.networks[*network].families.has(family))
                }),
                Place::Client | Place::Host(_) => true,
            };
            [topology.has(to, family), sends]
        };
        let [wanted, other] = [self.family, self.family.other()];
        match (has(wanted), has(other)) {
            ([false, _], _) | ([true, false], [true, true]) => other,
            _ => wanted,
        }
    }
}

impl RawTarget {
    fn settle(&self, topology: &Topology, hosts: usize, protocol: Protocol) -> Option<Target> {
        let pick = |ports: &[u16]| ports[self.port % ports.len()];
        let of_container = [OPEN_PORTS[0], OPEN_PORTS[1], OPEN_PORTS[2], CLOSED_PORT];
        // The addresses of all hosts: uplinks, then gateways.
        let addresses = || {
            let gateways = (0..topology.networks.len()).map(Address::Gateway);
            (0..hosts).map(Address::Uplink).chain(gateways).collect::<Vec<_>>()
        };
        let published = || -> Vec<(usize, Publication)> {
            let all =
                topology.present().flat_map(|(_, it)| it.ports.iter().map(move |port| (it.host, *port)));
            all.filter(|(_, publication)| publication.protocol == protocol).collect()
        };
        Some(match self.kind {
            TargetKind::Published => {
                let all = published();
                let (host, publication) = all.get(self.which % all.len().max(1))?;
                let port = publication.host_port + self.port as u16 % publication.count;
                let address = match publication.binding {
                    Binding::Loopback => Address::Loopback,
                    _ => Address::Uplink(*host),
                };
                Target { address, port }
            }
            TargetKind::Host => {
                let addresses = addresses();
                let mut ports: Vec<u16> = published().iter().map(|(_, it)| it.host_port).collect();
                ports.extend([OPEN_PORTS[0], CLOSED_PORT]);
                Target { address: addresses[self.which % addresses.len()], port: pick(&ports) }
            }
            TargetKind::Loopback => {
                let mut ports: Vec<u16> = published().iter().map(|(_, it)| it.host_port).collect();
                ports.push(OPEN_PORTS[0]);
                Target { address: Address::Loopback, port: pick(&ports) }
            }
            TargetKind::Container => {
                let all: Vec<Address> = topology
                    .present()
                    .flat_map(|(slot, it)| it.networks.iter().map(move |net| Address::Container(slot, *net)))
                    .collect();
                let address = *all.get(self.which % all.len().max(1))?;
                Target { address, port: pick(&of_container) }
            }
            TargetKind::Client => Target { address: Address::Client, port: pick(&of_container) },
        })
    }
}
