//! Routes: the main table, the default route, and asking the kernel which way an address goes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope,
        RouteType, RouteVia,
    },
};
use nix::errno::Errno;

use super::{
    devices::SETTLING_PAUSE,
    error::{Result, tolerate},
    handle::Netlink,
};

/// Metric that the kernel gives IPv6 routes that name none (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;
/// Metric of the routes that it makes with IPv6 addresses (`IP6_RT_PRIO_ADDRCONF`).
const IPV6_CONNECTED_METRIC: u32 = 256;

/// A unicast route of the main table. A route with several next hops is several of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where it leads; the prefix length 0 is the default route.
    pub destination: IpNetwork,
    /// Next hop; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Outgoing device.
    pub ifindex: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
}

/// The kernel's answer to "which way to this address".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLookup {
    /// Outgoing device.
    pub ifindex: u32,
    /// The address is one of this namespace's own.
    pub local: bool,
}

// Checked when it is compiled: a prefix length of 0 is valid.
const EVERYTHING_IPV4: IpNetwork = match Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0) {
    Some(network) => IpNetwork::V4(network),
    None => unreachable!(),
};
const EVERYTHING_IPV6: IpNetwork = match Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0) {
    Some(network) => IpNetwork::V6(network),
    None => unreachable!(),
};

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        // An IPv4 route by an IPv6 next hop (RFC 8950).
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

impl Route {
    /// The default route by this gateway.
    pub const fn default_by(gateway: IpAddr, ifindex: u32) -> Self {
        let destination = match gateway {
            IpAddr::V4(_) => EVERYTHING_IPV4,
            IpAddr::V6(_) => EVERYTHING_IPV6,
        };
        Self { destination, gateway: Some(gateway), ifindex, source: None, metric: 0 }
    }

    /// The route to the subnet of an address, as the kernel makes it with the address.
    pub fn connected(address: IpNetwork, ifindex: u32) -> Self {
        let destination = IpNetwork::new(address.network(), address.prefix()).unwrap_or(address);
        let (source, metric) = match address {
            IpNetwork::V4(own) => (Some(own.ip().into()), 0),
            IpNetwork::V6(_) => (None, IPV6_CONNECTED_METRIC),
        };
        Self { destination, gateway: None, ifindex, source, metric }
    }

    /// Whether it has the metric of a route that was made without naming one.
    pub fn has_plain_metric(&self) -> bool {
        self.metric == Self { metric: 0, ..*self }.listed().metric
    }

    /// Whether these routes of the kernel's have it. The kernel fills in a source address of its own choice when it is
    /// asked for none.
    pub fn is_among(&self, routes: &[Self]) -> bool {
        let wanted = self.listed();
        let same = |listed: &Self| Self { source: wanted.source.and(listed.source), ..*listed } == wanted;
        routes.iter().any(same)
    }

    /// Whether this is a default route.
    pub fn is_default(&self) -> bool {
        self.destination.prefix() == 0
    }

    /// The same route with the metric that the kernel would list.
    fn listed(self) -> Self {
        match (self.destination, self.metric) {
            (IpNetwork::V6(_), 0) => Self { metric: IPV6_DEFAULT_METRIC, ..self },
            _ => self,
        }
    }

