//! Flow records and what leads to them.

use super::{Address, NextHop, pod};

/// Values of [`Flow::kind`].
pub struct FlowKind;

impl FlowKind {
    /// Opened by a container towards the world.
    pub const MASQUERADE: u8 = 1;
    /// Opened by a client outside towards a published port.
    pub const PORTMAP: u8 = 2;
    /// Opened by a container of this host towards a published port of this host.
    pub const HAIRPIN: u8 = 3;
    /// Opened by a container towards the external port of another masqueraded one (RFC 4787 REQ-9). Each of the two has
    /// a record of its own.
    pub const TURN_BACK: u8 = 4;
    /// Opened by a container of a routed network towards the world: both tuples are the same.
    pub const ROUTED: u8 = 5;

    /// Whether flows of this kind have an external port of the pool.
    #[inline(always)]
    pub const fn is_masqueraded(kind: u8) -> bool {
        kind == Self::MASQUERADE || kind == Self::TURN_BACK
    }
}

pod! {
    /// Both ends of a flow, seen from a container (inside) or from the wire (outside).
    ///
    /// A flow has two tuples. *Inside* is what the container sees: its own address and port, and the other end.
    /// *Outside* is the same flow with the host's address and port in the place of the container's. Masquerade and
    /// port mapping are the same translation; they differ in who opened the flow.
    pub struct Tuple [40] {
        /// The container's address (inside) or the host's (outside).
        pub local: Address,
        /// The other end.
        pub remote: Address,
        /// Port of `local`; the identifier for an ICMP query.
        pub local_port: u16,
        /// Port of `remote`; for an ICMP query 0 where the local end asks, and 1 where the remote one does.
        pub remote_port: u16,
        /// IANA protocol number.
        pub protocol: u8,
        /// Zero, but for an address claim, see [`Tuple::address_claim`].
        pub reserved: [u8; 3],
    }

    /// Maps `flows` and `unconfirmed`, key: the inside [`Tuple`]. One record serves both directions.
    pub struct Flow [112] {
        /// The flow as the wire sees it.
        pub outside: Tuple,
        /// Last packet of either direction; 0 while the record is being removed.
        pub last_seen_ns: u64,
        /// When it was opened.
        pub created_ns: u64,
        /// [`super::Endpoint::epoch`] of the container.
        pub epoch: u32,
        /// Network of the container.
        pub network: u32,
        /// Uplink of the other end; 0 for a hairpin flow.
        pub uplink: u32,
        /// Network of the other end of a hairpin flow, else 0.
        pub remote_network: u32,
        /// [`super::Endpoint::epoch`] of the other end of a hairpin flow, else 0.
        pub remote_epoch: u32,
        /// A [`FlowKind`].
        pub kind: u8,
        /// A `flow::State`.
        pub state: u8,
        /// Zero.
        pub reserved: [u8; 2],
        /// Where its packets leave to. It was asked for when `last_seen_ns` was its `asked_ns`, so once a second at most.
        pub next_hop: NextHop,
    }

    /// Map `ports`, key: an outside [`Tuple`]. Inserting here with `BPF_NOEXIST` is the claim of an external port.
    ///
    /// With a remote end it leads to the flow record. With the remote end zero it says which internal socket owns the
    /// external port (endpoint-independent mapping, RFC 4787 REQ-1): then `inside.remote` is zero as well.
    pub struct Index [44] {
        /// The inside tuple, key of the flow record.
        pub inside: Tuple,
        /// 1 where the mapping of the inside socket counts this flow: said here, since a record may be evicted. A
        /// masqueraded flow that shares its port with other sockets' (RFC 7857 section 3) has no mapping.
        pub uses_mapping: u8,
        /// Zero.
        pub reserved: [u8; 3],
    }

    /// Key of map `mappings`: an internal socket.
    pub struct MappingKey [36] {
        /// The container's address.
        pub internal: Address,
        /// The host's address it is mapped to (a host with several uplinks has several).
        pub external: Address,
        /// The container's port, or identifier of an ICMP query.
        pub port: u16,
        /// IANA protocol number.
        pub protocol: u8,
        /// Zero.
        pub reserved: u8,
    }

    /// Value of map `mappings`: the external port of an internal socket.
    pub struct Mapping [24] {
        /// When a flow last began or ended with it; it is kept for a while after its last flow (RFC 6888 REQ-8).
        pub last_used_ns: u64,
        /// Number of flow records that use it.
        pub flows: u32,
        /// [`super::Endpoint::epoch`] of the container that has last sent through it: what strangers send to the port of
        /// an earlier one is not for its successor.
        pub epoch: u32,
        /// External port, or identifier of an ICMP query.
        pub port: u16,
        /// Zero.
        pub reserved: [u8; 6],
    }

    /// Key of map `fragments`: a datagram in pieces (RFC 791 section 3.2, RFC 8200 section 4.5), or an identification that one has
    /// left with.
    pub struct FragmentKey [40] {
        /// Source address. `::` of an identification, which nobody else shall have either.
        pub source: Address,
        /// Destination address.
        pub destination: Address,
        /// Identification.
        pub identification: u32,
        /// IANA protocol number.
        pub protocol: u8,
        /// [`Self::DATAGRAM`] or [`Self::IDENTIFICATION`].
        pub kind: u8,
        /// Zero.
        pub reserved: [u8; 2],
    }

    /// Value of map `fragments`: what the first fragment said and the later ones do not.
    pub struct Fragments [16] {
        /// When the first fragment was seen.
        pub seen_ns: u64,
        /// The tuple's local port.
        pub local_port: u16,
        /// The tuple's remote port.
        pub remote_port: u16,
        /// The identification that the datagram leaves with where the source is translated: two containers may use one
        /// and the same (RFC 6864 section 5.3.1).
        pub identification: u16,
        /// 1, or 0 where the first fragment has no ports either: an ICMP error, for one.
        pub has_ports: u16,
    }

    /// Value of map `icmp_budgets`: how many ICMP errors may still leave by a device (RFC 1812 section 4.3.2.8).
    pub struct IcmpBudget [16] {
        /// When tokens were last added.
        pub filled_ns: u64,
        /// Messages that may be sent now.
        pub tokens: u64,
    }

    /// Map `settings`, one entry. Read when a flow begins, not for each packet.
    pub struct Settings [64] {
        /// Cookie of the network namespace that weft runs in; hooks on cgroups act on its sockets only.
        pub netns_cookie: u64,
        /// UDP mapping timeout (RFC 4787 REQ-5).
        pub udp_timeout_ns: u64,
        /// Established TCP timeout (RFC 5382 REQ-5).
        pub tcp_established_timeout_ns: u64,
        /// Timeout of TCP connections of which only one end has been heard (RFC 5382 REQ-5, RFC 7857 section 2.1).
        pub tcp_opening_timeout_ns: u64,
        /// Timeout of TCP connections that have ended (RFC 5382 REQ-5, RFC 7857 section 2.2).
        pub tcp_closing_timeout_ns: u64,
        /// ICMP query timeout (RFC 5508 REQ-2).
        pub icmp_query_timeout_ns: u64,
        /// How long an external port stays with its internal socket after the last flow (RFC 6888 REQ-8).
        pub port_hold_ns: u64,
        /// First external port that masquerade may use.
        pub first_port: u16,
        /// Last external port that masquerade may use.
        pub last_port: u16,
        /// Device that gives a fragment back a little later, one that came before the first of its datagram; 0: none.
        pub waiting_room: u32,
    }
}

