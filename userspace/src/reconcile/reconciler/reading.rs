//! What a round has to know of the host and of the containers' namespaces.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{Error, Reconciler};
use crate::{
    model::DesiredState,
    netdev::Link,
    reconcile::{
        facts::{DeviceFact, KernelFacts, UplinkFact},
        kernel::Kernel,
        leases::LeaseFacts,
        namespaces,
        problem::Problem,
        resolved::{EndpointId, ResolvedState},
        sysctls,
    },
};

impl Reconciler {
    pub(super) async fn lease_facts(
        &mut self,
        desired: &DesiredState,
        kernel: &Kernel,
        problems: &mut Vec<Problem>,
    ) -> Result<LeaseFacts, Error> {
        self.forget_gone(kernel);
        let namespaces = namespaces::find(desired, self.own, &mut self.cookies, problems).await;
        Ok(LeaseFacts {
            host_routes: kernel.foreign_routes(),
            namespaces,
            ephemeral_ports: kernel.ephemeral,
            bound_ports: self.bound.clone(),
        })
    }

    /// A container whose veth has gone may have a new namespace with the inode of the old one.
    pub(super) fn forget_gone(&mut self, kernel: &Kernel) {
        for endpoint in self.applied.state.endpoints.values() {
            if let Some(namespace) = &endpoint.namespace
                && kernel.link(&endpoint.device).is_none()
            {
                self.cookies.forget(&namespace.identity);
            }
        }
    }

    pub(super) async fn peer_uplinks(
        &self,
        state: &ResolvedState,
        uplinks: &[UplinkFact],
        problems: &mut Vec<Problem>,
    ) -> Result<BTreeMap<IpAddr, u32>, Error> {
        let mut found = BTreeMap::new();
        for vtep in state.peers.keys() {
            let reason = match self.netlink.route_to(*vtep).await? {
                Some(route) if uplinks.iter().any(|uplink| uplink.ifindex == route.ifindex) => {
                    found.insert(*vtep, route.ifindex);
                    continue;
                }
                Some(_) => {
                    "the route to it leads through a device that is no uplink; name that in x-weft.uplinks"
                }
                None => "this host has no route to it",
            };
            problems.push(Problem::new(format!("peer {vtep}"), reason));
        }
        Ok(found)
    }

    pub(super) fn facts(
        &self,
        state: &ResolvedState,
        uplinks: &[UplinkFact],
        vtep: Option<IpAddr>,
        kernel: &Kernel,
        peer_uplinks: BTreeMap<IpAddr, u32>,
    ) -> KernelFacts {
        let by_name = |name: &str| kernel.link(name).and_then(device_fact);
        let networks = &state.networks;
        let bridges = networks.iter().filter_map(|(name, of)| Some((name.clone(), by_name(&of.bridge)?)));
        let vxlans =
            networks.iter().filter_map(|(name, of)| Some((name.clone(), by_name(of.vxlan.as_deref()?)?)));
        // One that could not be looked at is what it was, as long as its device is: the container's flows go on.
        let before = &self.applied.facts.veths;
        let usable = |id: &EndpointId, fact: &DeviceFact| {
            !self.containers.failed().contains(id)
                || before.get(id).is_some_and(|before| before.ifindex == fact.ifindex)
        };
        let veths = state.endpoints.iter().filter_map(|(id, of)| Some((id, by_name(&of.device)?)));
        let veths = veths.filter(|(id, fact)| usable(id, fact)).map(|(id, fact)| {
            let takes_xdp = self.containers.takes_xdp(id);
            (id.clone(), DeviceFact { takes_xdp, ..fact })
        });
        let addresses: HashMap<IpAddr, u32> = kernel
            .addresses
            .iter()
            .filter(|address| !address.address.ip().is_loopback() && !address.tentative)
            // A link-local address means something on one link only, and nothing is forwarded from it or to it.
            .filter(|address| address.global || address.address.is_ipv4())
            .map(|address| (address.address.ip(), address.ifindex))
            .collect();
        KernelFacts {
            uplinks: uplinks.to_vec(),
            bridges: bridges.collect(),
            vxlans: vxlans.collect(),
            veths: veths.collect(),
            addresses,
            peer_uplinks,
            waiting_room: self.waiting_room.entrance(),
            vtep,
            forwarding: kernel.forwarding,
            forwarding_v6: kernel.forwarding_v6,
            bound: self.bound.clone(),
            reserved: kernel.reserved.difference(&sysctls::added(&self.leases)),
            ephemeral: kernel.ephemeral,
            netns_cookie: self.own_cookie,
        }
    }
}

pub(super) fn device_fact(link: &Link) -> Option<DeviceFact> {
    Some(DeviceFact { ifindex: link.ifindex, mtu: link.mtu, mac: link.mac_address?, takes_xdp: false })
}
