//! Networks as they are declared.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{Family, PerFamily};

/// One layer-2 network: a bridge device here and, for an overlay, a vxlan device in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Bridge or overlay.
    pub driver: Driver,
    /// Members have IPv4 addresses (`enable_ipv4`).
    pub enable_ipv4: bool,
    /// Members have IPv6 addresses (`enable_ipv6`).
    pub enable_ipv6: bool,
    /// Subnets, at most one for each enabled address family; weft picks one where none is given.
    pub subnets: Vec<Subnet>,
    /// Whom its members reach, and who reaches them.
    pub policy: Policy,
    /// MTU in bytes of the containers' interfaces; `None`: the uplink's, less 50 or 70 bytes for an overlay.
    pub mtu: Option<u32>,
    /// Name of the bridge device (`com.docker.network.bridge.name`); `None`: derived from the network's name.
    pub bridge_name: Option<String>,
    /// Host address of publications that name none (`com.docker.network.bridge.host_binding_ipv4`).
    pub host_binding: Option<IpAddr>,
}

impl Network {
    /// Whether its members have addresses of this family.
    pub const fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.enable_ipv4,
            Family::V6 => self.enable_ipv6,
        }
    }

    /// The subnet that the user gave it.
    pub fn subnet(&self, family: Family) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| Family::of(subnet.range.ip()) == family)
    }
}

/// Whom the members of a network reach, who reaches them, and by which addresses. The default is Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Nothing but the members and the host itself is reachable.
    pub internal: bool,
    /// Members may talk to one another (`com.docker.network.bridge.enable_icc`).
    pub inter_container: bool,
    /// Traffic to the world leaves with the uplink's address (`com.docker.network.bridge.enable_ip_masquerade`).
    pub masquerade: bool,
    /// Whom masqueraded members hear uninvited (`weft.filtering`).
    pub filtering: Filtering,
    /// The gateway mode of each family where it is not `nat` (`com.docker.network.bridge.gateway_mode_ipv4` and `_ipv6`).
    pub gateway_modes: PerFamily<GatewayMode>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            internal: false,
            inter_container: true,
            masquerade: true,
            filtering: Filtering::default(),
            gateway_modes: PerFamily::default(),
        }
    }
}

impl Policy {
    /// Whether the world knows the members by their own addresses of this family.
    pub fn is_routed(&self, family: Family) -> bool {
        self.gateway_modes.of(family) == Some(&GatewayMode::Routed)
    }

    /// Whether the host has nothing to do with the network.
    pub fn is_isolated(&self) -> bool {
        self.gateway_modes.iter().any(|mode| *mode == GatewayMode::Isolated)
    }

    /// What is not as by default, for people.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (set, word) in [
            (self.internal, "internal"),
            (!self.inter_container, "isolated-members"),
            (!self.masquerade, "no-masquerade"),
        ] {
            words.extend(set.then(|| word.to_owned()));
        }
        let filters = self.filtering != Filtering::default();
        words.extend(filters.then(|| format!("filtering={}", self.filtering)));
        let modes = self.gateway_modes.by_family();
        words.extend(modes.map(|(family, mode)| format!("gateway-mode-{family}={mode}")));
        words
    }
}

/// Docker's gateway modes but `nat`, where the world knows the members by the host's addresses and published ports alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// As `nat`, and whoever has a route reaches every port of the members by their own addresses.
    NatUnprotected,
    /// The world knows the members by their own addresses, and reaches their published ports by them.
    Routed,
    /// Of an internal network: the host has no address in it, and nothing to do with it.
    Isolated,
}

impl GatewayMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NatUnprotected, Self::Routed, Self::Isolated];
}

impl fmt::Display for GatewayMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NatUnprotected => "nat-unprotected",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        })
    }
}

/// How a network reaches other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Only this host.
    Bridge,
    /// VXLAN to the peers, with this 24-bit VXLAN network identifier (RFC 7348 section 5).
    Overlay {
        /// VXLAN network identifier, 1 to 2^24 - 1.
        vni: u32,
    },
}

/// Whose packets reach the external port of a masqueraded container's socket (RFC 4787 section 5, RFC 5382 section 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Of the addresses and ports that the socket has sent to.
    #[default]
    AddressAndPort,
    /// Of any port of an address that the socket has sent to.
    Address,
    /// Of everybody.
    EndpointIndependent,
}

impl Filtering {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AddressAndPort, Self::Address, Self::EndpointIndependent];
}

impl fmt::Display for Filtering {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::AddressAndPort => "address-and-port",
            Self::Address => "address",
            Self::EndpointIndependent => "endpoint-independent",
        })
    }
}

/// One address range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range, host bits zero.
    pub range: IpNetwork,
    /// The bridge's address; `None`: the first of the range.
    pub gateway: Option<IpAddr>,
    /// Only addresses of this part are leased (`ip_range`).
    pub lease_range: Option<IpNetwork>,
    /// Addresses never leased (`aux_addresses`).
    pub reserved: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_what_is_unusual_in_it() {
        assert_eq!(Policy::default().words(), Vec::<String>::new());
        let policy = Policy {
            internal: true,
            inter_container: false,
            masquerade: false,
            filtering: Filtering::Address,
            gateway_modes: PerFamily { v4: None, v6: Some(GatewayMode::Isolated) },
        };
        let expected = [
            "internal",
            "isolated-members",
            "no-masquerade",
            "filtering=address",
            "gateway-mode-ipv6=isolated",
        ];
        assert_eq!(policy.words(), expected);
        assert!(policy.is_isolated() && !Policy::default().is_isolated());
    }
}
