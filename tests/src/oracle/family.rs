//! IPv4 and IPv6, and everybody's addresses in each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// What a network has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Families {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// An address of the segment that hosts and client are on.
    fn outside(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, last).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    /// Of the containers' subnets.
    pub fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// The loopback address.
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The unspecified address.
    pub fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl Families {
    /// Whether this one is among them.
    pub fn has(self, family: Family) -> bool {
        !matches!((self, family), (Self::V4, Family::V6) | (Self::V6, Family::V4))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.has(*family))
    }
}

/// An address in the subnet with this number at a host, or of an overlay, which is the place behind the last host.
pub fn subnet_of(place: usize, number: usize, family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, place as u8 + 1, number as u8, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, place as u16 + 1, number as u16, 0, 0, 0, 0, last.into()).into(),
    }
}

/// The address of a host's uplink.
pub fn uplink(host: usize, family: Family) -> IpAddr {
    family.outside(host as u8 + 1)
}

/// The outside client.
pub fn client(family: Family) -> IpAddr {
    family.outside(100)
}
