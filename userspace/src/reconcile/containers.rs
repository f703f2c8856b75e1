//! Containers' interfaces: the veth pair, and inside the namespace its address and the default route.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use dataplane_common::abi::{Address, MacAddress};
use ipnetwork::IpNetwork;

use super::{
    devices::mtu,
    facts::UplinkFact,
    kernel::Kernel,
    names,
    namespaces::reopen,
    problem::Problem,
    resolved::{EndpointId, FoundNamespace, ResolvedEndpoint, ResolvedNetwork, ResolvedState},
};
use crate::{
    dataplane::{Dataplane, TcProgram},
    model::{Family, PerFamily},
    netdev::{Link, LinkKind, Netlink, Route, VethPeer, VethSpec, sysctl},
};

/// Largest segment of a container in an overlay: with its outer headers it has to fit the 65,535 bytes of an IPv4
/// packet. 65,535 less 50 of encapsulation and less 14 + 4 of inner Ethernet and VLAN headers.
const OVERLAY_GSO_MAX_SIZE: u32 = 65_467;

/// An interface is looked at this long after the last time. With the steps below none waits longer than ten seconds.
const RECHECK_AFTER: Duration = Duration::from_secs(6);

/// All interfaces are looked at in this many steps, each short enough to keep nothing waiting.
const STEPS: usize = 80;

/// Of up to so many interfaces that a round makes it is waited for that packets pass,
const MOST_PATHS: usize = 16;
/// and at most this long for the devices of all of them,
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// and so long for their addresses, which the kernel has been given: it only has to come to them.
const LONGEST_WAIT_FOR_ADDRESSES: Duration = Duration::from_secs(3);

/// What an interface was when it was last looked at as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    spec: VethSpec,
    addresses: PerFamily<IpNetwork>,
    default_gateways: PerFamily<IpAddr>,
    namespace: FoundNamespace,
}

#[derive(Debug)]
struct Verified {
    ifindex: u32,
    peer: Option<VethPeer>,
    shape: Shape,
    at: Instant,
    /// Something was heard of its namespace since.
    doubted: bool,
}

/// Interfaces that were found right, so that a round works only on the others.
#[derive(Debug, Default)]
pub struct Containers {
    verified: HashMap<EndpointId, Verified>,
    /// Interfaces that could not be made right in the last round.
    failed: BTreeSet<EndpointId>,
}

/// What a look into some interfaces found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// One of them needs a round.
    pub wrong: bool,
    /// Others are in doubt.
    pub more: bool,
}

/// The host side of the work.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// To its devices.
    pub netlink: &'a Netlink,
    /// What it had when the round began.
    pub kernel: &'a Kernel,
    /// Its programs.
    pub dataplane: &'a Dataplane,
}

/// An interface that was worked on and whose host side may still be down.
#[derive(Debug)]
pub struct Pending {
    id: EndpointId,
    /// The host side.
    pub device: String,
    /// What has to run before a packet passes; not of so many that they need time anyway.
    path: Option<Path>,
}

/// The devices from a container to its network.
#[derive(Debug)]
struct Path {
    inside: Netlink,
    container: u32,
    veth: u32,
    bridge: u32,
    /// Those of IPv6, the link-local one among them: without it no neighbour is asked for that has come by a published port
    /// of another network.
    addresses_v6: Vec<IpAddr>,
}

impl Path {
    async fn wait_until_running(&self, host: &Netlink, start: Instant) -> crate::netdev::Result<()> {
        let end = start + LONGEST_WAIT;
        // In this order: the bridge runs once one of its ports does.
        self.inside.wait_until_running(self.container, end).await?;
        host.wait_until_running(self.veth, end).await?;
        host.wait_until_running(self.bridge, end).await?;
        for address in &self.addresses_v6 {
            self.inside.wait_until_local(*address, start + LONGEST_WAIT_FOR_ADDRESSES).await?;
        }
        Ok(())
    }
}

impl Containers {
    /// Something changed in the namespace with this number, or in one that is not known: look again.
    pub fn doubt(&mut self, namespace_id: i32) {
        for verified in self.verified.values_mut() {
            verified.doubted |= verified.peer.is_none_or(|peer| peer.namespace_id == Some(namespace_id));
        }
    }

    /// Look at everything again.
    pub fn doubt_all(&mut self) {
        self.verified.values_mut().for_each(|verified| verified.doubted = true);
    }

    /// The interfaces that are not right.
    pub fn failed(&self) -> &BTreeSet<EndpointId> {
        &self.failed
    }

    /// Whether the interface is known to take what XDP sends to it.
    pub fn takes_xdp(&self, id: &EndpointId) -> bool {
        self.verified.get(id).is_some_and(|verified| verified.shape.spec.takes_xdp)
    }

