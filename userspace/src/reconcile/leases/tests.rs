//! Tests of the choices as a whole: kept where they can be, unique always.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{
        Attachment, Container, ContainerNamespace, Driver, HostPorts, Network, Peer, Protocol, Publication,
        RemoteEndpoint, Subnet,
    },
    netdev::{NamespaceIdentity, NamespaceRef},
    reconcile::resolved::{EndpointId, ResolvedNetwork},
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn network(subnet: Option<&str>) -> Network {
    let subnets = subnet.and_then(|text| text.parse().ok()).map(|range| Subnet {
        range,
        gateway: None,
        lease_range: None,
        reserved: Vec::new(),
    });
    Network {
        driver: Driver::Bridge,
        enable_ipv4: true,
        enable_ipv6: false,
        subnets: subnets.into_iter().collect(),
        policy: Default::default(),
        mtu: None,
        bridge_name: None,
        host_binding: None,
    }
}

fn container(networks: &[&str]) -> Container {
    Container {
        namespace: ContainerNamespace::Named("somewhere".into()),
        attachments: networks.iter().map(|name| ((*name).to_owned(), Attachment::default())).collect(),
        publications: Vec::new(),
        hostname: None,
        links: Vec::new(),
    }
}

fn publication(host_ports: HostPorts, container_port: u16) -> Publication {
    Publication {
        protocol: Protocol::Tcp,
        host_address: None,
        host_ports,
        container_ports: PortRange::single(container_port),
    }
}

fn facts() -> LeaseFacts {
    LeaseFacts {
        host_routes: Vec::new(),
        namespaces: BTreeMap::new(),
        ephemeral_ports: PortRange { first: 32768, last: 60999 },
        bound_ports: PerProtocol::default(),
    }
}

fn found(cookie: u64) -> FoundNamespace {
    FoundNamespace {
        reference: NamespaceRef::Named("somewhere".into()),
        identity: NamespaceIdentity { device: 4, inode: cookie },
        cookie,
    }
}

fn address(state: &ResolvedState, container: &str, network: &str) -> Option<IpAddr> {
    let id = EndpointId { container: container.into(), network: network.into() };
    state.endpoints.get(&id).and_then(|endpoint| Some(endpoint.addresses.v4?.ip()))
}

/// The IPv4 range of a network.
fn range(network: &ResolvedNetwork) -> IpNetwork {
    network.subnets.v4.expect("every network here has IPv4").range
}

fn declared(networks: &[(&str, Option<&str>)], containers: &[(&str, &[&str])]) -> DesiredState {
    DesiredState {
        networks: networks.iter().map(|(name, subnet)| ((*name).to_owned(), network(*subnet))).collect(),
        containers: containers.iter().map(|(name, of)| ((*name).to_owned(), container(of))).collect(),
        ..DesiredState::default()
    }
}

#[test]
fn a_container_that_comes_back_has_its_address_and_mac() -> TestResult {
    let both = declared(&[("front", Some("10.10.0.0/24"))], &[("a", &["front"]), ("b", &["front"])]);
    let one = declared(&[("front", Some("10.10.0.0/24"))], &[("b", &["front"])]);
    let mut leases = Leases::new(1);
    let first = resolve(&both, &mut leases, &facts());
    assert_eq!(first.problems, []);
    assert_eq!(address(&first, "a", "front"), Some(IpAddr::from(Ipv4Addr::new(10, 10, 0, 2))));
    assert_eq!(address(&first, "b", "front"), Some(IpAddr::from(Ipv4Addr::new(10, 10, 0, 3))));
    resolve(&one, &mut leases, &facts());
    let kept: Leases = serde_json::from_str(&serde_json::to_string(&leases)?)?;
    leases = kept;
    assert_eq!(resolve(&both, &mut leases, &facts()), first);
    Ok(())
}

