//! Addresses of devices.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use super::{
    error::{Result, tolerate},
    handle::Netlink,
};

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The device.
    pub ifindex: u32,
    /// Address with its prefix length, host bits kept.
    pub address: IpNetwork,
    /// Valid beyond the link (scope `global`).
    pub global: bool,
    /// An IPv4 address that is not the first of its subnet on the device, which goes when the first one goes; an IPv6
    /// address that is temporary (RFC 8981).
    pub secondary: bool,
    /// No new connection is to use it (RFC 4862 section 5.5.4).
    pub deprecated: bool,
    /// IPv6 duplicate address detection is still running or has failed: the address does not work.
    pub tentative: bool,
}

impl Address {
    fn parse(message: AddressMessage) -> Option<Self> {
        let (mut address, mut local) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Address(value) => address = Some(value),
                AddressAttribute::Local(value) => local = Some(value),
                AddressAttribute::Flags(value) => flags = value,
                _ => {}
            }
        }
        // On a point-to-point device IFA_ADDRESS is the other end and IFA_LOCAL this one (rtnetlink(7)).
        let address = IpNetwork::new(local.or(address)?, message.header.prefix_len).ok()?;
        Some(Self {
            ifindex: message.header.index,
            address,
            global: message.header.scope == AddressScope::Universe,
            // The same bit means "temporary" for IPv6 (IFA_F_TEMPORARY).
            secondary: flags.contains(AddressFlags::Secondary),
            deprecated: flags.contains(AddressFlags::Deprecated),
            tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        })
    }
}

fn build(ifindex: u32, address: IpNetwork) -> AddressMessage {
    match address.ip() {
        IpAddr::V4(ip) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(ifindex)
            .address(ip, address.prefix())
            .build(),
        IpAddr::V6(ip) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(ifindex)
                .address(ip, address.prefix())
                .build();
            // weft's leases are unique already; with duplicate address detection (RFC 4862 section 5.4) the address
            // could not be used for the first second.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    }
}

impl Netlink {
    /// All addresses of the namespace, both families.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        self.dump_addresses(AddressMessage::default()).await
    }

    /// The addresses of one device, both families.
    pub async fn addresses_of(&self, ifindex: u32) -> Result<Vec<Address>> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        message.header.family = AddressFamily::Unspec;
        match self.dump_addresses(message).await {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(Vec::new()),
            // Older kernels list every device where no family is given.
            result => result.map(|addresses| {
                addresses.into_iter().filter(|address| address.ifindex == ifindex).collect()
            }),
        }
    }

    async fn dump_addresses(&self, message: AddressMessage) -> Result<Vec<Address>> {
        let answer = self.dump("list addresses", RouteNetlinkMessage::GetAddress(message)).await?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => Address::parse(message),
                _ => None,
            })
            .collect())
    }

    /// Gives a device an address; `true` if it did not have it.
    pub async fn ensure_address(&self, ifindex: u32, address: IpNetwork) -> Result<bool> {
        let operation = format!("add address {address} to device with index {ifindex}");
        let message = RouteNetlinkMessage::NewAddress(build(ifindex, address));
        tolerate(self.change(&operation, message, NLM_F_CREATE | NLM_F_EXCL).await, &[Errno::EEXIST])
    }

    /// Takes an address from a device; `false` if it did not have it or the device is gone.
    pub async fn remove_address(&self, ifindex: u32, address: IpNetwork) -> Result<bool> {
        let operation = format!("remove address {address} from device with index {ifindex}");
        let message = RouteNetlinkMessage::DelAddress(build(ifindex, address));
        tolerate(self.change(&operation, message, 0).await, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }
}
