//! One reading of the host: devices, addresses, routes and settings.

use std::collections::HashMap;

use ipnetwork::{IpNetwork, Ipv4Network};

use super::names::{self, Owner};
use crate::{
    model::PortRange,
    netdev::{self, Address, Link, Netlink, PortRanges, Route, sysctl},
};

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
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral: PortRange,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: PortRanges,
}

impl Kernel {
    /// Reads the host: four requests and three files, however much there is.
    pub async fn read(netlink: &Netlink) -> netdev::Result<Self> {
        let mut kernel = Self {
            links: Vec::new(),
            by_name: HashMap::new(),
            addresses: Vec::new(),
            routes: netlink.routes().await?,
            forwarding: sysctl::ip_forward()?,
            ephemeral: sysctl::ip_local_port_range()?,
            reserved: sysctl::ip_local_reserved_ports()?,
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
            (None, Some(_)) => self.read_devices(netlink).await?,
        }
        Ok(())
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

    /// IPv4 destinations that the host routes somewhere else than to weft's networks, without the default route.
    pub fn foreign_routes(&self) -> Vec<Ipv4Network> {
        let own: Vec<u32> = self.owned().map(|(link, _)| link.ifindex).collect();
        self.routes
            .iter()
            .filter(|route| !route.is_default() && !own.contains(&route.ifindex))
            .filter_map(|route| match route.destination {
                IpNetwork::V4(destination) => Some(destination),
                IpNetwork::V6(_) => None,
            })
            .collect()
    }
}