    /// Makes all interfaces exist with their programs attached. New host sides are left down: call
    /// [`Self::bring_up`] when the maps are filled.
    pub async fn ensure(
        &mut self,
        state: &ResolvedState,
        uplinks: &[UplinkFact],
        vtep: Option<IpAddr>,
        host: Host<'_>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Pending> {
        self.verified.retain(|id, _| state.endpoints.contains_key(id));
        self.failed.clear();
        self.ensure_some(state.endpoints.keys(), state, uplinks, vtep, host, problems).await
    }

    /// Forgets an interface that is no longer declared.
    pub fn forget(&mut self, id: &EndpointId) {
        self.verified.remove(id);
        self.failed.remove(id);
    }

    /// The same as [`Self::ensure`] for some interfaces.
    pub async fn ensure_some(
        &mut self,
        ids: impl Iterator<Item = &EndpointId>,
        state: &ResolvedState,
        uplinks: &[UplinkFact],
        vtep: Option<IpAddr>,
        host: Host<'_>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Pending> {
        let Host { netlink, kernel, dataplane } = host;
        let mut pending = Vec::new();
        for id in ids {
            self.failed.remove(id);
            let Some(endpoint) = state.endpoints.get(id) else { continue };
            let Some(network) = state.networks.get(&id.network) else { continue };
            let Some(bridge) = kernel.link(&network.bridge) else {
                // The network's own problem says why.
                self.failed.insert(id.clone());
                continue;
            };
            let takes_xdp = uplinks.iter().any(|uplink| uplink.xdp.native);
            let Some(shape) = shape(id, endpoint, network, bridge, mtu(network, uplinks, vtep), takes_xdp)
            else {
                self.failed.insert(id.clone());
                continue;
            };
            if self.is_verified(id, &shape, kernel) {
                continue;
            }
            match ensure_one(&shape, netlink, dataplane).await {
                Ok((ifindex, peer, path)) => {
                    self.verified.insert(
                        id.clone(),
                        Verified { ifindex, peer, shape: shape.clone(), at: Instant::now(), doubted: false },
                    );
                    let path = (pending.len() < MOST_PATHS).then_some(path);
                    pending.push(Pending { id: id.clone(), device: shape.spec.name, path });
                }
                Err(reason) => {
                    self.verified.remove(id);
                    self.failed.insert(id.clone());
                    let object = format!("container {} in network {}", id.container, id.network);
                    problems.push(Problem::of_container(&id.container, object, reason));
                }
            }
        }
        pending
    }

    /// Looks into some interfaces: those in doubt, and then those not looked at for the longest time. A thousand in
    /// doubt, as after a start, are taken in steps, so that a change of the files need not wait for them.
    pub async fn look_into_some(&mut self, host: Host<'_>) -> Looked {
        let moment = Instant::now().checked_sub(RECHECK_AFTER);
        let due = |verified: &Verified| verified.doubted || moment.is_some_and(|moment| verified.at < moment);
        let mut due: Vec<(bool, Instant, EndpointId)> = self
            .verified
            .iter()
            .filter(|(_, verified)| due(verified))
            .map(|(id, verified)| (!verified.doubted, verified.at, id.clone()))
            .collect();
        due.sort_unstable();
        due.truncate(self.verified.len().div_ceil(STEPS));
        let mut looked = Looked::default();
        for (_, _, id) in due {
            let Some(verified) = self.verified.get_mut(&id) else { continue };
            match ensure_one(&verified.shape, host.netlink, host.dataplane).await {
                Ok((ifindex, peer, _)) if (ifindex, peer) == (verified.ifindex, verified.peer) => {
                    verified.at = Instant::now();
                    verified.doubted = false;
                }
                // A round makes it anew, or says why that cannot be.
                Ok(_) | Err(_) => {
                    self.verified.remove(&id);
                    looked.wrong = true;
                }
            }
        }
        looked.more = self.verified.values().any(|verified| verified.doubted);
        looked
    }

    fn is_verified(&self, id: &EndpointId, shape: &Shape, kernel: &Kernel) -> bool {
        let Some(verified) = self.verified.get(id) else { return false };
        let link = kernel.link(&shape.spec.name);
        verified.shape == *shape
            && link.is_some_and(|link| {
                link.ifindex == verified.ifindex
                    && link.up
                    && shape.spec.is_satisfied_by(link)
                    && matches!(link.kind, LinkKind::Veth(peer) if peer == verified.peer)
            })
    }

    /// Sets the host sides up, now that every packet meets its programs and the programs find their maps filled, and
    /// waits until packets pass.
    pub async fn bring_up(&mut self, pending: &[Pending], netlink: &Netlink, problems: &mut Vec<Problem>) {
        let mut results = Vec::new();
        for Pending { device, .. } in pending {
            results.push(netlink.ensure_link_up(device).await.map(drop));
        }
        let start = Instant::now();
        for (Pending { path, .. }, result) in pending.iter().zip(&mut results) {
            if let (Some(path), Ok(())) = (path, &result) {
                *result = path.wait_until_running(netlink, start).await;
            }
        }
        for (Pending { id, .. }, result) in pending.iter().zip(results) {
            if let Err(error) = result {
                self.verified.remove(id);
                self.failed.insert(id.clone());
                let object = format!("container {} in network {}", id.container, id.network);
                problems.push(Problem::of_container(&id.container, object, error));
            }
        }
    }
}

