//! What is declared of the host as a whole.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::PortRange;

/// UDP port of VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;

/// Settings of the host as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// Devices that lead to the world; empty: the device of the default route.
    pub uplinks: Vec<String>,
    /// Whether XDP serves them, where the files say so.
    #[serde(default)]
    pub xdp: BTreeMap<String, Xdp>,
    /// Own tunnel address; `None`: the first uplink's.
    pub vtep: Option<IpAddr>,
    /// UDP port of VXLAN; `None`: 4789 (RFC 7348).
    pub vxlan_port: Option<u16>,
    /// External ports that masquerade may use; `None`: everything from 1024 that the host does not use itself.
    pub masquerade_ports: Option<PortRange>,
    /// Number of flow records; `None`: the default of the dataplane.
    pub max_flows: Option<u32>,
    /// Flow timeouts.
    pub timeouts: Timeouts,
}

/// Whether XDP serves an uplink, before tc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// Where that was measured to be worth it.
    #[default]
    Auto,
    /// Where the driver can.
    On,
    /// No.
    Off,
}

impl Xdp {
    /// As in the files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Flow timeouts. Defaults are those that the RFCs recommend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// UDP mapping.
    pub udp: Duration,
    /// Established TCP connection.
    pub tcp_established: Duration,
    /// TCP connection of which only one end has been heard.
    pub tcp_opening: Duration,
    /// TCP connection that both ends have closed, or one has reset.
    pub tcp_closing: Duration,
    /// ICMP query.
    pub icmp_query: Duration,
    /// How long an external port stays with its socket after its last flow.
    pub port_hold: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7440),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            icmp_query: Duration::from_secs(60),
            port_hold: Duration::from_secs(120),
        }
    }
}

impl Timeouts {
    /// What is shorter than an RFC allows, in words.
    pub fn below_the_rfcs(&self) -> impl Iterator<Item = String> {
        let bounds = [
            ("udp", self.udp, 120, "RFC 4787 REQ-5"),
            ("tcp_established", self.tcp_established, 7440, "RFC 5382 REQ-5"),
            ("tcp_closing", self.tcp_closing, 240, "RFC 5382 REQ-5"),
            ("icmp_query", self.icmp_query, 60, "RFC 5508 REQ-2"),
            ("port_hold", self.port_hold, 120, "RFC 6888 REQ-8"),
        ];
        // RFC 7857 section 2.1 allows a shorter timeout for a connection that opens.
        bounds.into_iter().filter(|(_, given, least, _)| given.as_secs() < *least).map(
            |(name, given, least, source)| {
                format!("timeouts.{name} is {} s, and at least {least} s by {source}", given.as_secs())
            },
        )
    }
}