#[test]
fn a_new_namespace_is_a_new_container() {
    let desired = declared(&[("front", Some("10.10.0.0/24"))], &[("a", &["front"])]);
    let mut leases = Leases::new(1);
    let mut with = facts();
    let mut epochs = Vec::new();
    for cookie in [7, 7, 8, 7] {
        with.namespaces.insert("a".into(), found(cookie));
        let state = resolve(&desired, &mut leases, &with);
        epochs.extend(state.endpoints.values().map(|endpoint| endpoint.epoch));
    }
    assert_eq!(epochs, [1, 1, 2, 3], "an epoch is never used again, not even for a namespace seen before");
}

#[test]
fn a_given_address_is_respected_and_never_leased() {
    let mut desired = declared(&[("front", Some("10.10.0.0/29"))], &[("a", &["front"]), ("b", &["front"])]);
    if let Some(attachment) = desired.containers.get_mut("b").and_then(|b| b.attachments.get_mut("front")) {
        attachment.ipv4_address = Some(Ipv4Addr::new(10, 10, 0, 2));
    }
    let mut leases = Leases::new(1);
    let state = resolve(&desired, &mut leases, &facts());
    assert_eq!(address(&state, "a", "front"), Some(IpAddr::from(Ipv4Addr::new(10, 10, 0, 3))));
    // A third one asks for the address that "a" runs with.
    let mut newcomer = container(&["front"]);
    if let Some(attachment) = newcomer.attachments.get_mut("front") {
        attachment.ipv4_address = Some(Ipv4Addr::new(10, 10, 0, 3));
    }
    desired.containers.insert("c".into(), newcomer);
    let state = resolve(&desired, &mut leases, &facts());
    assert_eq!(address(&state, "a", "front"), Some(IpAddr::from(Ipv4Addr::new(10, 10, 0, 3))));
    assert_eq!(address(&state, "c", "front"), None);
    assert!(state.problems.iter().any(|problem| problem.reason.contains("leased to container a")));
    // Once "a" is gone, it may have it.
    desired.containers.remove("a");
    let state = resolve(&desired, &mut leases, &facts());
    assert_eq!(address(&state, "c", "front"), Some(IpAddr::from(Ipv4Addr::new(10, 10, 0, 3))));
}

#[test]
fn a_full_network_takes_back_what_absent_containers_keep() {
    let mut leases = Leases::new(1);
    // /29: six addresses, one is the gateway's.
    let names: Vec<String> = (0..5).map(|number| format!("old{number}")).collect();
    let old: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &["front"] as &[&str])).collect();
    resolve(&declared(&[("front", Some("10.10.0.0/29"))], &old), &mut leases, &facts());
    let state =
        resolve(&declared(&[("front", Some("10.10.0.0/29"))], &[("new", &["front"])]), &mut leases, &facts());
    assert!(address(&state, "new", "front").is_some());
    let mut full = old.clone();
    full.push(("new", &["front"]));
    let state = resolve(&declared(&[("front", Some("10.10.0.0/29"))], &full), &mut leases, &facts());
    assert_eq!(state.endpoints.len(), 5);
    assert!(state.problems.iter().any(|problem| problem.reason.contains("no address is left")));
}

#[test]
fn subnets_avoid_routes_and_one_another() -> TestResult {
    let mut with = facts();
    with.host_routes.push("172.17.0.0/16".parse()?);
    let mut leases = Leases::new(1);
    let desired = declared(&[("a", None), ("b", None), ("c", Some("172.18.3.0/24"))], &[]);
    let state = resolve(&desired, &mut leases, &with);
    let subnets: Vec<String> = state.networks.values().map(|network| range(network).to_string()).collect();
    assert_eq!(subnets, ["172.19.0.0/16", "172.20.0.0/16", "172.18.3.0/24"]);
    with.host_routes.clear();
    assert_eq!(resolve(&desired, &mut leases, &with), state, "a chosen subnet stays");
    Ok(())
}

