//! Bridge devices: the slow path of a network, with the gateway address on it.

use netlink_packet_route::link::{BridgeStpState, InfoKind, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder};

use super::{
    devices::{Ensured, Outcome},
    error::Result,
    handle::Netlink,
    link::{Link, LinkKind},
};
use crate::model::MacAddress;

/// What a bridge device must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Name of the device.
    pub name: String,
    /// Mark of ownership; a device without it is never touched.
    pub alias: String,
    /// Fixed address. Without one a bridge takes the lowest of its ports' and changes it under the containers'
    /// neighbour caches.
    pub mac_address: MacAddress,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
}

impl BridgeSpec {
    /// Whether a device is as this asks.
    pub fn is_satisfied_by(&self, link: &Link) -> bool {
        link.name == self.name
            && link.alias.as_deref() == Some(&self.alias)
            && link.mac_address == Some(self.mac_address)
            && link.mtu == self.mtu
            && link.up
            && matches!(&link.kind, LinkKind::Bridge(bridge)
                if !bridge.spanning_tree && !bridge.multicast_snooping)
    }

    /// Settings that may be sent to a new and to an existing bridge alike.
    fn settings(&self, builder: LinkMessageBuilder<LinkBridge>) -> LinkMessageBuilder<LinkBridge> {
        builder
            .address(self.mac_address.0.to_vec())
            // Containers are leaves: no loop to guard against, and a port must forward at once.
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            // Nobody queries in a container network: snooping would only cut members off whose reports were missed,
            // and an overlay's multicast has to reach every peer.
            .mcast_snooping(false)
            // weft's rules are eBPF; bridged frames must not meet the host's iptables.
            .nf_call_iptables(false)
            .nf_call_ip6tables(false)
            .nf_call_arptables(false)
    }
}

impl Netlink {
    /// Makes a bridge or puts it right. A device of that name that is not weft's is an error and stays.
    ///
    /// Whatever made it [`Outcome::Changed`] may have cost more than that: the kernel forgets all neighbours, permanent
    /// ones included, when the MAC address changes (neigh_changeaddr), and routes when a device goes down.
    pub async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<Ensured> {
        let name = &spec.name;
        let (link, outcome) = match self.link(name).await? {
            Some(link) if spec.is_satisfied_by(&link) => {
                return Ok(Ensured { ifindex: link.ifindex, outcome: Outcome::Unchanged });
            }
            // What a daemon leaves that is killed between the two requests below: down, not marked, with our address.
            Some(link)
                if matches!(link.kind, LinkKind::Bridge(_))
                    && link.is_unmarked()
                    && link.mac_address == Some(spec.mac_address) =>
            {
                (link, Outcome::Created)
            }
            Some(link) => {
                link.owned(self, "bridge", &spec.alias)?;
                (link, Outcome::Changed)
            }
            None => {
                // A bridge follows the smallest MTU of its ports until it is given one that differs from the one it
                // has (br_change_mtu); an MTU at creation does not count. So it starts with another one.
                let other = if spec.mtu == 1500 { 1499 } else { 1500 };
                let message = spec.settings(LinkMessageBuilder::<LinkBridge>::new(name)).mtu(other).build();
                self.create_link(&format!("create bridge {name}"), message).await?;
                (self.expect_link(name).await?, Outcome::Created)
            }
        };
        if matches!(&link.kind, LinkKind::Bridge(bridge) if bridge.spanning_tree) {
            // A forward delay of 0 is refused while the protocol runs, and the kernel sets the delay first.
            let message = BridgeSpec::existing(&link).stp_state(BridgeStpState::Disabled).build();
            self.change_link(&format!("stop the spanning tree protocol of bridge {name}"), message).await?;
        }
        let message = spec.change(&link);
        self.change_link(&format!("configure bridge {name}"), message).await?;
        Ok(Ensured { ifindex: link.ifindex, outcome })
    }
}

impl BridgeSpec {
    fn existing(link: &Link) -> LinkMessageBuilder<LinkBridge> {
        LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge).index(link.ifindex)
    }

    fn change(&self, link: &Link) -> LinkMessage {
        // The alias is ignored in a request that creates a device (rtnl_create_link), so it is always sent here.
        self.settings(Self::existing(link).alias(&self.alias).mtu(self.mtu).up()).build()
    }
}
