//! What follows from a topology: who is there, by which addresses, and where a published port leads.

use std::net::IpAddr;

use super::{
    description::{
        Address, Binding, Change, Container, NetworkKind, Protocol, Publication, Target, Topology,
    },
    family::{Family, client, uplink},
};

impl Topology {
    /// The containers that are there, with their places.
    pub fn present(&self) -> impl Iterator<Item = (usize, &Container)> {
        self.containers.iter().enumerate().filter_map(|(slot, container)| Some((slot, container.as_ref()?)))
    }

    /// The container in this place.
    pub fn container(&self, slot: usize) -> Option<&Container> {
        self.containers.get(slot)?.as_ref()
    }

    /// The subnet of a network.
    pub fn subnet(&self, network: usize, family: Family) -> String {
        format!("{}/{}", self.networks[network].address(network, family, 0), family.prefix_length())
    }

    /// A network's gateway.
    pub fn gateway(&self, network: usize, family: Family) -> IpAddr {
        self.networks[network].address(network, family, 1)
    }

    /// A container's address in a network.
    pub fn address(&self, slot: usize, network: usize, family: Family) -> IpAddr {
        self.networks[network].address(network, family, slot as u8 + 10)
    }

    /// A container's MAC address in a network.
    pub fn mac(&self, slot: usize, network: usize) -> String {
        let IpAddr::V4(v4) = self.address(slot, network, Family::V4) else { return String::new() };
        let [a, b, c, d] = v4.octets();
        format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Whether an address exists in a family.
    pub fn has(&self, address: Address, family: Family) -> bool {
        match address {
            Address::Gateway(network) | Address::Container(_, network) => {
                self.networks[network].families.has(family)
            }
            Address::Client | Address::Uplink(_) | Address::Loopback => true,
        }
    }

    /// The network that leads these members to the world, and their ports to them: the first that does.
    pub fn default_network(&self, networks: &[usize]) -> Option<usize> {
        networks.iter().copied().find(|network| self.networks[*network].kind != NetworkKind::Internal)
    }

    /// The address that a container's published ports of a family lead to.
    pub fn published_address(&self, slot: usize, family: Family) -> Option<IpAddr> {
        let network = self.default_network(&self.container(slot)?.networks)?;
        self.networks[network].families.has(family).then(|| self.address(slot, network, family))
    }

    /// Whether members of these networks can publish this at all.
    pub fn leads_somewhere(&self, networks: &[usize], wanted: &Publication) -> bool {
        let Some(network) = self.default_network(networks) else { return false };
        let families = self.networks[network].families;
        // Without a host address: for each family that the container has.
        wanted.is_of_both() || wanted.families().all(|family| families.has(family))
    }

    /// Whether a container may publish this: it reaches the world, and nobody has these ports there.
    pub fn may_publish(&self, host: usize, networks: &[usize], wanted: &Publication) -> bool {
        self.leads_somewhere(networks, wanted)
            && !self.present().filter(|(_, container)| container.host == host).any(|(_, container)| {
                container.ports.iter().any(|held| {
                    let bindings = [held.binding, wanted.binding];
                    (bindings[0] == bindings[1] || bindings.contains(&Binding::Any))
                        && held.families().any(|family| wanted.families().any(|other| other == family))
                        && held.protocol == wanted.protocol
                        && held.host_port < wanted.host_port + wanted.count
                        && wanted.host_port < held.host_port + held.count
                })
            })
    }

    /// What a host's port leads to for a packet or call with this destination; a specific address wins.
    pub fn publication(
        &self,
        host: usize,
        binding: Binding,
        family: Family,
        protocol: Protocol,
        port: u16,
    ) -> Option<(usize, &Publication)> {
        let find = |binding| {
            self.present().filter(|(_, container)| container.host == host).find_map(|(slot, container)| {
                let found = container.ports.iter().find(|held| {
                    held.binding == binding
                        && held.families().any(|it| it == family)
                        && held.protocol == protocol
                        && (held.host_port..held.host_port + held.count).contains(&port)
                })?;
                self.published_address(slot, family)?;
                Some((slot, found))
            })
        };
        find(binding).or_else(|| find(Binding::Any))
    }

    /// The container and port that a socket of this host reaches with a datagram, if it is led to one by a published port.
    pub fn led_to(&self, host: usize, family: Family, to: Target) -> Option<(usize, u16)> {
        let binding = match to.address {
            Address::Uplink(it) if it == host => Binding::Uplink,
            Address::Gateway(network) if self.networks[network].is_on(host) => Binding::Any,
            Address::Loopback => Binding::Loopback,
            _ => return None,
        };
        let (slot, found) = self.publication(host, binding, family, Protocol::Udp, to.port)?;
        Some((slot, found.behind(to.port)))
    }

    /// The same for a container's address, which needs no leading.
    pub fn served_by(&self, host: usize, family: Family, to: Target) -> Option<(usize, u16)> {
        let Address::Container(slot, _) = to.address else {
            return self.led_to(host, family, to);
        };
        Some((slot, to.port))
    }

    /// Makes a change; `false` if it makes no sense here.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Remove(slot) => self.containers.get_mut(*slot).and_then(Option::take).is_some(),
            Change::Add(slot, container) => {
                let free = self.containers.get(*slot).is_some_and(Option::is_none);
                let sensible = free
                    && container
                        .ports
                        .iter()
                        .all(|p| self.may_publish(container.host, &container.networks, p));
                if sensible {
                    self.containers[*slot] = Some(container.clone());
                }
                sensible
            }
            Change::Publish(slot, publication) => {
                let sensible = self
                    .container(*slot)
                    .is_some_and(|it| self.may_publish(it.host, &it.networks, publication));
                if let Some(Some(container)) = self.containers.get_mut(*slot).filter(|_| sensible) {
                    container.ports.push(*publication);
                }
                sensible
            }
            Change::Unpublish(slot, publication) => {
                let Some(Some(container)) = self.containers.get_mut(*slot) else { return false };
                let before = container.ports.len();
                container.ports.retain(|held| held != publication);
                container.ports.len() < before
            }
        }
    }

    /// The number that an address stands for.
    pub fn resolve(&self, address: Address, family: Family) -> IpAddr {
        match address {
            Address::Client => client(family),
            Address::Uplink(host) => uplink(host, family),
            Address::Loopback => family.loopback(),
            Address::Gateway(network) => self.gateway(network, family),
            Address::Container(slot, network) => self.address(slot, network, family),
        }
    }
}
