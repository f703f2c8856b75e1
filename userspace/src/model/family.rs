//! The two address families side by side.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address that stands for every address.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// As in the names of Docker's options.
impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// An address as it is written before a port (RFC 3986 section 3.2.2).
#[derive(Debug, Clone, Copy)]
pub struct BeforePort(pub IpAddr);

impl fmt::Display for BeforePort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(out),
            IpAddr::V6(address) => write!(out, "[{address}]"),
        }
    }
}

/// At most one thing for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PerFamily<T> {
    /// For IPv4.
    pub v4: Option<T>,
    /// For IPv6.
    pub v6: Option<T>,
}

impl<T> Default for PerFamily<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> PerFamily<T> {
    /// What there is for one family.
    pub const fn of(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// What there is for one family, to be changed.
    pub const fn of_mut(&mut self, family: Family) -> Option<&mut T> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    /// Enters something for one family.
    pub fn set(&mut self, family: Family, value: Option<T>) {
        match family {
            Family::V4 => self.v4 = value,
            Family::V6 => self.v6 = value,
        }
    }

    /// What there is, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.v4.iter().chain(&self.v6)
    }

    /// What there is, each with its family.
    pub fn by_family(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::BOTH.into_iter().filter_map(|family| Some((family, self.of(family)?)))
    }

    /// Made of what there is.
    pub fn map<U>(self, mut make: impl FnMut(T) -> U) -> PerFamily<U> {
        PerFamily { v4: self.v4.map(&mut make), v6: self.v6.map(make) }
    }
}
