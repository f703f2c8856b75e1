//! One reading of the host: devices, addresses, routes and settings.

use std::collections::{BTreeSet, HashMap};

use ipnetwork::IpNetwork;

use super::names::{self, Owner};
use crate::{
    model::PortRange,
    netdev::{self, Address, Change, Link, Netlink, PortRanges, Route, sysctl},
};

/// Up to so many devices that may have changed are read one by one, more of them all at once.
pub const READ_SINGLY: usize = 16;

/// What was heard to have changed since the reading.
#[derive(Debug, Clone, Default)]
struct Doubts {
    links: BTreeSet<u32>,
    addresses: BTreeSet<u32>,
    routes: bool,
    settings: bool,
}

/// What a refreshed reading shows to have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Perhaps everything.
    Everything,
    /// Only the veths of these containers.
    Containers(BTreeSet<String>),
}

/// The host as it was read at the beginning of a round.
#[derive(Debug, Clone)]
pub struct Kernel {
    links: Vec<Link>,
    by_name: HashMap<String, usize>,
    /// Addresses of all devices.
    pub addresses: Vec<Address>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// `net.ipv4.ip_forward`.
    pub forwarding: bool,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwarding_v6: bool,
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral: PortRange,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: PortRanges,
    doubts: Doubts,
}

impl Kernel {
    /// Reads the host: four requests and four files, however much there is.
    pub async fn read(netlink: &Netlink) -> netdev::Result<Self> {
        let mut kernel = Self {
            links: Vec::new(),
            by_name: HashMap::new(),
            addresses: Vec::new(),
            routes: netlink.routes().await?,
            forwarding: sysctl::ip_forward()?,
            forwarding_v6: sysctl::ipv6_forwarding()?,
            ephemeral: sysctl::ip_local_port_range()?,
            reserved: sysctl::ip_local_reserved_ports()?,
            doubts: Doubts::default(),
        };
        kernel.read_devices(netlink).await?;
        Ok(kernel)
    }

    /// Reads devices and addresses again.
    pub async fn read_devices(&mut self, netlink: &Netlink) -> netdev::Result<()> {
        self.links = netlink.links().await?;
        self.by_name = self.links.iter().enumerate().map(|(at, link)| (link.name.clone(), at)).collect();
        self.addresses = netlink.addresses().await?;
        Ok(())
    }

    /// Reads single devices again, where reading all of a thousand would cost more than the work that changed them.
    pub async fn read_device(&mut self, netlink: &Netlink, name: &str) -> netdev::Result<()> {
        match (netlink.link(name).await?, self.by_name.get(name).copied()) {
            (Some(link), Some(at)) => self.links[at] = link,
            (Some(link), None) => {
                self.by_name.insert(name.to_owned(), self.links.len());
                self.links.push(link);
            }
            (None, None) => {}
            (None, Some(at)) => self.forget(at),
        }
        Ok(())
    }

    /// Notes what was heard of; [`Self::refresh`] looks at it.
    pub fn doubt(&mut self, change: Change) {
        match change {
            Change::Link { ifindex, .. } => drop(self.doubts.links.insert(ifindex)),
            Change::Address { ifindex } => drop(self.doubts.addresses.insert(ifindex)),
            Change::Route => self.doubts.routes = true,
            Change::Configuration => self.doubts.settings = true,
            // Neither is part of the reading.
            Change::Neighbour { .. } | Change::Forwarding { .. } | Change::Resync => {}
        }
    }

    /// Reads again what is in doubt and says what has changed.
    pub async fn refresh(&mut self, netlink: &Netlink) -> netdev::Result<Changed> {
        let Doubts { links, addresses, routes, settings } = std::mem::take(&mut self.doubts);
        if links.len() > READ_SINGLY || addresses.len() > READ_SINGLY {
            *self = Self::read(netlink).await?;
            return Ok(Changed::Everything);
        }
        let mut everything = false;
        let mut containers = BTreeSet::new();
        for ifindex in links {
            let now = netlink.link_by_index(ifindex).await?;
            let before = self.links.iter().position(|link| link.ifindex == ifindex);
            let container = |link: &Link| match names::owner(link.alias.as_deref()?)? {
                Owner::Endpoint { container, .. } => Some(container),
                Owner::Network(_) | Owner::Host => None,
            };
            match (before, now) {
                (None, None) => {}
                (Some(at), Some(now)) if self.links[at] == now => {}
                (Some(at), Some(now)) if self.links[at].name == now.name => {
                    match (container(&self.links[at]), container(&now)) {
                        (Some(before), Some(after)) if before == after => drop(containers.insert(after)),
                        _ => everything = true,
                    }
                    self.links[at] = now;
                }
                (Some(at), None) => {
                    match container(&self.links[at]) {
                        Some(container) => drop(containers.insert(container)),
                        None => everything = true,
                    }
                    self.forget(at);
                }
                // New ones, and those with another name.
                (_, Some(_)) => {
                    *self = Self::read(netlink).await?;
                    return Ok(Changed::Everything);
                }
            }
        }
        for ifindex in addresses {
            let now = netlink.addresses_of(ifindex).await?;
            let (of_device, others): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.addresses).into_iter().partition(|it| it.ifindex == ifindex);
            everything |= of_device != now;
            self.addresses = others;
            self.addresses.extend(now);
        }
        if routes {
            let before = std::mem::replace(&mut self.routes, netlink.routes().await?);
            everything |= before != self.routes;
        }
        if settings {
            let (forwarding, forwarding_v6) = (sysctl::ip_forward()?, sysctl::ipv6_forwarding()?);
            everything |= (forwarding, forwarding_v6) != (self.forwarding, self.forwarding_v6);
            (self.forwarding, self.forwarding_v6) = (forwarding, forwarding_v6);
        }
        Ok(if everything { Changed::Everything } else { Changed::Containers(containers) })
    }

    fn forget(&mut self, at: usize) {
        let gone = self.links.swap_remove(at);
        self.by_name.remove(&gone.name);
        self.addresses.retain(|address| address.ifindex != gone.ifindex);
        if let Some(moved) = self.links.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    /// All devices.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The device with this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.by_name.get(name).and_then(|at| self.links.get(*at))
    }

    /// Devices of weft, with whom they belong to.
    pub fn owned(&self) -> impl Iterator<Item = (&Link, Owner)> {
        self.links.iter().filter_map(|link| Some((link, names::owner(link.alias.as_deref()?)?)))
    }

    /// Devices of others that may hear a router: neither loopback nor ports of a bridge, whose packets are the bridge's.
    pub fn may_hear_routers(&self) -> Vec<&str> {
        let is_owned = |link: &Link| link.alias.as_deref().and_then(names::owner).is_some();
        self.links
            .iter()
            .filter(|link| !link.is_loopback() && link.port.is_none() && !is_owned(link))
            .map(|link| link.name.as_str())
            .collect()
    }

    /// Destinations that the host routes somewhere else than to weft's networks, without the default routes and those
    /// that every IPv6 device has.
    pub fn foreign_routes(&self) -> Vec<IpNetwork> {
        let own: Vec<u32> = self.owned().map(|(link, _)| link.ifindex).collect();
        self.routes
            .iter()
            .filter(|route| !route.is_default() && !own.contains(&route.ifindex))
            .map(|route| route.destination)
            .filter(|destination| match destination {
                IpNetwork::V4(_) => true,
                IpNetwork::V6(range) => !range.ip().is_unicast_link_local() && !range.ip().is_multicast(),
            })
            .collect()
    }
}
