//! vxlan devices: an overlay network's slow path to its peers.

use std::net::IpAddr;

use netlink_packet_route::link::{InfoKind, InfoVxlan, LinkMessage};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{
    devices::{Ensured, Outcome},
    error::Result,
    handle::Netlink,
    link::{Link, LinkKind, PortFlags, VxlanAttributes},
};

/// Time to live of the outer header; a device without one sends multicast with 1 and inherits nothing useful.
const OUTER_TTL: u8 = 64;

/// What a vxlan device must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Name of the device.
    pub name: String,
    /// Mark of ownership; a device without it is never touched.
    pub alias: String,
    /// VXLAN network identifier, 1 to 2^24 - 1.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Own tunnel address.
    pub local: IpAddr,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Index of the bridge this is a port of.
    pub bridge: u32,
    /// Other isolated ports of the bridge cannot talk to it, nor it to them.
    pub isolated: bool,
}

impl VxlanSpec {
    /// Whether a device is as this asks.
    pub fn is_satisfied_by(&self, link: &Link) -> bool {
        link.name == self.name
            && link.alias.as_deref() == Some(&self.alias)
            && matches!(&link.kind, LinkKind::Vxlan(vxlan) if *vxlan == self.attributes())
            && link.mtu == self.mtu
            && link.up
            && self.is_port(link)
    }

    fn is_port(&self, link: &Link) -> bool {
        link.master == Some(self.bridge) && link.port == Some(self.port_flags())
    }

    /// Learning would overwrite the controller's entries with what an attacker sends; the bridge answers ARP for
    /// everyone it has a neighbour entry of instead of sending it to every peer.
    const fn port_flags(&self) -> PortFlags {
        PortFlags { learning: false, neighbour_suppression: true, isolated: self.isolated, hairpin: false }
    }

    const fn attributes(&self) -> VxlanAttributes {
        VxlanAttributes {
            vni: self.vni,
            port: self.port,
            local: Some(self.local),
            learning: false,
            ttl: OUTER_TTL,
            udp_checksum: false,
        }
    }

    /// Whether the device can be brought to this without making it anew: vxlan_nl2conf refuses to change the
    /// identifier, the port, the checksum and the family of the addresses.
    fn is_changeable(&self, vxlan: &VxlanAttributes) -> bool {
        vxlan.vni == self.vni
            && vxlan.port == self.port
            && !vxlan.udp_checksum
            && vxlan.local.is_some_and(|local| local.is_ipv4() == self.local.is_ipv4())
    }

    fn changeable(&self, builder: LinkMessageBuilder<LinkVxlan>) -> LinkMessageBuilder<LinkVxlan> {
        let builder = builder
            .append_info_data(InfoVxlan::Id(self.vni))
            // The controller writes every entry; what it does not know has to stay unknown.
            .learning(false)
            .ttl(OUTER_TTL);
        match self.local {
            IpAddr::V4(local) => builder.local(local),
            IpAddr::V6(local) => builder.local6(local),
        }
    }

    fn create(&self) -> LinkMessage {
        let builder = self
            .changeable(LinkMessageBuilder::<LinkVxlan>::new(&self.name))
            .port(self.port)
            .udp_csum(false)
            .mtu(self.mtu)
            .controller(self.bridge);
        match self.local {
            IpAddr::V4(_) => builder,
            // RFC 6935: a tunnel may use zero checksums over IPv6 where both ends agree.
            IpAddr::V6(_) => builder.udp_zero_csum6_tx(true).udp_zero_csum6_rx(true),
        }
        .build()
    }
}

impl Netlink {
    /// Makes a vxlan device or puts it right; it is made anew, with no forwarding entry, where the kernel cannot change
    /// it ([`Outcome::Created`]). A device of that name that is not weft's is an error and stays.
    pub async fn ensure_vxlan(&self, spec: &VxlanSpec) -> Result<Ensured> {
        let name = &spec.name;
        let mut outcome = Outcome::Created;
        let mut existing = self.link(name).await?;
        if let Some(link) = &existing {
            if spec.is_satisfied_by(link) {
                return Ok(Ensured { ifindex: link.ifindex, outcome: Outcome::Unchanged });
            }
            let vxlan = match &link.kind {
                LinkKind::Vxlan(vxlan) => Some(*vxlan),
                _ => None,
            };
            // What a daemon leaves that is killed between the requests below: down, not marked, with our identifier.
            let unfinished = link.is_unmarked() && vxlan.is_some_and(|vxlan| vxlan.vni == spec.vni);
            if !unfinished {
                link.owned(self, "vxlan", &spec.alias)?;
            }
            if let Some(vxlan) = vxlan.filter(|vxlan| spec.is_changeable(vxlan)) {
                if vxlan != spec.attributes() {
                    let builder = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan);
                    let message = spec.changeable(builder.index(link.ifindex)).build();
                    self.change_link(&format!("configure vxlan {name}"), message).await?;
                }
                outcome = Outcome::Changed;
            } else {
                self.remove_link_by_index(link.ifindex, name).await?;
                existing = None;
            }
        }
        let link = match existing {
            Some(link) => link,
            None => {
                self.create_link(&format!("create vxlan {name} with VNI {}", spec.vni), spec.create())
                    .await?;
                self.expect_link(name).await?
            }
        };
        if link.master != Some(spec.bridge) {
            let message = LinkUnspec::new_with_index(link.ifindex).controller(spec.bridge).build();
            self.change_link(&format!("make vxlan {name} a port of its bridge"), message).await?;
        }
        let flags = spec.port_flags();
        let message = LinkBridgePort::new(link.ifindex)
            .alias(&spec.alias)
            .mtu(spec.mtu)
            .up()
            .learning(flags.learning)
            .neigh_suppress(flags.neighbour_suppression)
            .isolated(flags.isolated)
            .hairpin(flags.hairpin)
            .build();
        self.change_link(&format!("configure vxlan {name}"), message).await?;
        Ok(Ensured { ifindex: link.ifindex, outcome })
    }
}