#[test]
fn a_newcomer_is_refused_the_subnet_that_a_network_runs_with() {
    let mut leases = Leases::new(1);
    let before = resolve(&declared(&[("mid", None)], &[("web", &["mid"])]), &mut leases, &facts());
    let chosen = range(&before.networks["mid"]);
    // One that is read before it and one that is read after it.
    for newcomer in ["early", "zone"] {
        let subnet = chosen.to_string();
        let both = [("mid", None), (newcomer, Some(subnet.as_str()))];
        let state = resolve(&declared(&both, &[("web", &["mid"])]), &mut leases, &facts());
        assert_eq!(state.networks.get("mid"), before.networks.get("mid"));
        assert_eq!(state.endpoints, before.endpoints);
        assert!(!state.networks.contains_key(newcomer));
        let refused: Vec<&str> = state.problems.iter().map(|problem| problem.object.as_str()).collect();
        assert_eq!(refused, [format!("network {newcomer}")]);
    }
    // A subnet that it once leased, and no longer uses, is free.
    let subnet = chosen.to_string();
    let moved = [("early", Some(subnet.as_str())), ("mid", Some("10.10.0.0/24"))];
    assert_eq!(resolve(&declared(&moved, &[]), &mut leases, &facts()).problems, []);
    let back = [("early", Some(subnet.as_str())), ("mid", None)];
    let state = resolve(&declared(&back, &[]), &mut leases, &facts());
    assert_eq!(state.problems, []);
    assert_eq!(range(&state.networks["early"]), chosen);
}

#[test]
fn overlay_members_have_dockers_macs_and_avoid_remote_addresses() -> TestResult {
    let mut desired = declared(&[("mesh", Some("10.20.0.0/24"))], &[("web", &["mesh"])]);
    if let Some(mesh) = desired.networks.get_mut("mesh") {
        mesh.driver = Driver::Overlay { vni: 4097 };
    }
    desired.peers.push(Peer {
        vtep: "192.0.2.2".parse()?,
        network: "mesh".into(),
        endpoints: vec![RemoteEndpoint {
            name: "db".into(),
            address: "10.20.0.2".parse()?,
            mac_address: "02:42:0a:14:00:02".parse()?,
        }],
    });
    let state = resolve(&desired, &mut Leases::new(1), &facts());
    let web = state.endpoints.values().next().ok_or("no endpoint")?;
    assert_eq!(web.addresses.v4, Some("10.20.0.3/24".parse()?));
    assert_eq!(web.mac.to_string(), "02:42:0a:14:00:03");
    assert_eq!(state.peers.len(), 1);
    assert_eq!(state.remotes.len(), 1);
    Ok(())
}

#[test]
fn the_default_route_follows_docker() {
    let mut desired = declared(
        &[("a", Some("10.1.0.0/24")), ("b", Some("10.2.0.0/24")), ("c", Some("10.3.0.0/24"))],
        &[("web", &["a", "b", "c"])],
    );
    if let Some(a) = desired.networks.get_mut("a") {
        a.policy.internal = true;
    }
    let default = |desired: &DesiredState| -> Vec<String> {
        let state = resolve(desired, &mut Leases::new(1), &facts());
        let chosen = state.endpoints.iter().filter(|(_, endpoint)| endpoint.default_route);
        chosen.map(|(id, endpoint)| format!("{} {}", id.network, endpoint.interface)).collect()
    };
    assert_eq!(default(&desired), ["b eth1"]);
    if let Some(c) = desired.containers.get_mut("web").and_then(|web| web.attachments.get_mut("c")) {
        c.gateway_priority = 5;
    }
    assert_eq!(default(&desired), ["c eth2"]);
}

