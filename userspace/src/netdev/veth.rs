//! veth pairs: a container's cable to its network.

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::os::fd::{AsFd, AsRawFd};

use super::{
    devices::{Outcome, no_ipv6_address},
    error::Result,
    ethtool,
    handle::Netlink,
    link::{Link, LinkKind, VethPeer},
    namespace::Namespace,
};
use crate::model::MacAddress;

/// What a veth pair must be. The host's end has the kernel's random MAC address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethSpec {
    /// Name of the host's end.
    pub name: String,
    /// Mark of ownership on the host's end; a device without it is never touched.
    pub alias: String,
    /// Index of the bridge that the host's end is a port of.
    pub bridge: u32,
    /// Maximum transmission unit of both ends in bytes.
    pub mtu: u32,
    /// Containers of this network may not talk to one another, by the bridge neither.
    pub isolated: bool,
    /// Name of the container's end, such as `eth0`.
    pub container_name: String,
    /// MAC address of the container's end.
    pub container_mac_address: MacAddress,
    /// Largest segment that the container's stack gives to its end; `None`: the kernel's default of 65,536.
    ///
    /// An encapsulated packet has to fit the 65,535 bytes of an IPv4 total length with its outer headers.
    pub gso_max_size: Option<u32>,
    /// The container speaks IPv6. Otherwise a new end gets no link-local address, with which it would only look for routers.
    pub ipv6: bool,
    /// The container's end takes what an XDP program of the host sends to the host's end: the driver wants GRO on for that.
    /// `false` leaves it as it is.
    pub takes_xdp: bool,
    /// The host's end is to be up. `false` leaves it as it is, which is down for a new one: so programs can be
    /// attached before the first packet passes.
    pub up: bool,
}

/// A veth pair that is as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnsuredVeth {
    /// Index of the host's end.
    pub ifindex: u32,
    /// Index of the container's end in the container's namespace.
    pub container_ifindex: u32,
    /// What was done.
    pub outcome: Outcome,
}

/// The kernel's default of `gso_max_size` (`GSO_LEGACY_MAX_SIZE`).
const GSO_DEFAULT: u32 = 65_536;

impl VethSpec {
    /// Whether the host's end is as this asks.
    pub fn is_satisfied_by(&self, link: &Link) -> bool {
        link.name == self.name
            && link.alias.as_deref() == Some(&self.alias)
            && matches!(link.kind, LinkKind::Veth(_))
            && link.master == Some(self.bridge)
            && link.mtu == self.mtu
            && (link.up || !self.up)
            && link.port.is_some_and(|port| port.learning && !port.hairpin && port.isolated == self.isolated)
    }

    /// Whether the container's end, read in its namespace, is as this asks.
    pub fn is_satisfied_by_container_end(&self, link: &Link) -> bool {
        let gso_max_size = self.gso_max_size.unwrap_or(GSO_DEFAULT);
        link.name == self.container_name
            && link.mac_address == Some(self.container_mac_address)
            && link.mtu == self.mtu
            && link.up
            && link.gso_max_size.is_none_or(|size| size == gso_max_size)
            && link.gso_ipv4_max_size.is_none_or(|size| size == gso_max_size)
    }

    fn container_end(&self, builder: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
        // Both: IFLA_GSO_MAX_SIZE alone bounds IPv4 only while it is at most 65,536, and older kernels know only it.
        let size = self.gso_max_size.unwrap_or(GSO_DEFAULT);
        builder
            .name(&self.container_name)
            .address(self.container_mac_address.0.to_vec())
            .mtu(self.mtu)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(size))
            .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(size))
    }

    fn create(&self, container: &Namespace) -> LinkMessage {
        let peer = self
            .container_end(LinkMessageBuilder::<LinkUnspec>::new())
            .setns_by_fd(container.as_fd().as_raw_fd())
            .build();
        LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(&self.name)
            .mtu(self.mtu)
            .controller(self.bridge)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build()
    }

    /// The second request: alias and port flags are ignored in the one that creates the device. The host's end goes
    /// up only here or later, so nothing passes before the pair is complete.
    fn configure_host_end(&self, ifindex: u32) -> LinkMessage {
        let message = LinkBridgePort::new(ifindex)
            .alias(&self.alias)
            .mtu(self.mtu)
            .controller(self.bridge)
            .learning(true)
            .hairpin(false)
            .isolated(self.isolated);
        let message = match no_ipv6_address() {
            Some(attribute) => message.append_extra_attribute(attribute),
            None => message,
        };
        if self.up { message.up().build() } else { message.build() }
    }
}

