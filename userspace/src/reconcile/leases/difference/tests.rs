//! A difference is what a whole resolution would be.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Attachment, Driver, MacAddress, Network, Policy, PortRange, Protocol, Publication, Subnet},
    netdev::{NamespaceIdentity, NamespaceRef},
    reconcile::{
        facts::{DeviceFact, KernelFacts},
        leases::{journal::Entry, prune, resolve},
        names, ports,
        tables::{Tables, build, difference::Difference},
    },
};

const NETWORKS: [&str; 3] = ["back", "front", "mesh"];

/// One change of the files or of the host.
#[derive(Debug, Clone)]
enum Step {
    Container {
        index: usize,
        container: Container,
    },
    Remove {
        index: usize,
    },
    Namespace {
        index: usize,
        cookie: Option<u64>,
    },
    Internal {
        network: usize,
    },
    Network {
        network: usize,
    },
    /// A process of the host takes a port.
    Hold {
        port: u16,
    },
    /// The processes that hold ports end.
    Exit,
    /// As at a full round, so many days later.
    Prune {
        days: u64,
    },
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let address = proptest::option::weighted(0.3, 1_u8..14);
    let mac = proptest::option::weighted(0.1, any::<[u8; 6]>());
    (address, mac, -1_i32..2).prop_map(|(address, mac, gateway_priority)| Attachment {
        // Completed with the network's part.
        ipv4_address: address.map(|host| Ipv4Addr::new(10, 0, 0, host)),
        mac_address: mac.map(MacAddress),
        gateway_priority,
        ..Attachment::default()
    })
}

fn publication() -> impl Strategy<Value = Publication> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    let address = proptest::option::weighted(0.2, Just(Ipv4Addr::new(192, 0, 2, 1).into()));
    let host_ports = prop_oneof![
        60 => (1_u16..60, 0_u16..4)
            .prop_map(|(first, more)| HostPorts::Exactly(PortRange { first, last: first + more })),
        3 => Just(HostPorts::Any),
        3 => (1_u16..60, 0_u16..4)
            .prop_map(|(first, more)| HostPorts::OneOf(PortRange { first, last: first + more })),
    ];
    (protocol, address, host_ports).prop_map(|(protocol, host_address, host_ports)| Publication {
        protocol,
        host_address,
        host_ports,
        container_ports: match host_ports {
            HostPorts::Exactly(ports) => ports,
            _ => PortRange::single(80),
        },
    })
}

