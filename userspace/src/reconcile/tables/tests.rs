//! Tests of the map contents.

use super::*;
use crate::{
    model::{Driver, MacAddress as ModelMac, PortRange, Protocol},
    netdev::{NamespaceIdentity, NamespaceRef},
    reconcile::{
        facts::{DeviceFact, UplinkFact},
        resolved::{EndpointId, FoundNamespace, ResolvedPeer, ResolvedRemote, ResolvedSubnet},
    },
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn mac_of(last: u8) -> ModelMac {
    ModelMac([2, 0, 0, 0, 0, last])
}

fn id() -> EndpointId {
    EndpointId { container: "web".into(), network: "mesh".into() }
}

/// One overlay network with one container here and one behind a peer.
fn state() -> Result<ResolvedState, Box<dyn std::error::Error>> {
    let mut state = ResolvedState::default();
    let network = ResolvedNetwork {
        number: 7,
        driver: Driver::Overlay { vni: 4097 },
        subnets: PerFamily {
            v4: Some(ResolvedSubnet { range: "10.20.0.0/24".parse()?, gateway: "10.20.0.1".parse()? }),
            v6: Some(ResolvedSubnet { range: "fd00:20::/64".parse()?, gateway: "fd00:20::1".parse()? }),
        },
        policy: Default::default(),
        mtu: None,
        bridge: "br-mesh".into(),
        vxlan: Some("vx-mesh".into()),
    };
    state.networks.insert("mesh".into(), network);
    let endpoint = ResolvedEndpoint {
        network_number: 7,
        namespace: Some(FoundNamespace {
            reference: NamespaceRef::Named("web".into()),
            identity: NamespaceIdentity { device: 4, inode: 5 },
            cookie: 6,
        }),
        addresses: PerFamily { v4: Some("10.20.0.10/24".parse()?), v6: Some("fd00:20::10/64".parse()?) },
        mac: mac_of(10),
        epoch: 3,
        interface: "eth0".into(),
        device: "veth0".into(),
        default_route: true,
        published: true,
    };
    state.endpoints.insert(id(), endpoint);
    let vtep = "192.0.2.2".parse()?;
    state.peers.insert(vtep, ResolvedPeer { number: 9, networks: ["mesh".to_owned()].into() });
    state.remotes.push(ResolvedRemote {
        name: "db".into(),
        network: "mesh".into(),
        network_number: 7,
        address: "10.20.0.5".parse()?,
        mac: mac_of(5),
        vtep,
    });
    Ok(state)
}

fn facts() -> Result<KernelFacts, Box<dyn std::error::Error>> {
    let device = |ifindex, last| DeviceFact { ifindex, mtu: 1450, mac: mac_of(last), takes_xdp: false };
    Ok(KernelFacts {
        uplinks: vec![UplinkFact {
            name: "eth0".into(),
            ifindex: 2,
            mtu: 1500,
            mac: Some(mac_of(2)),
            addresses: PerFamily { v4: Some("192.0.2.1".parse()?), v6: Some("2001:db8::1".parse()?) },
            xdp: Default::default(),
        }],
        bridges: [("mesh".to_owned(), device(11, 11))].into(),
        vxlans: [("mesh".to_owned(), device(12, 12))].into(),
        veths: [(id(), device(13, 13))].into(),
        addresses: [("192.0.2.1".parse()?, 2)].into(),
        peer_uplinks: [("192.0.2.2".parse()?, 2)].into(),
        vtep: Some("192.0.2.1".parse()?),
        forwarding: true,
        forwarding_v6: true,
        bound: PerProtocol { tcp: "22".parse()?, udp: "68".parse()?, sctp: "2905".parse()? },
        reserved: "9000-9001".parse()?,
        ..KernelFacts::default()
    })
}

fn publication(
    protocol: Protocol,
    first: u16,
    last: u16,
) -> Result<ResolvedPublication, Box<dyn std::error::Error>> {
    Ok(ResolvedPublication {
        container: "web".into(),
        endpoint: id(),
        network_number: 7,
        address: "10.20.0.10".parse()?,
        protocol,
        host_address: "0.0.0.0".parse()?,
        host_ports: PortRange { first, last },
        container_ports: PortRange { first: 80, last: 80 + (last - first) },
    })
}

fn address(text: &str) -> Result<Address, std::net::AddrParseError> {
    Ok(text.parse::<IpAddr>()?.into())
}

#[test]
fn every_device_has_its_role() -> TestResult {
    let tables = build(&state()?, &[], &facts()?);
    let roles: Vec<(u32, u32)> = {
        let mut roles: Vec<_> =
            tables.devices.iter().map(|(ifindex, device)| (*ifindex, device.role)).collect();
        roles.sort_unstable();
        roles
    };
    use DeviceRole as Role;
    assert_eq!(roles, [(2, Role::UPLINK), (11, Role::BRIDGE), (12, Role::VXLAN), (13, Role::CONTAINER)]);
    let container = &tables.devices[&13];
    assert_eq!(container.address, address("10.20.0.10")?);
    assert_eq!(container.gateway, address("10.20.0.1")?);
    assert_eq!(container.address_v6, address("fd00:20::10")?);
    assert_eq!((container.gateway_v6, container.prefix_length_v6), (address("fd00:20::1")?, 64));
    assert_eq!(tables.devices[&2].address_v6, address("2001:db8::1")?);
    assert_eq!((container.epoch, container.network, container.prefix_length), (3, 7, 24));
    assert_eq!((container.vni, container.mtu, container.mac.octets), (4097, 1450, mac_of(10).0));
    let all = flags::INTER_CONTAINER | flags::MASQUERADE | flags::FORWARDING | flags::PUBLISHED;
    let all = all | flags::FORWARDING_V6;
    assert_eq!(container.flags, all | flags::OVERLAY | flags::GATEWAY);
    assert_eq!((tables.devices[&2].vxlan_port, tables.devices[&2].address), (4789, address("192.0.2.1")?));
    Ok(())
}

#[test]
fn an_endpoint_is_there_only_with_its_device() -> TestResult {
    let key = EndpointKey { network: 7, address: address("10.20.0.10")? };
    let tables = build(&state()?, &[], &facts()?);
    let endpoint = &tables.endpoints[&key];
    assert_eq!((endpoint.ifindex, endpoint.epoch), (13, 3));
    assert_eq!((endpoint.mac.octets, endpoint.gateway_mac.octets), (mac_of(10).0, mac_of(11).0));
    let v6 = EndpointKey { network: 7, address: address("fd00:20::10")? };
    assert_eq!(tables.endpoints.get(&v6), Some(endpoint));
    let mut without = facts()?;
    without.veths.clear();
    assert!(build(&state()?, &[], &without).endpoints.is_empty());
    Ok(())
}

#[test]
fn switched_off_forwarding_shows_in_every_flag() -> TestResult {
    let mut off = facts()?;
    off.forwarding = false;
    let tables = build(&state()?, &[], &off);
    assert!(tables.devices.values().all(|device| device.flags & flags::FORWARDING == 0));
    assert!(tables.endpoints.values().all(|endpoint| endpoint.flags & flags::FORWARDING == 0));
    assert!(tables.subnets.values().all(|subnet| subnet.flags & flags::FORWARDING == 0));
    Ok(())
}

#[test]
fn remote_containers_lead_to_their_peer() -> TestResult {
    let tables = build(&state()?, &[], &facts()?);
    let key = EndpointKey { network: 7, address: address("10.20.0.5")? };
    assert_eq!(
        tables.remotes[&key],
        Remote { peer: 9, mac: MacAddress { octets: mac_of(5).0 }, reserved: 0 }
    );
    let peer = &tables.peers[&9];
    assert_eq!((peer.local, peer.remote), (address("192.0.2.1")?, address("192.0.2.2")?));
    assert_eq!((peer.ifindex, peer.port), (2, 4789));
    // The identifier is weft's, and only this peer may send with it.
    assert_eq!(tables.vxlan.len(), 2);
    assert_eq!(tables.vxlan[&VxlanKey { vni: 4097, peer: Address::UNSPECIFIED }], 7);
    assert_eq!(tables.vxlan[&VxlanKey { vni: 4097, peer: address("192.0.2.2")? }], 7);
    Ok(())
}

#[test]
fn a_subnet_is_a_prefix_of_the_mapped_address() -> TestResult {
    let tables = build(&state()?, &[], &facts()?);
    let key = Prefix::new(96 + 24, SubnetKey { address: address("10.20.0.0")? });
    assert_eq!(tables.subnets.get(&key).map(|subnet| subnet.network), Some(7));
    let key = Prefix::new(64, SubnetKey { address: address("fd00:20::")? });
    assert_eq!(tables.subnets.get(&key).map(|subnet| subnet.network), Some(7));
    assert_eq!(tables.subnets.len(), 2);
    Ok(())
}

#[test]
fn a_large_range_takes_few_entries() -> TestResult {
    let range = publication(Protocol::Udp, 10_000, 19_999)?;
    let tables = build(&state()?, &[&range], &facts()?);
    assert!(tables.published.len() <= 30, "{} prefixes", tables.published.len());
    let value = tables.published.values().next().ok_or("no entry")?;
    assert_eq!((value.first_host_port, value.first_container_port, value.network), (10_000, 80, 7));
    assert_eq!(tables.port_sets.published.udp.count(), 10_000);
    assert!(tables.port_sets.published.tcp.is_empty() && tables.port_sets.published.sctp.is_empty());
    Ok(())
}

#[test]
fn entries_of_one_publication_do_not_depend_on_the_others() -> TestResult {
    let (one, other) = (publication(Protocol::Tcp, 8080, 8080)?, publication(Protocol::Tcp, 80, 80)?);
    let alone = build(&state()?, &[&one], &facts()?).published;
    let beside = build(&state()?, &[&other, &one], &facts()?).published;
    assert!(alone.iter().all(|(key, value)| beside.get(key) == Some(value)));
    Ok(())
}

#[test]
fn masquerade_keeps_off_ports_in_use() -> TestResult {
    let published = [(Protocol::Tcp, 8080), (Protocol::Sctp, 36_412)]
        .map(|(protocol, port)| publication(protocol, port, port));
    let [tcp, sctp] = published;
    let tables = build(&state()?, &[&tcp?, &sctp?], &facts()?);
    assert_eq!(tables.port_sets.reserved.tcp.to_string(), "22,8080,9000-9001");
    assert_eq!(tables.port_sets.reserved.udp.to_string(), "68,4789,9000-9001");
    assert_eq!(tables.port_sets.reserved.sctp.to_string(), "2905,9000-9001,36412");
    assert_eq!((tables.settings.first_port, tables.settings.last_port), (1024, 32767));
    Ok(())
}