    fn parse(message: &RouteMessage) -> Vec<Self> {
        let header = &message.header;
        let mut table = u32::from(header.table);
        let mut route = Self {
            destination: match header.address_family {
                AddressFamily::Inet6 => EVERYTHING_IPV6,
                _ => EVERYTHING_IPV4,
            },
            gateway: gateway(&message.attributes),
            ifindex: 0,
            source: None,
            metric: 0,
        };
        let mut next_hops: &[RouteNextHop] = &[];
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    let network = ip(address)
                        .and_then(|address| IpNetwork::new(address, header.destination_prefix_length).ok());
                    let Some(network) = network else { return Vec::new() };
                    route.destination = network;
                }
                RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::Table(value) => table = *value,
                RouteAttribute::MultiPath(hops) => next_hops = hops,
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) || header.kind != RouteType::Unicast {
            return Vec::new();
        }
        if next_hops.is_empty() {
            return vec![route];
        }
        next_hops
            .iter()
            .map(|hop| Self { ifindex: hop.interface_index, gateway: gateway(&hop.attributes), ..route })
            .collect()
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let address_family =
            if self.destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.address_family = address_family;
        message.header.destination_prefix_length = self.destination.prefix();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match self.gateway {
            // As `ip route` chooses; the kernel takes a gateway only in the scope of the whole world.
            None if self.destination.is_ipv4() => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        let attributes = &mut message.attributes;
        if self.destination.prefix() != 0 {
            attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        }
        attributes.push(RouteAttribute::Oif(self.ifindex));
        match (self.gateway, self.destination) {
            (Some(IpAddr::V6(gateway)), IpNetwork::V4(_)) => {
                attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
            }
            (Some(gateway), _) => attributes.push(RouteAttribute::Gateway(gateway.into())),
            (None, _) => {}
        }
        if let Some(source) = self.source {
            attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }

    fn describe(&self) -> String {
        let gateway = self.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        format!("{}{gateway} on device with index {}", self.destination, self.ifindex)
    }
}

impl Netlink {
    /// All unicast routes of the main table, both families.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let answer = match self.dump("list routes", RouteNetlinkMessage::GetRoute(message)).await {
                Ok(answer) => answer,
                // A namespace without any IPv6 route has no such table yet; EAFNOSUPPORT: no IPv6 at all.
                Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EAFNOSUPPORT)) => continue,
                Err(error) => return Err(error),
            };
            for message in &answer {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    routes.extend(Route::parse(message));
                }
            }
        }
        Ok(routes)
    }

    /// Makes a route if it is not among `present`, the routes there are; `true` if it was missing. One to the same
    /// destination with the same metric but another way is replaced, so that there is no moment without any.
    pub async fn ensure_route(&self, route: &Route, present: &[Route]) -> Result<bool> {
        if route.is_among(present) {
            return Ok(false);
        }
        let operation = format!("add route {}", route.describe());
        let message = RouteNetlinkMessage::NewRoute(route.message());
        tolerate(self.change(&operation, message, NLM_F_CREATE | NLM_F_REPLACE).await, &[Errno::EEXIST])
    }

    /// Removes a route; `false` if there is none.
    pub async fn remove_route(&self, route: &Route) -> Result<bool> {
        let operation = format!("remove route {}", route.describe());
        let message = RouteNetlinkMessage::DelRoute(route.message());
        tolerate(self.change(&operation, message, 0).await, &[Errno::ESRCH, Errno::ENODEV])
    }

    /// Waits until packets for an IPv6 address of this namespace's are taken, but no longer than until `end`: the kernel lists
    /// an address at once, also one without duplicate address detection, but joins its solicited-node group and enters its
    /// local route in a work of its own (`addrconf_dad_work`), which waits for the lock of all network devices.
    pub async fn wait_until_local(&self, address: IpAddr, end: Instant) -> Result<()> {
        loop {
            let local = self.route_to(address).await?.is_some_and(|way| way.local);
            if local || Instant::now() >= end {
                return Ok(());
            }
            tokio::time::sleep(SETTLING_PAUSE).await;
        }
    }

    /// The way to an address by all rules and tables, `None` if there is none.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<RouteLookup>> {
        let mut message = RouteMessage::default();
        (message.header.address_family, message.header.destination_prefix_length) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.kind = RouteType::Unspec;
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let operation = format!("look up the route to {address}");
        let answer = match self.get(&operation, RouteNetlinkMessage::GetRoute(message)).await {
            Ok(answer) => answer,
            // The last three are routes of type unreachable, prohibit and blackhole.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(RouteNetlinkMessage::NewRoute(message)) = answer else { return Ok(None) };
        let local = message.header.kind == RouteType::Local;
        let usable = local || message.header.kind == RouteType::Unicast;
        let device = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) if *ifindex != 0 => Some(*ifindex),
            _ => None,
        });
        Ok(device.filter(|_| usable).map(|ifindex| RouteLookup { ifindex, local }))
    }
}