fn shape(
    id: &EndpointId,
    endpoint: &ResolvedEndpoint,
    network: &ResolvedNetwork,
    bridge: &Link,
    mtu: u32,
    takes_xdp: bool,
) -> Option<Shape> {
    let spec = VethSpec {
        name: endpoint.device.clone(),
        alias: names::endpoint_alias(&id.network, &id.container),
        bridge: bridge.ifindex,
        mtu,
        isolated: !network.policy.inter_container,
        container_name: endpoint.interface.clone(),
        container_mac_address: endpoint.mac,
        gso_max_size: network.vxlan.is_some().then_some(OVERLAY_GSO_MAX_SIZE),
        ipv6: endpoint.addresses.v6.is_some(),
        takes_xdp,
        up: false,
    };
    Some(Shape {
        spec,
        addresses: endpoint.addresses,
        default_gateways: match endpoint.default_route {
            true => network.subnets.map(|subnet| subnet.gateway),
            false => PerFamily::default(),
        },
        namespace: endpoint.namespace.clone()?,
    })
}

async fn ensure_one(
    shape: &Shape,
    netlink: &Netlink,
    dataplane: &Dataplane,
) -> Result<(u32, Option<VethPeer>, Path), String> {
    let text = |error: crate::netdev::Error| error.to_string();
    let namespace = reopen(&shape.namespace)?;
    let inside = Netlink::in_namespace(&namespace).await.map_err(text)?;
    let ensured = netlink.ensure_veth(&shape.spec, &namespace, &inside).await.map_err(text)?;
    dataplane
        .ensure_tc(&shape.spec.name, ensured.ifindex, TcProgram::FromContainer)
        .map_err(|error| error.to_string())?;
    inside.ensure_loopback_up().await.map_err(text)?;
    if shape.addresses.v6.is_some() {
        let device = shape.spec.container_name.clone();
        let settings = move || sysctl::ensure_ipv6_of_container(&device).map_err(std::io::Error::other);
        namespace.run("set up IPv6", settings).await.map_err(text)?;
    }
    if let (true, Some(address)) = (shape.spec.isolated, shape.addresses.v6) {
        // With IPv4 the bridge answers for all of its subnet (`devices`).
        netlink.ensure_proxy(shape.spec.bridge, address.ip()).await.map_err(text)?;
    }
    ensure_addresses(shape, ensured.container_ifindex, &inside).await.map_err(text)?;
    ensure_routes(shape, ensured.container_ifindex, &inside).await.map_err(text)?;
    let link = netlink.link_by_index(ensured.ifindex).await.map_err(text)?;
    let peer = link.and_then(|link| match link.kind {
        LinkKind::Veth(peer) => peer,
        _ => None,
    });
    let (container, veth) = (ensured.container_ifindex, ensured.ifindex);
    let link_local = Address::link_local(&MacAddress { octets: shape.spec.container_mac_address.0 });
    let own = shape.addresses.v6.iter();
    let addresses_v6 = own.flat_map(|network| [network.ip(), link_local.into()]).collect();
    Ok((veth, peer, Path { inside, container, veth, bridge: shape.spec.bridge, addresses_v6 }))
}

async fn ensure_addresses(shape: &Shape, ifindex: u32, inside: &Netlink) -> crate::netdev::Result<()> {
    for address in shape.addresses.iter() {
        inside.ensure_address(ifindex, *address).await?;
    }
    for address in inside.addresses_of(ifindex).await? {
        // Anything else would be dropped as spoofed.
        let scoped = address.address.is_ipv4() || address.global;
        if scoped && !shape.addresses.iter().any(|own| *own == address.address) {
            inside.remove_address(ifindex, address.address).await?;
        }
    }
    Ok(())
}

async fn ensure_routes(shape: &Shape, ifindex: u32, inside: &Netlink) -> crate::netdev::Result<()> {
    let present = inside.routes().await?;
    // The kernel makes the route to the subnet with the address; somebody may have deleted it alone.
    let connected = shape.addresses.iter().map(|address| Route::connected(*address, ifindex));
    let defaults = shape.default_gateways.iter().map(|gateway| Route::default_by(*gateway, ifindex));
    for route in connected.chain(defaults) {
        inside.ensure_route(&route, &present).await?;
    }
    // Only what weft itself made here: through this interface, by a gateway of this network.
    let is_stale = |route: &&Route| {
        let family = Family::of(route.destination.ip());
        route.is_default()
            && route.ifindex == ifindex
            && route.has_plain_metric()
            && shape.default_gateways.of(family).is_none()
            && route.gateway.is_some_and(|gateway| {
                shape.addresses.of(family).is_some_and(|network| network.contains(gateway))
            })
    };
    for route in present.iter().filter(is_stale) {
        inside.remove_route(route).await?;
    }
    Ok(())
}