fn container() -> impl Strategy<Value = Container> {
    let attachments = proptest::collection::vec(proptest::option::of(attachment()), NETWORKS.len());
    // Twice the same open port have one lease, which leads from the one to the other and back in whole resolutions.
    let publications =
        proptest::collection::vec(publication(), 0..3).prop_filter("twice the same", |ports| {
            let mut seen = HashSet::new();
            ports.iter().all(|port| seen.insert(format!("{port:?}")))
        });
    let namespace = prop_oneof![
        20 => Just(ContainerNamespace::Named("somewhere".into())),
        1 => Just(ContainerNamespace::SharedWith("c0".into())),
        1 => Just(ContainerNamespace::Host),
    ];
    (attachments, publications, namespace).prop_map(|(attachments, publications, namespace)| Container {
        namespace,
        attachments: NETWORKS
            .iter()
            .enumerate()
            .zip(attachments)
            .filter_map(|((number, name), attachment)| {
                let mut attachment = attachment?;
                attachment.ipv4_address = attachment.ipv4_address.map(|address| {
                    let [.., host] = address.octets();
                    Ipv4Addr::new(10, number as u8, 0, host)
                });
                Some(((*name).to_owned(), attachment))
            })
            .collect(),
        publications,
        hostname: None,
        links: Vec::new(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_usize..10, container()).prop_map(|(index, container)| Step::Container { index, container }),
        5 => (0_usize..10).prop_map(|index| Step::Remove { index }),
        3 => (0_usize..10, proptest::option::weighted(0.8, 1_u64..4))
            .prop_map(|(index, cookie)| Step::Namespace { index, cookie }),
        1 => (0_usize..3).prop_map(|network| Step::Internal { network }),
        1 => (0_usize..3).prop_map(|network| Step::Network { network }),
        4 => (1_u16..60).prop_map(|port| Step::Hold { port }),
        2 => Just(Step::Exit),
        2 => (0_u64..5).prop_map(|days| Step::Prune { days }),
    ]
}

fn network(number: usize) -> Network {
    let subnet = Subnet {
        // Small ones are soon full.
        range: format!("10.{number}.0.0/28").parse().expect("a literal"),
        gateway: None,
        lease_range: None,
        reserved: vec![Ipv4Addr::new(10, number as u8, 0, 9).into()],
    };
    Network {
        driver: if number == 2 { Driver::Overlay { vni: 7 } } else { Driver::Bridge },
        enable_ipv4: true,
        // With a leased subnet.
        enable_ipv6: number != 0,
        subnets: vec![subnet],
        policy: Policy { internal: number == 0, ..Policy::default() },
        mtu: None,
        bridge_name: None,
        host_binding: None,
    }
}

fn name(index: usize) -> String {
    format!("c{index}")
}

fn facts(cookies: &BTreeMap<String, u64>, desired: &DesiredState) -> LeaseFacts {
    let found = |(name, cookie): (&String, &u64)| {
        let found = FoundNamespace {
            reference: NamespaceRef::Named(name.clone()),
            identity: NamespaceIdentity { device: 4, inode: *cookie },
            cookie: *cookie,
        };
        (name.clone(), found)
    };
    LeaseFacts {
        host_routes: Vec::new(),
        namespaces: cookies
            .iter()
            .filter(|(name, _)| desired.containers.contains_key(*name))
            .map(found)
            .collect(),
        ephemeral_ports: PortRange { first: 40, last: 50 },
        bound_ports: PerProtocol::default(),
    }
}

/// What the kernel would have made of a state.
fn kernel_facts(state: &ResolvedState) -> KernelFacts {
    let device = |name: &str, salt: u64| DeviceFact {
        ifindex: names::stable_hash(salt, &[name]) as u32,
        mtu: 1500,
        mac: MacAddress([2; 6]),
        takes_xdp: false,
    };
    KernelFacts {
        bridges: state
            .networks
            .iter()
            .map(|(name, network)| (name.clone(), device(&network.bridge, 0)))
            .collect(),
        // One that is not there without its namespace, and a new one in each.
        veths: state
            .endpoints
            .iter()
            .filter_map(|(id, endpoint)| {
                let cookie = endpoint.namespace.as_ref()?.cookie;
                Some((id.clone(), device(&endpoint.device, cookie)))
            })
            .collect(),
        ..KernelFacts::default()
    }
}

/// Ports that processes of the host hold, and publications that were served before they came and stay so (`ports.rs`).
#[derive(Debug, Default)]
struct Processes {
    held: BTreeSet<u16>,
    served: HashSet<String>,
}

impl Processes {
    fn decide(&mut self, state: &ResolvedState) {
        let declared: HashSet<String> = state.publications.iter().map(ports::key).collect();
        self.served.retain(|known| declared.contains(known));
        for publication in &state.publications {
            let PortRange { first, last } = publication.host_ports;
            if self.held.range(first..=last).next().is_none() {
                self.served.insert(ports::key(publication));
            }
        }
    }

    fn serves(&self, publication: &ResolvedPublication) -> bool {
        self.served.contains(&ports::key(publication))
    }
}

fn tables_of(state: &ResolvedState, processes: &Processes) -> Tables {
    let served = state.publications.iter().filter(|publication| processes.serves(publication));
    build(state, &served.collect::<Vec<_>>(), &kernel_facts(state))
}

/// Applies steps in both ways and compares after each; answers how many were patched.
fn compare(rounds: Vec<Vec<Step>>) -> Result<usize, TestCaseError> {
    let mut desired = DesiredState::default();
    for (number, name) in NETWORKS.iter().enumerate() {
        desired.networks.insert((*name).to_owned(), network(number));
    }
    let mut cookies = BTreeMap::new();
    let (mut leases, mut whole_leases) = (Leases::new(7), Leases::new(7));
    let mut state = resolve(&desired, &mut leases, &facts(&cookies, &desired));
    resolve(&desired, &mut whole_leases, &facts(&cookies, &desired));
    let mut index = Some(Index::new(&desired, &leases, &state));
    let mut processes = Processes::default();
    let mut tables = tables_of(&state, &processes);
    let mut patched = 0;
    let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
    for steps in rounds {
        let before = desired.clone();
        // Who has a problem of its own is tried again each time.
        let refused = state.publications.iter().filter(|publication| !processes.serves(publication));
        let mut touched: BTreeSet<String> = refused.map(|refused| refused.container.clone()).collect();
        let mut pruned = false;
        for step in steps {
            match step {
                Step::Container { index, container } => {
                    touched.insert(name(index));
                    desired.containers.insert(name(index), container);
                }
                Step::Remove { index } => {
                    touched.insert(name(index));
                    desired.containers.remove(&name(index));
                }
                Step::Namespace { index, cookie } => {
                    touched.insert(name(index));
                    // Each is one of its own.
                    match cookie {
                        Some(cookie) => cookies.insert(name(index), cookie * 100 + index as u64),
                        None => cookies.remove(&name(index)),
                    };
                }
                Step::Internal { network } => {
                    if let Some(network) = desired.networks.get_mut(NETWORKS[network]) {
                        network.policy.internal = !network.policy.internal;
                    }
                }
                Step::Network { network: number } => {
                    let name = NETWORKS[number];
                    if desired.networks.remove(name).is_none() {
                        desired.networks.insert(name.to_owned(), network(number));
                    }
                }
                Step::Hold { port } => drop(processes.held.insert(port)),
                Step::Exit => processes.held.clear(),
                Step::Prune { days } => {
                    now += Duration::from_secs(days * 24 * 3600);
                    pruned = true;
                }
            }
        }
        let facts = facts(&cookies, &desired);
        let whole = resolve(&desired, &mut whole_leases, &facts);
        processes.decide(&whole);
        let same_networks = before.networks == desired.networks;
        let known = index.take().filter(|_| same_networks);
        let untouched = (state.clone(), leases.clone());
        index = known.and_then(|mut index| {
            let namespaces = &facts.namespaces;
            let done = patch(&before, &desired, &touched, namespaces, &mut leases, &mut state, &mut index);
            match done {
                Some(patched) => {
                    let of_touched = state.publications.iter().filter(|it| touched.contains(&it.container));
                    assert!(of_touched.eq(&patched.publications), "in the order of the state");
                    let (state_before, kept) = &untouched;
                    let mut undone = state.clone();
                    patched.clone().undo(&touched, &mut undone);
                    assert_eq!(&undone, state_before, "undone");
                    let facts_before = kernel_facts(state_before);
                    let devices: Vec<u32> = patched
                        .endpoints_before
                        .keys()
                        .filter_map(|id| Some(facts_before.veths.get(id)?.ifindex))
                        .collect();
                    let others = index.published_by_others(&patched, &touched);
                    let kernel = kernel_facts(&state);
                    let served =
                        patched.publications.iter().filter(|publication| processes.serves(publication));
                    Difference::new(&tables, &patched, &devices, &state, served, &others, &kernel)
                        .enter(&mut tables);
                    let mut kept = kept.clone();
                    let entry = Entry::new(&leases, &kept, &touched, &state);
                    let same = entry.is_kept(&kept);
                    entry.apply(&mut kept);
                    assert_eq!(kept, leases, "what is kept");
                    assert_eq!(same, untouched.1 == leases);
                    Some(index)
                }
                None => {
                    assert_eq!((&state, &leases), (&untouched.0, &untouched.1), "nothing was changed");
                    None
                }
            }
        });
        if index.is_some() {
            patched += 1;
        } else {
            state = resolve(&desired, &mut leases, &facts);
            index = Some(Index::new(&desired, &leases, &state));
            tables = tables_of(&state, &processes);
        }
        prop_assert_eq!(&tables, &tables_of(&whole, &processes));
        prop_assert_eq!(&state, &whole);
        prop_assert_eq!(&leases, &whole_leases);
        if pruned {
            // After the difference here, for a full round is a whole one; it is the leases that must not differ.
            prune(&mut leases, &desired, now, |_| false);
            prune(&mut whole_leases, &desired, now, |_| false);
            prop_assert_eq!(&leases, &whole_leases);
            index = Some(Index::new(&desired, &leases, &state));
        }
    }
    Ok(patched)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_difference_is_what_a_whole_resolution_would_be(
        rounds in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..25)
    ) {
        compare(rounds)?;
    }
}

