//! Forwarding entries of bridges and vxlan devices, and neighbour entries: who is behind which device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use nix::errno::Errno;

use super::{
    error::{Result, tolerate},
    handle::Netlink,
};
use crate::model::MacAddress;

/// Frames to every address that has no entry of its own go to the destinations of this one (vxlan head-end
/// replication).
const EVERYONE: MacAddress = MacAddress([0; 6]);
/// `bridge fdb … static`: never ages, and unlike a permanent entry it does not mean the bridge itself.
const STATIC: u16 = libc::NUD_NOARP | libc::NUD_REACHABLE;

/// One line of `bridge fdb show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForwardingEntry {
    /// The port or vxlan device.
    pub ifindex: u32,
    /// Destination address of the frame.
    pub mac_address: MacAddress,
    /// Tunnel endpoint, only for a vxlan device's own entries.
    pub destination: Option<IpAddr>,
    /// Index of the bridge that holds the entry; `None`: the device itself does (`self`).
    pub bridge: Option<u32>,
    /// Was put there and never ages, as opposed to learned.
    pub permanent: bool,
}

/// One line of `ip neighbour show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// The device.
    pub ifindex: u32,
    /// Address of the neighbour.
    pub address: IpAddr,
    /// Its MAC address, `None` while it is being resolved.
    pub mac_address: Option<MacAddress>,
    /// Was put there and never expires.
    pub permanent: bool,
}

fn mac(attributes: &[NeighbourAttribute]) -> Option<MacAddress> {
    attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(MacAddress),
        _ => None,
    })
}

fn destination(attributes: &[NeighbourAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((*address).into()),
        // The family of a forwarding entry is "bridge"; its tunnel endpoint's shows only in the length.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).map(|bytes| Ipv4Addr::from(bytes).into()).ok().or_else(
                || <[u8; 16]>::try_from(bytes.as_slice()).map(|bytes| Ipv6Addr::from(bytes).into()).ok(),
            )
        }
        _ => None,
    })
}

impl ForwardingEntry {
    fn parse(message: &NeighbourMessage) -> Option<Self> {
        let own = message.header.flags.contains(NeighbourFlags::Own);
        let master = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Controller(ifindex) => Some(*ifindex),
            _ => None,
        });
        Some(Self {
            ifindex: message.header.ifindex,
            mac_address: mac(&message.attributes)?,
            destination: destination(&message.attributes),
            bridge: master.filter(|_| !own),
            permanent: is_permanent(message.header.state),
        })
    }
}

fn is_permanent(state: NeighbourState) -> bool {
    u16::from(state) & (libc::NUD_PERMANENT | libc::NUD_NOARP) != 0
}

fn entry(
    ifindex: u32,
    mac: MacAddress,
    destination: Option<IpAddr>,
    flags: NeighbourFlags,
) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.flags = flags;
    message.header.state = NeighbourState::Other(STATIC);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    if let Some(destination) = destination {
        message.attributes.push(NeighbourAttribute::Destination(destination.into()));
    }
    message
}

