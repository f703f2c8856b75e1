//! Names that both sides must agree on.

/// Version of the maps' layout; part of the pin path. Raise it when a key or value changes after a release; before the first
/// one a daemon that finds maps of another layout says so and ends.
pub const ABI_VERSION: u32 = 1;

/// Map names, at most 15 bytes (the kernel cuts them).
pub mod map {
    /// ifindex -> [`super::super::Device`].
    pub const DEVICES: &str = "devices";
    /// [`super::super::EndpointKey`] -> [`super::super::Endpoint`].
    pub const ENDPOINTS: &str = "endpoints";
    /// [`super::super::EndpointKey`] -> [`super::super::Remote`].
    pub const REMOTES: &str = "remotes";
    /// peer number -> [`super::super::Peer`].
    pub const PEERS: &str = "peers";
    /// peer number -> [`super::super::NextHop`], written by the programs.
    pub const PEER_NEXT_HOPS: &str = "peer_next_hops";
    /// [`super::super::VxlanKey`] -> network number.
    pub const VXLAN: &str = "vxlan";
    /// [`super::super::SubnetKey`] -> [`super::super::Subnet`], longest prefix match.
    pub const SUBNETS: &str = "subnets";
    /// [`super::super::Address`] of this host -> ifindex.
    pub const ADDRESSES: &str = "addresses";
    /// [`super::super::PublicationKey`] -> [`super::super::Publication`], longest prefix match.
    pub const PUBLISHED: &str = "published";
    /// [`super::super::PortSet`].
    pub const PORT_SETS: &str = "port_sets";
    /// inside [`super::super::Tuple`] -> [`super::super::Flow`], both sides have been heard.
    pub const FLOWS: &str = "flows";
    /// inside [`super::super::Tuple`] -> [`super::super::Flow`], one side has been heard; least recently used go first.
    pub const UNCONFIRMED: &str = "unconfirmed";
    /// outside [`super::super::Tuple`] -> [`super::super::Index`].
    pub const PORTS: &str = "ports";
    /// [`super::super::MappingKey`] -> [`super::super::Mapping`].
    pub const MAPPINGS: &str = "mappings";
    /// [`super::super::HostSocketKey`] -> [`super::super::HostSocketValue`].
    pub const HOST_SOCKETS: &str = "host_sockets";
    /// [`super::super::FragmentKey`] -> [`super::super::Fragments`], least recently used go first.
    pub const FRAGMENTS: &str = "fragments";
    /// ifindex -> [`super::super::IcmpBudget`], least recently used go first.
    pub const ICMP_BUDGETS: &str = "icmp_budgets";
    /// 0 -> [`super::super::Settings`].
    pub const SETTINGS: &str = "settings";
    /// [`super::super::Path`] -> per-CPU [`super::super::Counter`].
    pub const COUNTERS: &str = "counters";
    /// [`super::super::DropReason`] -> per-CPU [`super::super::Counter`].
    pub const DROPS: &str = "drops";
    /// Per-CPU working memory of the programs.
    pub const SCRATCH: &str = "scratch";

    /// All maps that are pinned.
    pub const ALL: &[&str] = &[
        DEVICES,
        ENDPOINTS,
        REMOTES,
        PEERS,
        PEER_NEXT_HOPS,
        VXLAN,
        SUBNETS,
        ADDRESSES,
        PUBLISHED,
        PORT_SETS,
        FLOWS,
        UNCONFIRMED,
        PORTS,
        MAPPINGS,
        HOST_SOCKETS,
        FRAGMENTS,
        ICMP_BUDGETS,
        SETTINGS,
        COUNTERS,
        DROPS,
    ];
}

/// Program names.
pub mod program {
    /// tc ingress of a container's veth.
    pub const FROM_CONTAINER: &str = "from_container";
    /// tc egress of a network's bridge.
    pub const TO_CONTAINER: &str = "to_container";
    /// tc ingress of an isolated network's bridge.
    pub const FROM_BRIDGE: &str = "from_bridge";
    /// tc ingress of an uplink.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// XDP of an uplink.
    pub const UPLINK_XDP: &str = "uplink_xdp";
    /// tc egress of an uplink.
    pub const TO_UPLINK: &str = "to_uplink";
    /// tc ingress of the waiting room: fragments go back to where they came from.
    pub const FROM_WAITING_ROOM: &str = "from_waiting_room";
    /// Removes expired flow records; run by the controller through `BPF_PROG_TEST_RUN`.
    pub const EXPIRE_FLOWS: &str = "expire_flows";
    /// As `skb->mark` of such a run: no port is held after its last flow.
    pub const EXPIRE_HELD_PORTS: u32 = 1;

    /// Hooks on the sockets of the host, on the root of the cgroup2 hierarchy.
    pub const HOST_SOCKETS: &[&str] = &[
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
        "recvmsg4",
        "recvmsg6",
        "getpeername4",
        "getpeername6",
        "bind4",
        "bind6",
    ];
}
