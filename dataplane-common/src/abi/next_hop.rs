//! What the kernel's tables said of the way out.

use super::{MacAddress, pod};

pod! {
    /// The Ethernet header of what leaves by an uplink, as the kernel's tables had it.
    pub struct NextHop [32] {
        /// When it was asked for, in the terms of whoever keeps it.
        pub asked_ns: u64,
        /// MAC address of the router, or of the other end itself.
        pub destination: MacAddress,
        /// MAC address of the uplink.
        pub source: MacAddress,
        /// The uplink; 0 where the tables had no next hop.
        pub ifindex: u32,
        /// DSCP of the packet that it was asked for, in its place in the header: rules may look at it.
        pub type_of_service: u8,
        /// Zero.
        pub reserved: [u8; 7],
    }
}

impl NextHop {
    const NO_MAC: MacAddress = MacAddress { octets: [0; 6] };

    /// Never asked for.
    pub const UNKNOWN: Self = Self {
        asked_ns: 0,
        destination: Self::NO_MAC,
        source: Self::NO_MAC,
        ifindex: 0,
        type_of_service: 0,
        reserved: [0; 7],
    };
}