fn neighbour(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

impl Netlink {
    /// The forwarding entries of one device: its own and its bridge's for it. (For all devices the kernel would go through
    /// the bridge's table once for every port, rtnl_fdb_dump, and every device adds its multicast filter.)
    pub async fn forwarding_entries(&self, ifindex: u32) -> Result<Vec<ForwardingEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = ifindex;
        let answer = self.dump("list forwarding entries", RouteNetlinkMessage::GetNeighbour(message)).await?;
        Ok(answer
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => ForwardingEntry::parse(message),
                _ => None,
            })
            .collect())
    }

    /// All neighbour entries, both families.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answer = self.dump("list neighbours", message).await?;
        Ok(answer
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => Some(Neighbour {
                    ifindex: message.header.ifindex,
                    address: destination(&message.attributes)?,
                    mac_address: mac(&message.attributes),
                    permanent: message.header.state == NeighbourState::Permanent,
                }),
                _ => None,
            })
            .collect())
    }

    /// Sends broadcast, multicast and unknown unicast of a vxlan device to this tunnel endpoint as well.
    pub async fn ensure_vxlan_flood(&self, vxlan: u32, destination: IpAddr) -> Result<()> {
        let operation = format!("flood vxlan device with index {vxlan} to {destination}");
        let message = entry(vxlan, EVERYONE, Some(destination), NeighbourFlags::Own);
        // Appending a destination that is there changes nothing (vxlan_fdb_append).
        self.change(&operation, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_APPEND).await
    }

    /// Undoes [`Self::ensure_vxlan_flood`], also where it was not so: the kernel makes no difference.
    pub async fn remove_vxlan_flood(&self, vxlan: u32, destination: IpAddr) -> Result<()> {
        let message = entry(vxlan, EVERYONE, Some(destination), NeighbourFlags::Own);
        let operation = format!("stop flooding vxlan device with index {vxlan} to {destination}");
        self.remove_entry(&operation, message).await.map(drop)
    }

    /// Makes a MAC address known behind a tunnel endpoint: to the vxlan device, and to its bridge as behind that port.
    pub async fn ensure_vxlan_forwarding(
        &self,
        vxlan: u32,
        mac: MacAddress,
        destination: IpAddr,
    ) -> Result<()> {
        let operation = format!("forward {mac} on vxlan device with index {vxlan} to {destination}");
        // One request for both tables (rtnl_fdb_add); the bridge ignores the tunnel endpoint.
        let message = entry(vxlan, mac, Some(destination), NeighbourFlags::Own | NeighbourFlags::Controller);
        self.change(&operation, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .await
    }

    /// Undoes [`Self::ensure_vxlan_forwarding`]; `false` if neither table had the entry.
    pub async fn remove_vxlan_forwarding(&self, vxlan: u32, mac: MacAddress) -> Result<bool> {
        let operation = format!("stop forwarding {mac} on vxlan device with index {vxlan}");
        // Two requests: the kernel stops at the first table that does not have it (rtnl_fdb_del).
        let in_bridge =
            self.remove_entry(&operation, entry(vxlan, mac, None, NeighbourFlags::Controller)).await?;
        let in_device = self.remove_entry(&operation, entry(vxlan, mac, None, NeighbourFlags::Own)).await?;
        Ok(in_bridge || in_device)
    }

    async fn remove_entry(&self, operation: &str, message: NeighbourMessage) -> Result<bool> {
        let message = RouteNetlinkMessage::DelNeighbour(message);
        // EOPNOTSUPP: the device is in no bridge, so no bridge has an entry of it.
        let absent = [Errno::ENOENT, Errno::ENODEV, Errno::EOPNOTSUPP];
        tolerate(self.change(operation, message, 0).await, &absent)
    }

    /// Gives a device a permanent neighbour; a bridge with it answers ARP on ports with neighbour suppression.
    pub async fn ensure_neighbour(&self, ifindex: u32, address: IpAddr, mac: MacAddress) -> Result<()> {
        let operation = format!("make {address} a neighbour at {mac} on device with index {ifindex}");
        let mut message = neighbour(ifindex, address);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.change(&operation, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .await
    }

    /// Removes a neighbour; `false` if there is none.
    pub async fn remove_neighbour(&self, ifindex: u32, address: IpAddr) -> Result<bool> {
        let operation = format!("remove neighbour {address} of device with index {ifindex}");
        let message = RouteNetlinkMessage::DelNeighbour(neighbour(ifindex, address));
        tolerate(self.change(&operation, message, 0).await, &[Errno::ENOENT, Errno::ENODEV])
    }

    /// Has a device answer neighbour solicitations for an address, if its `proxy_ndp` is set. One that is there stays.
    pub async fn ensure_proxy(&self, ifindex: u32, address: IpAddr) -> Result<()> {
        let operation = format!("have device with index {ifindex} answer for {address}");
        let mut message = neighbour(ifindex, address);
        message.header.flags = NeighbourFlags::Proxy;
        self.change(&operation, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .await
    }
}