impl Netlink {
    /// Makes a veth pair between this namespace and a container's, or puts both ends right. `inside` is a connection
    /// to `container`.
    ///
    /// A host's end that leads elsewhere, such as into a namespace of the same name that is gone, is made anew. A
    /// device that is not weft's is an error and stays, in the container as well.
    pub async fn ensure_veth(
        &self,
        spec: &VethSpec,
        container: &Namespace,
        inside: &Netlink,
    ) -> Result<EnsuredVeth> {
        if let Some(host) = self.link(&spec.name).await? {
            // What a daemon leaves that is killed between the two requests: down, not marked, in our bridge.
            let unfinished = matches!(host.kind, LinkKind::Veth(_))
                && host.is_unmarked()
                && host.master == Some(spec.bridge);
            if !unfinished {
                host.owned(self, "veth", &spec.alias)?;
            }
            if let Some(peer) = self.container_end_of(&host, container, inside).await? {
                let mut ensured = self.repair_veth(spec, &host, &peer, inside).await?;
                if self.ensure_takes_xdp(spec, container).await? && ensured.outcome == Outcome::Unchanged {
                    ensured.outcome = Outcome::Changed;
                }
                return Ok(ensured);
            }
            self.remove_link_by_index(host.ifindex, &spec.name).await?;
        }
        // The kernel would refuse it as well, but without saying which of the two names is taken.
        if let Some(taken) = inside.link(&spec.container_name).await? {
            taken.owned(inside, "veth", &format!("{}, its other end being {}", spec.alias, spec.name))?;
        }
        let operation = format!("create veth {} with {} in {container}", spec.name, spec.container_name);
        self.create_link(&operation, spec.create(container)).await?;
        let host = self.expect_link(&spec.name).await?;
        self.change_link(&format!("configure veth {}", spec.name), spec.configure_host_end(host.ifindex))
            .await?;
        let container_ifindex = match host.kind {
            LinkKind::Veth(Some(VethPeer { ifindex, .. })) => ifindex,
            _ => inside.expect_link(&spec.container_name).await?.ifindex,
        };
        // Not in the first request: while the pair is made its ends do not know each other yet, and veth_open refuses.
        let message = LinkUnspec::new_with_index(container_ifindex).up();
        let message = match no_ipv6_address().filter(|_| !spec.ipv6) {
            Some(attribute) => message.append_extra_attribute(attribute),
            None => message,
        }
        .build();
        inside.change_link(&format!("set device {} up", spec.container_name), message).await?;
        self.ensure_takes_xdp(spec, container).await?;
        Ok(EnsuredVeth { ifindex: host.ifindex, container_ifindex, outcome: Outcome::Created })
    }

    /// Has the container's end take what XDP sends to it. Between two namespaces nothing else that a container hears
    /// comes by that way, so it costs nothing else anything.
    async fn ensure_takes_xdp(&self, spec: &VethSpec, container: &Namespace) -> Result<bool> {
        if !spec.takes_xdp {
            return Ok(false);
        }
        let device = spec.container_name.clone();
        container.run("switch GRO on for XDP", move || ethtool::ensure_gro(&device)).await
    }

    /// The other end of `host`, if it is in `container`.
    async fn container_end_of(
        &self,
        host: &Link,
        container: &Namespace,
        inside: &Netlink,
    ) -> Result<Option<Link>> {
        let LinkKind::Veth(Some(peer)) = host.kind else { return Ok(None) };
        // Indexes repeat from namespace to namespace, so the namespace has to be compared, too.
        if peer.namespace_id.is_none() || self.namespace_id(container).await? != peer.namespace_id {
            return Ok(None);
        }
        inside.link_by_index(peer.ifindex).await
    }

    async fn repair_veth(
        &self,
        spec: &VethSpec,
        host: &Link,
        peer: &Link,
        inside: &Netlink,
    ) -> Result<EnsuredVeth> {
        let mut outcome = Outcome::Unchanged;
        if !spec.is_satisfied_by_container_end(peer) {
            let operation = format!("configure {}", spec.container_name);
            if peer.name != spec.container_name && peer.up {
                // Only a device that is down can be renamed (dev_change_name).
                inside
                    .change_link(&operation, LinkUnspec::new_with_index(peer.ifindex).down().build())
                    .await?;
            }
            let message = spec.container_end(LinkUnspec::new_with_index(peer.ifindex)).up().build();
            inside.change_link(&operation, message).await?;
            outcome = Outcome::Changed;
        }
        if !spec.is_satisfied_by(host) {
            let operation = format!("configure veth {}", spec.name);
            if host.master != Some(spec.bridge) {
                // Port flags can only be set on a port, and the kernel looks at them before the new master.
                let message = LinkUnspec::new_with_index(host.ifindex).controller(spec.bridge).build();
                self.change_link(&operation, message).await?;
            }
            self.change_link(&operation, spec.configure_host_end(host.ifindex)).await?;
            outcome = Outcome::Changed;
        }
        Ok(EnsuredVeth { ifindex: host.ifindex, container_ifindex: peer.ifindex, outcome })
    }
}