/// A container that comes back in a difference is gone anew when it goes again.
#[test]
fn who_comes_back_in_a_difference_is_gone_no_more() -> Result<(), TestCaseError> {
    let container = Container {
        namespace: ContainerNamespace::Named("somewhere".into()),
        attachments: BTreeMap::from([("front".to_owned(), Attachment::default())]),
        publications: Vec::new(),
        hostname: None,
        links: Vec::new(),
    };
    let mut desired = DesiredState::default();
    desired.networks.insert("front".to_owned(), network(1));
    let nobody = desired.clone();
    desired.containers.insert(name(0), container);
    let (touched, day) =
        (BTreeSet::from([name(0)]), |day: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400));
    let cookies = BTreeMap::new();
    let mut leases = Leases::new(7);
    resolve(&desired, &mut leases, &facts(&cookies, &desired));
    let lease = leases.endpoints[&name(0)].clone();
    prune(&mut leases, &nobody, day(100), |_| false);
    let mut state = resolve(&nobody, &mut leases, &facts(&cookies, &nobody));
    let mut kept = leases.clone();
    prop_assert!(kept.endpoints[&name(0)]["front"].gone_since.is_some());
    let (mut before, none) = (&nobody, BTreeMap::new());
    // It comes and goes between two full rounds.
    for now in [&desired, &nobody] {
        let mut index = Index::new(before, &leases, &state);
        let patched = patch(before, now, &touched, &none, &mut leases, &mut state, &mut index);
        prop_assert!(patched.is_some());
        Entry::new(&leases, &kept, &touched, &state).apply(&mut kept);
        prop_assert_eq!(&kept, &leases);
        before = now;
    }
    prune(&mut leases, &nobody, day(108), |_| false);
    prop_assert!(leases.endpoints.contains_key(&name(0)), "the week begins anew");
    prop_assert_eq!(lease["front"].address, leases.endpoints[&name(0)]["front"].address);
    prune(&mut leases, &nobody, day(116), |_| false);
    prop_assert!(leases.endpoints.is_empty());
    Ok(())
}

