//! Networks, endpoints and ports as the last round left them.

use std::net::IpAddr;

use super::{EndpointView, NetworkView, PortView};
use crate::{
    model::{ContainerNamespace, DesiredState, Family},
    reconcile::{
        Applied,
        ports::key,
        resolved::{EndpointId, ResolvedEndpoint, ResolvedNetwork, ResolvedRemote},
    },
};

/// All networks.
pub fn networks(applied: &Applied) -> Vec<NetworkView> {
    let state = &applied.state;
    state
        .networks
        .iter()
        .map(|(name, network)| NetworkView {
            name: name.clone(),
            number: network.number,
            driver: if network.vxlan.is_some() { "overlay" } else { "bridge" }.to_owned(),
            subnet: network.subnets.v4.map(|subnet| subnet.range.to_string()),
            gateway: gateway(network, Family::V4),
            subnet_v6: network.subnets.v6.map(|subnet| subnet.range.to_string()),
            gateway_v6: gateway(network, Family::V6),
            bridge: network.bridge.clone(),
            mtu: applied.facts.bridges.get(name).map(|bridge| bridge.mtu),
            policy: network.policy,
            vni: network.vni(),
            vxlan: network.vxlan.clone(),
            endpoints: members(applied, name),
        })
        .collect()
}

/// The host's address in a network.
fn gateway(network: &ResolvedNetwork, family: Family) -> Option<IpAddr> {
    network.subnets.of(family).map(|subnet| subnet.gateway).filter(|_| !network.policy.is_isolated())
}

fn members(applied: &Applied, network: &str) -> Vec<EndpointView> {
    let state = &applied.state;
    let here = state.endpoints.iter().filter(|(id, _)| id.network == network);
    let elsewhere = state.remotes.iter().filter(|remote| remote.network == network);
    here.map(|(id, endpoint)| local(applied, id, endpoint)).chain(elsewhere.map(remote)).collect()
}

/// All containers: their interfaces here, those elsewhere, and those without any.
pub fn endpoints(applied: &Applied, desired: &DesiredState) -> Vec<EndpointView> {
    let state = &applied.state;
    let mut views: Vec<EndpointView> =
        state.endpoints.iter().map(|(id, endpoint)| local(applied, id, endpoint)).collect();
    views.extend(state.remotes.iter().map(remote));
    for (name, container) in &desired.containers {
        let (mode, place) = match &container.namespace {
            ContainerNamespace::None => ("none", None),
            ContainerNamespace::Host => ("host", None),
            ContainerNamespace::SharedWith(other) => ("shared", Some(format!("container {other}"))),
            ContainerNamespace::Named(_) | ContainerNamespace::Pid(_) | ContainerNamespace::Docker(_) => {
                continue;
            }
        };
        let view = EndpointView { place, ..bare(name, None, mode) };
        views.push(view);
    }
    views.sort_by(|a, b| (&a.container, &a.network).cmp(&(&b.container, &b.network)));
    views
}

fn bare(container: &str, network: Option<&str>, state: &str) -> EndpointView {
    EndpointView {
        container: container.to_owned(),
        network: network.map(str::to_owned),
        state: state.to_owned(),
        address: None,
        address_v6: None,
        mac_address: None,
        interface: None,
        device: None,
        ifindex: None,
        epoch: None,
        place: None,
    }
}

fn local(applied: &Applied, id: &EndpointId, endpoint: &ResolvedEndpoint) -> EndpointView {
    let state = match (&endpoint.namespace, applied.failed.contains(id)) {
        (None, _) => "missing",
        (Some(_), true) => "failed",
        (Some(_), false) => "ready",
    };
    EndpointView {
        address: endpoint.addresses.v4.map(|address| address.to_string()),
        address_v6: endpoint.addresses.v6.map(|address| address.to_string()),
        mac_address: Some(endpoint.mac),
        interface: Some(endpoint.interface.clone()),
        device: Some(endpoint.device.clone()),
        ifindex: applied.facts.veths.get(id).map(|veth| veth.ifindex),
        epoch: Some(endpoint.epoch),
        place: endpoint.namespace.as_ref().map(|found| found.reference.to_string()),
        ..bare(&id.container, Some(&id.network), state)
    }
}

fn remote(remote: &ResolvedRemote) -> EndpointView {
    EndpointView {
        address: remote.address.is_ipv4().then(|| remote.address.to_string()),
        address_v6: remote.address.is_ipv6().then(|| remote.address.to_string()),
        mac_address: Some(remote.mac),
        place: Some(format!("host {}", remote.vtep)),
        ..bare(&remote.name, Some(&remote.network), "remote")
    }
}

/// All published ports.
pub fn ports(applied: &Applied) -> Vec<PortView> {
    applied
        .state
        .publications
        .iter()
        .map(|publication| {
            let reason = applied.refused.get(&key(publication)).cloned();
            PortView {
                container: publication.container.clone(),
                protocol: publication.protocol,
                host_address: publication.host_address,
                host_ports: publication.host_ports,
                container_address: publication.address,
                container_ports: publication.container_ports,
                network: publication.endpoint.network.clone(),
                state: if reason.is_some() { "refused" } else { "served" }.to_owned(),
                reason,
            }
        })
        .collect()
}