#[test]
fn a_running_interface_keeps_its_name() {
    let networks = [("a", Some("10.1.0.0/24")), ("b", Some("10.2.0.0/24"))];
    let names = |state: &ResolvedState| -> Vec<String> {
        state
            .endpoints
            .iter()
            .map(|(id, endpoint)| format!("{} {}", id.network, endpoint.interface))
            .collect()
    };
    let mut leases = Leases::new(1);
    let mut with = facts();
    with.namespaces.insert("web".into(), found(7));
    let state = resolve(&declared(&networks, &[("web", &["b"])]), &mut leases, &with);
    assert_eq!(names(&state), ["b eth0"]);
    let both = declared(&networks, &[("web", &["a", "b"])]);
    assert_eq!(names(&resolve(&both, &mut leases, &with)), ["a eth1", "b eth0"]);
    // A new namespace has nothing to disturb: by name again.
    with.namespaces.insert("web".into(), found(8));
    assert_eq!(names(&resolve(&both, &mut leases, &with)), ["a eth0", "b eth1"]);
    // What was given up is free for the next.
    resolve(&declared(&networks, &[("web", &["b"])]), &mut leases, &with);
    assert_eq!(names(&resolve(&both, &mut leases, &with)), ["a eth0", "b eth1"]);
}

#[test]
fn open_host_ports_are_chosen_once_and_avoid_processes() {
    let mut desired = declared(&[("front", None)], &[("a", &["front"]), ("b", &["front"])]);
    let range = PortRange { first: 8000, last: 8002 };
    for name in ["a", "b"] {
        if let Some(found) = desired.containers.get_mut(name) {
            found.publications =
                vec![publication(HostPorts::OneOf(range), 80), publication(HostPorts::Any, 81)];
        }
    }
    let mut leases = Leases::new(1);
    let mut with = facts();
    with.bound_ports.tcp = [PortRange::single(8000)].into_iter().collect();
    let state = resolve(&desired, &mut leases, &with);
    let ports = |state: &ResolvedState| -> Vec<u16> {
        let mut ports: Vec<u16> = state.publications.iter().map(|found| found.host_ports.first).collect();
        ports.sort_unstable();
        ports
    };
    let chosen = ports(&state);
    assert_eq!(chosen[..2], [8001, 8002]);
    assert!(chosen[2..].iter().all(|port| (32768..=60999).contains(port)));
    with.bound_ports = PerProtocol::default();
    assert_eq!(ports(&resolve(&desired, &mut leases, &with)), chosen);
}

#[test]
fn the_second_holder_of_a_port_is_refused() {
    let mut desired = declared(&[("front", None)], &[("a", &["front"]), ("b", &["front"])]);
    for name in ["a", "b"] {
        if let Some(found) = desired.containers.get_mut(name) {
            found.publications = vec![publication(HostPorts::Exactly(PortRange::single(8080)), 80)];
        }
    }
    let state = resolve(&desired, &mut Leases::new(1), &facts());
    assert_eq!(state.publications.len(), 1);
    assert!(
        state
            .problems
            .iter()
            .any(|problem| problem.reason.contains("container a already publishes 8080/tcp"))
    );
}

#[test]
fn both_families_are_leased_and_kept() -> TestResult {
    let mut desired = declared(&[("front", None)], &[("a", &["front"]), ("b", &["front"])]);
    if let Some(front) = desired.networks.get_mut("front") {
        front.enable_ipv6 = true;
    }
    if let Some(a) = desired.containers.get_mut("a") {
        a.publications = vec![publication(HostPorts::Exactly(PortRange::single(8080)), 80)];
    }
    let mut leases = Leases::new(1);
    let state = resolve(&desired, &mut leases, &facts());
    assert_eq!(state.problems, []);
    let subnet = state.networks["front"].subnets.v6.ok_or("no IPv6 subnet")?;
    assert_eq!((subnet.range.prefix(), subnet.range.contains(subnet.gateway)), (64, true));
    let hosts: Vec<u16> = state
        .endpoints
        .values()
        .filter_map(|endpoint| match endpoint.addresses.v6?.ip() {
            IpAddr::V6(address) => Some(address.segments()[7]),
            IpAddr::V4(_) => None,
        })
        .collect();
    assert_eq!(hosts, [2, 3]);
    let sides: Vec<String> = state.publications.iter().map(|found| found.host_side()).collect();
    assert_eq!(sides, ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]);
    let kept: Leases = serde_json::from_str(&serde_json::to_string(&leases)?)?;
    assert_eq!(resolve(&desired, &mut kept.clone(), &facts()), state);
    // Without IPv4 the IPv6 part stays what it is.
    if let Some(front) = desired.networks.get_mut("front") {
        front.enable_ipv4 = false;
    }
    let without = resolve(&desired, &mut leases, &facts());
    assert_eq!(without.networks["front"].subnets, PerFamily { v4: None, v6: Some(subnet) });
    for (id, endpoint) in &without.endpoints {
        assert_eq!(endpoint.addresses, PerFamily { v4: None, ..state.endpoints[id].addresses });
    }
    assert_eq!(
        without.publications.iter().map(|found| found.host_side()).collect::<Vec<_>>(),
        ["[::]:8080/tcp"]
    );
    Ok(())
}