#[test]
fn one_more_container_is_a_difference() -> Result<(), TestCaseError> {
    let plain = |host: Option<u8>, port: u16| Container {
        namespace: ContainerNamespace::Named("somewhere".into()),
        attachments: BTreeMap::from([(
            "front".to_owned(),
            Attachment {
                ipv4_address: host.map(|host| Ipv4Addr::new(10, 1, 0, host)),
                ..Attachment::default()
            },
        )]),
        publications: vec![Publication {
            protocol: Protocol::Tcp,
            host_address: None,
            host_ports: HostPorts::Exactly(PortRange::single(port)),
            container_ports: PortRange::single(80),
        }],
        hostname: None,
        links: Vec::new(),
    };
    let add = |index, host, port| vec![Step::Container { index, container: plain(host, port) }];
    let rounds = vec![
        add(0, None, 80),
        add(1, Some(5), 81),
        add(2, None, 82),
        // Another address and port, and one that goes and comes back.
        add(1, Some(6), 83),
        vec![Step::Remove { index: 0 }],
        add(0, None, 80),
        add(3, None, 81),
    ];
    prop_assert_eq!(compare(rounds)?, 7);
    // Taken addresses and ports are for a whole resolution.
    let clashes =
        vec![add(0, Some(5), 80), add(1, Some(5), 81), vec![Step::Remove { index: 1 }], add(2, None, 80)];
    prop_assert_eq!(compare(clashes)?, 1);
    Ok(())
}
