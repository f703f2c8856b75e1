//! Counters: which way packets took, and why the dropped ones were dropped.

use super::pod;

pod! {
    /// One cell of the per-CPU maps `counters` and `drops`. A GSO packet counts as the segments it stands for.
    pub struct Counter [16] {
        /// Packets on the wire.
        pub packets: u64,
        /// Bytes, Ethernet header included.
        pub bytes: u64,
    }
}

/// Entries of `counters` and `drops`. More than there are names today: a new name must not make an upgrade refuse the
/// pinned map.
pub const COUNTER_CELLS: usize = 64;
const _: () = assert!(Path::ALL.len() <= COUNTER_CELLS && DropReason::ALL.len() <= COUNTER_CELLS);

/// Declares an enum whose variants index a per-CPU array and have a name for people.
macro_rules! indexed {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$variant_meta])* $variant,)* }
        impl $name {
            /// Every variant, in the order of its index. Append only: indices are part of the ABI.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Number of variants.
            pub const COUNT: u32 = Self::ALL.len() as u32;
            /// The name scripts rely on.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

indexed! {
    /// The way a packet took. A hairpin packet counts once, on the hairpin path.
    pub enum Path {
        /// Container to container of the same network on this host.
        Bridge = "bridge",
        /// Container to the world, source translated.
        MasqueradeOut = "masquerade_out",
        /// The world to a container, reply of a masqueraded flow.
        MasqueradeIn = "masquerade_in",
        /// From an uplink to a published port.
        PortmapIn = "portmap_in",
        /// From a container back to the client of a published port.
        PortmapOut = "portmap_out",
        /// From a container through a published port of this host to a container.
        HairpinIn = "hairpin_in",
        /// The reply of the same.
        HairpinOut = "hairpin_out",
        /// Container to a container on another host.
        Encapsulate = "encapsulate",
        /// The other way.
        Decapsulate = "decapsulate",
        /// Between a container and this host itself, by the kernel's stack.
        Host = "host",
        /// ARP, broadcast, multicast and unknown destinations, by the bridge or vxlan device.
        SlowPath = "slow_path",
        /// From an uplink, not weft's business.
        NotOurs = "not_ours",
        /// A socket of this host connected or sent to a published port and was led to the container.
        HostSocket = "host_socket",
        /// A fragment that came before the first of its datagram waits for it.
        FragmentWaits = "fragment_waits",
        /// An ICMP error about a packet of a flow, translated like the packet.
        IcmpError = "icmp_error",
        /// Container of a routed network to the world, with its own address.
        RoutedOut = "routed_out",
        /// The answer.
        RoutedIn = "routed_in",
        /// What XDP has carried or dropped on an uplink. Each of these packets counts as what it is, too.
        Xdp = "xdp",
    }
}

indexed! {
    /// Why a packet was dropped.
    pub enum DropReason {
        /// The device has no record: the controller has not finished setting it up, or has removed it.
        UnknownDevice = "unknown_device",
        /// A header is cut short or contradicts another.
        Malformed = "malformed",
        /// The source MAC address is not the container's.
        SpoofedMac = "spoofed_mac",
        /// The source IP or ARP sender address is not the container's.
        SpoofedAddress = "spoofed_address",
        /// An address family or EtherType that weft does not carry.
        UnsupportedProtocol = "unsupported_protocol",
        /// The destination is in another network.
        Isolated = "isolated",
        /// The network has `enable_icc: false`.
        InterContainerDisabled = "inter_container_disabled",
        /// The network is internal and the destination is not in it.
        Internal = "internal",
        /// A packet for a container's own address came from outside its network.
        DirectRouting = "direct_routing",
        /// `net.ipv4.ip_forward` is 0 (scenario S2).
        ForwardingDisabled = "forwarding_disabled",
        /// The host has no route to the destination, or it leads to a device that is no uplink.
        NoRoute = "no_route",
        /// No external port is free.
        PortsExhausted = "ports_exhausted",
        /// No room for a new flow record.
        FlowTableFull = "flow_table_full",
        /// A TCP segment without SYN that belongs to no flow.
        NoFlow = "no_flow",
        /// The container of this flow has gone.
        StaleFlow = "stale_flow",
        /// A container's source address was about to leave through an uplink untranslated.
        UntranslatedSource = "untranslated_source",
        /// VXLAN for one of weft's networks from a host that is not its peer.
        UnknownPeer = "unknown_peer",
        /// A VXLAN header without the VNI flag, or an inner frame that is cut short (RFC 7348 section 5).
        BadEncapsulation = "bad_encapsulation",
        /// A packet that does not fit the MTU and may not be fragmented.
        TooBig = "too_big",
        /// The time to live has run out.
        TimeToLive = "time_to_live",
        /// A fragment whose first part was not seen.
        Fragment = "fragment",
        /// A kernel helper refused.
        HelperFailed = "helper_failed",
        /// The published port's container has no interface.
        NoEndpoint = "no_endpoint",
        /// The container has not spoken to this remote end, and its network's filtering is strict (RFC 4787 REQ-8).
        Filtered = "filtered",
        /// The ports of an SCTP packet in fragments would have to change: how its CRC32c changes depends on the length of
        /// the whole, which a fragment does not tell.
        SctpPort = "sctp_port",
        /// An ICMP error that quotes nothing of weft's, or not enough of it.
        UnrelatedIcmp = "unrelated_icmp",
    }
}

impl Path {
    /// From its index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}

impl DropReason {
    /// From its index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_index_leads_back_and_names_differ() {
        for path in Path::ALL {
            assert_eq!(Path::from_index(*path as u32), Some(*path));
        }
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_index(*reason as u32), Some(*reason));
        }
        assert_eq!((Path::from_index(Path::COUNT), DropReason::from_index(DropReason::COUNT)), (None, None));
        let names = Path::ALL.iter().map(|path| path.as_str());
        let names: HashSet<_> = names.chain(DropReason::ALL.iter().map(|reason| reason.as_str())).collect();
        assert_eq!(names.len() as u32, Path::COUNT + DropReason::COUNT);
    }
}
