//! Everything that a namespace holds, read at once for the reconciler to compare.

use nix::errno::Errno;

use super::{
    address::Address,
    error::Result,
    forwarding::{ForwardingEntry, Neighbour},
    handle::Netlink,
    link::{Link, LinkKind},
    routes::Route,
};

/// A namespace's devices, addresses, routes and tables: five requests, and one for each vxlan device.
///
/// The lists are read one after the other, so one may mention a device that another does not hold any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Devices.
    pub links: Vec<Link>,
    /// Addresses of all devices.
    pub addresses: Vec<Address>,
    /// Unicast routes of the main table.
    pub routes: Vec<Route>,
    /// Forwarding entries of vxlan devices, and of their bridges for them.
    pub forwarding: Vec<ForwardingEntry>,
    /// Neighbours.
    pub neighbours: Vec<Neighbour>,
}

impl Snapshot {
    /// Reads the namespace.
    pub async fn take(netlink: &Netlink) -> Result<Self> {
        let links = netlink.links().await?;
        let mut forwarding = Vec::new();
        for link in links.iter().filter(|link| matches!(link.kind, LinkKind::Vxlan(_))) {
            match netlink.forwarding_entries(Some(link.ifindex)).await {
                Ok(entries) => forwarding.extend(entries),
                // Removed since the devices were listed.
                Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            links,
            addresses: netlink.addresses().await?,
            routes: netlink.routes().await?,
            forwarding,
            neighbours: netlink.neighbours().await?,
        })
    }

    /// The device with this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The addresses of a device.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.ifindex == ifindex)
    }
}