#[test]
fn leases_of_an_earlier_version_are_read() -> TestResult {
    let text = r#"{"address":"10.10.0.2","mac":"02:00:00:00:00:01","epoch":1,"namespace_cookie":null,"interface":0}"#;
    let lease: EndpointLease = serde_json::from_str(text)?;
    assert_eq!(lease.addresses(), PerFamily { v4: Some("10.10.0.2".parse()?), v6: None });
    Ok(())
}

#[test]
fn a_port_for_a_family_that_the_container_has_not_is_refused() -> TestResult {
    let mut desired = declared(&[("front", None)], &[("a", &["front"])]);
    if let Some(a) = desired.containers.get_mut("a") {
        let mut wanted = publication(HostPorts::Exactly(PortRange::single(8080)), 80);
        wanted.host_address = Some("::".parse()?);
        a.publications = vec![wanted];
    }
    let state = resolve(&desired, &mut Leases::new(1), &facts());
    assert!(state.publications.is_empty());
    assert!(
        state.problems.iter().any(|problem| problem.reason.contains("no IPv6 address")),
        "{:?}",
        state.problems
    );
    Ok(())
}

proptest! {
    /// Whatever comes and goes: no two members of a network share an address, MAC or epoch, and who stays keeps
    /// what he has.
    #[test]
    fn choices_are_unique_and_stable(rounds in prop::collection::vec(prop::collection::btree_set(0_u8..12, 0..12), 1..12)) {
        let mut leases = Leases::new(42);
        let mut before: HashMap<EndpointId, (PerFamily<IpNetwork>, u32)> = HashMap::new();
        for members in rounds {
            let names: Vec<String> = members.iter().map(|number| format!("c{number}")).collect();
            let containers: Vec<(&str, &[&str])> =
                names.iter().map(|name| (name.as_str(), &["x", "y"] as &[&str])).collect();
            let mut desired = declared(&[("x", Some("10.0.0.0/28")), ("y", None)], &containers);
            desired.networks.get_mut("y").into_iter().for_each(|y| y.enable_ipv6 = true);
            let state = resolve(&desired, &mut leases, &facts());
            prop_assert!(state.problems.is_empty(), "{:?}", state.problems);
            let mut addresses = HashSet::new();
            let mut epochs = HashSet::new();
            let mut now = HashMap::new();
            for (id, endpoint) in &state.endpoints {
                let network = &state.networks[&id.network];
                prop_assert!(endpoint.addresses.iter().all(|address| addresses.insert(*address)));
                prop_assert!(epochs.insert(endpoint.epoch));
                for (address, subnet) in endpoint.addresses.iter().zip(network.subnets.iter()) {
                    prop_assert!(subnet.range.contains(address.ip()));
                    prop_assert_ne!(address.ip(), subnet.gateway);
                }
                prop_assert_eq!(endpoint.addresses.v6.is_some(), id.network == "y");
                if let Some(old) = before.get(id) {
                    prop_assert_eq!(old, &(endpoint.addresses, endpoint.epoch));
                }
                now.insert(id.clone(), (endpoint.addresses, endpoint.epoch));
            }
            before = now;
        }
    }
}
