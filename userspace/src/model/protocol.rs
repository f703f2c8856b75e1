//! Transport protocols.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Transport protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One for each protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerProtocol<T> {
    /// TCP's.
    pub tcp: T,
    /// UDP's.
    pub udp: T,
    /// SCTP's.
    pub sctp: T,
}

impl<T> PerProtocol<T> {
    /// Made for each.
    pub fn new(mut make: impl FnMut(Protocol) -> T) -> Self {
        Self { tcp: make(Protocol::Tcp), udp: make(Protocol::Udp), sctp: make(Protocol::Sctp) }
    }

    /// That of a protocol.
    pub const fn of(&self, protocol: Protocol) -> &T {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Sctp => &self.sctp,
        }
    }

    /// Each with its protocol.
    pub fn each(&self) -> impl Iterator<Item = (Protocol, &T)> {
        Protocol::ALL.into_iter().map(|protocol| (protocol, self.of(protocol)))
    }
}