impl Index {
    /// An entry that no mapping counts.
    #[inline(always)]
    pub const fn of(inside: Tuple) -> Self {
        Self { inside, uses_mapping: 0, reserved: [0; 3] }
    }
}

impl FragmentKey {
    /// What the packet says.
    pub const DATAGRAM: u8 = 0;
    /// An identification that a datagram with a translated source has left with. Its value says nothing but when.
    pub const IDENTIFICATION: u8 = 1;
}

impl Tuple {
    /// The claim of this tuple's local end for whatever remote end.
    #[inline(always)]
    pub const fn claim(&self) -> Self {
        Self { remote: Address::UNSPECIFIED, remote_port: 0, ..*self }
    }

    /// What says that a socket has sent to some port of this remote address (address-dependent filtering). Marked, since
    /// 0 is a port like any other on the wire.
    #[inline(always)]
    pub const fn address_claim(&self) -> Self {
        Self { remote_port: 0, reserved: [1, 0, 0], ..*self }
    }

    /// Whether this is an address claim.
    #[inline(always)]
    pub const fn is_address_claim(&self) -> bool {
        self.reserved[0] == 1
    }

    /// The same flow seen from the other end.
    #[inline(always)]
    pub const fn mirror(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
            ..*self
        }
    }

    /// Whether this is a claim, not a flow.
    #[inline(always)]
    pub const fn is_claim(&self) -> bool {
        self.remote.is_unspecified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Address {
        Address::from(core::net::IpAddr::from([192, 0, 2, last]))
    }

    fn tuple() -> Tuple {
        Tuple {
            local: address(1),
            remote: address(2),
            local_port: 3,
            remote_port: 4,
            protocol: 5,
            reserved: [0; 3],
        }
    }

    #[test]
    fn a_claim_is_of_the_local_end_alone() {
        let claim = tuple().claim();
        assert!(claim.is_claim() && !tuple().is_claim());
        assert_eq!(claim, Tuple { remote: Address::UNSPECIFIED, remote_port: 0, ..tuple() });
    }

    /// Or a flow from port 0 would be one.
    #[test]
    fn an_address_claim_is_marked() {
        let claim = tuple().address_claim();
        let port_zero = Tuple { remote_port: 0, ..tuple() };
        assert!(claim.is_address_claim() && !claim.is_claim() && claim != port_zero);
        assert!(!port_zero.is_address_claim() && !tuple().claim().is_address_claim());
        assert_eq!(Tuple { reserved: [0; 3], ..claim }, port_zero);
    }

    #[test]
    fn a_mirror_changes_the_ends() {
        let mirror = tuple().mirror();
        let ends = (mirror.local, mirror.local_port, mirror.remote, mirror.remote_port);
        assert_eq!((ends, mirror.protocol), ((address(2), 4, address(1), 3), 5));
        assert_eq!(mirror.mirror(), tuple());
    }

    #[test]
    fn masqueraded_flows_are_of_two_kinds() {
        let masqueraded = [FlowKind::MASQUERADE, FlowKind::TURN_BACK];
        let others = [FlowKind::PORTMAP, FlowKind::HAIRPIN, FlowKind::ROUTED];
        assert!(masqueraded.into_iter().all(FlowKind::is_masqueraded));
        assert!(!others.into_iter().any(FlowKind::is_masqueraded));
    }
}
