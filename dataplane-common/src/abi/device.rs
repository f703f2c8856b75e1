//! Devices, containers here and elsewhere, and the subnets they are in.

use super::{Address, MacAddress, pod};

/// Bits of [`Device::flags`].
pub mod flags {
    /// The network reaches nothing but its members and the host.
    pub const INTERNAL: u32 = 1 << 0;
    /// Members may talk to one another.
    pub const INTER_CONTAINER: u32 = 1 << 1;
    /// Traffic to the world is masqueraded.
    pub const MASQUERADE: u32 = 1 << 2;
    /// The host forwards IPv4 (`net.ipv4.ip_forward`), S2.
    pub const FORWARDING: u32 = 1 << 3;
    /// The container has published ports: a reply to a member of its own network may belong to a hairpin flow,
    /// so bridging looks the flow up. Others never pay for that lookup.
    pub const PUBLISHED: u32 = 1 << 4;
    /// The network is an overlay: unknown members may be behind a peer.
    pub const OVERLAY: u32 = 1 << 5;
    /// This container's default route is in this network, so its publications lead here.
    pub const GATEWAY: u32 = 1 << 6;
    /// Masqueraded containers hear whoever sends to their external port (RFC 4787 REQ-8, endpoint-independent
    /// filtering). Else only those they have sent to.
    pub const FILTER_ENDPOINT_INDEPENDENT: u32 = 1 << 7;
    /// They hear every port of an address they have sent to (address-dependent filtering).
    pub const FILTER_ADDRESS_DEPENDENT: u32 = 1 << 8;
    /// The host forwards IPv6 (`net.ipv6.conf.all.forwarding`).
    pub const FORWARDING_V6: u32 = 1 << 9;

    /// The world knows the network's members by their own IPv4 addresses: nothing is translated.
    pub const ROUTED: u32 = 1 << 10;
    /// The same by their IPv6 addresses.
    pub const ROUTED_V6: u32 = 1 << 11;

    /// Whoever has a route to the network reaches every port of its members by their own IPv4 addresses; what they say
    /// first is masqueraded all the same.
    pub const UNPROTECTED: u32 = 1 << 12;
    /// The same by their IPv6 addresses.
    pub const UNPROTECTED_V6: u32 = 1 << 13;
    /// The host itself is none of the network's.
    pub const ISOLATED: u32 = 1 << 14;
    /// Endpoint: its veth takes what XDP sends there. The driver drops it without a word where the container's end is not
    /// ready for it.
    pub const XDP_TARGET: u32 = 1 << 15;

    /// Whether a family of the network is routed.
    #[inline(always)]
    pub const fn routes(flags: u32, is_v6: bool) -> bool {
        flags & if is_v6 { ROUTED_V6 } else { ROUTED } != 0
    }

    /// Whether containers reach the world by the host's address in a family, and are heard there.
    #[inline(always)]
    pub const fn masquerades(flags: u32, is_v6: bool) -> bool {
        flags & (MASQUERADE | INTERNAL) == MASQUERADE && !routes(flags, is_v6)
    }

    /// Whether a family of the network is unprotected.
    #[inline(always)]
    pub const fn is_unprotected(flags: u32, is_v6: bool) -> bool {
        flags & if is_v6 { UNPROTECTED_V6 } else { UNPROTECTED } != 0
    }

    /// Whether others know members by their own addresses of a family.
    #[inline(always)]
    pub const fn knows_members(flags: u32, is_v6: bool) -> bool {
        flags & if is_v6 { ROUTED_V6 | UNPROTECTED_V6 } else { ROUTED | UNPROTECTED } != 0
    }

    /// Whether the host forwards packets of a family.
    #[inline(always)]
    pub const fn forwards(flags: u32, is_v6: bool) -> bool {
        flags & if is_v6 { FORWARDING_V6 } else { FORWARDING } != 0
    }
}

/// Values of [`Device::role`].
pub struct DeviceRole;

impl DeviceRole {
    /// Host side of a container's veth.
    pub const CONTAINER: u32 = 1;
    /// A device that leads to the world.
    pub const UPLINK: u32 = 2;
    /// A network's bridge.
    pub const BRIDGE: u32 = 3;
    /// A network's vxlan device.
    pub const VXLAN: u32 = 4;
}

pod! {
    /// Map `devices`, key: ifindex (u32). One lookup gives a hook all it needs to know of the device it runs on.
    pub struct Device [112] {
        /// A [`DeviceRole`].
        pub role: u32,
        /// Bits of [`flags`].
        pub flags: u32,
        /// Network of a container, bridge or vxlan device; 0 for an uplink.
        pub network: u32,
        /// Identity of the container, as in [`Endpoint::epoch`]; 0 for other roles.
        pub epoch: u32,
        /// Which container this is: one number for all its interfaces, and no other container's. 0 for other roles.
        pub container: u32,
        /// Container: its address. Uplink: the address that masqueraded traffic leaves with. IPv4-mapped.
        pub address: Address,
        /// Bridge address of the container's network, the source that a container sees when it reaches itself.
        pub gateway: Address,
        /// As `address`, for IPv6; `::` where there is none.
        pub address_v6: Address,
        /// As `gateway`, for IPv6.
        pub gateway_v6: Address,
        /// Container: prefix length of the network's IPv4 subnet. Else 0.
        pub prefix_length: u32,
        /// Container: prefix length of the network's IPv6 subnet. Else 0.
        pub prefix_length_v6: u32,
        /// MTU in bytes of the device.
        pub mtu: u32,
        /// Container: its MAC address, the only source it may use.
        pub mac: MacAddress,
        /// The UDP port of VXLAN on uplinks and containers of a host with overlay networks. Else 0.
        pub vxlan_port: u16,
        /// VXLAN network identifier of an overlay network, else 0.
        pub vni: u32,
        /// Container: the smallest MTU in bytes of all uplinks; a longer packet needs a look at the one it leaves by.
        pub uplink_mtu: u32,
    }

    /// Key of map `endpoints` and `remotes`.
    pub struct EndpointKey [20] {
        /// Network number.
        pub network: u32,
        /// Address of the container in it.
        pub address: Address,
    }

    /// Map `endpoints`: a container on this host.
    pub struct Endpoint [28] {
        /// Host side of its veth.
        pub ifindex: u32,
        /// Identity of the container: a number never used again. Flows of an earlier holder of the address carry
        /// another epoch and are not delivered.
        pub epoch: u32,
        /// Which container this is, as in [`Device::container`].
        pub container: u32,
        /// The container's MAC address.
        pub mac: MacAddress,
        /// The bridge's MAC address, source of what is routed to the container.
        pub gateway_mac: MacAddress,
        /// Bits of [`flags`].
        pub flags: u32,
    }

    /// Map `remotes`: a container on another host.
    pub struct Remote [12] {
        /// Key into `peers`.
        pub peer: u32,
        /// The container's MAC address.
        pub mac: MacAddress,
        /// Zero.
        pub reserved: u16,
    }

    /// Map `peers`, key: peer number (u32). What the outer header needs.
    pub struct Peer [40] {
        /// Own tunnel address.
        pub local: Address,
        /// The peer's tunnel address.
        pub remote: Address,
        /// The uplink towards it.
        pub ifindex: u32,
        /// UDP destination port.
        pub port: u16,
        /// Longest outer packet in bytes on the way there.
        pub mtu: u16,
    }

    /// Key of map `vxlan`: which peers may send into which network.
    pub struct VxlanKey [20] {
        /// VXLAN network identifier.
        pub vni: u32,
        /// The sender's tunnel address; [`Address::UNSPECIFIED`] marks the VNI itself as weft's.
        pub peer: Address,
    }

    /// Key of map `subnets`, a longest prefix match: which addresses belong to weft's networks.
    pub struct SubnetKey [16] {
        /// Any address.
        pub address: Address,
    }

    /// Value of map `subnets`.
    pub struct Subnet [8] {
        /// Network number.
        pub network: u32,
        /// Bits of [`flags`].
        pub flags: u32,
    }
}

impl Endpoint {
    /// No MTU of an endpoint with [`flags::XDP_TARGET`] is less, in bytes: what every host takes whole (RFC 1122 section
    /// 3.3.2).
    pub const XDP_TARGET_MTU: u32 = 576;
}

impl Device {
    /// The address of one family; `::` where there is none.
    #[inline(always)]
    pub const fn address_of(&self, is_v6: bool) -> &Address {
        if is_v6 { &self.address_v6 } else { &self.address }
    }

    /// The gateway of one family.
    #[inline(always)]
    pub const fn gateway_of(&self, is_v6: bool) -> &Address {
        if is_v6 { &self.gateway_v6 } else { &self.gateway }
    }
}

#[cfg(test)]
mod tests {
    use super::{flags::*, *};

    const ALL: [u32; 16] = [
        INTERNAL,
        INTER_CONTAINER,
        MASQUERADE,
        FORWARDING,
        PUBLISHED,
        OVERLAY,
        GATEWAY,
        FILTER_ENDPOINT_INDEPENDENT,
        FILTER_ADDRESS_DEPENDENT,
        FORWARDING_V6,
        ROUTED,
        ROUTED_V6,
        UNPROTECTED,
        UNPROTECTED_V6,
        ISOLATED,
        XDP_TARGET,
    ];

    #[test]
    fn every_flag_is_a_bit_of_its_own() {
        assert!(ALL.iter().all(|flag| flag.count_ones() == 1));
        assert_eq!(ALL.iter().fold(0, |all, flag| all | flag).count_ones() as usize, ALL.len());
    }

    /// Each question, and the flags that say yes for IPv4 and IPv6.
    #[test]
    fn questions_are_of_one_family() {
        type Question = fn(u32, bool) -> bool;
        let questions: [(Question, [&[u32]; 2]); 4] = [
            (routes, [&[ROUTED], &[ROUTED_V6]]),
            (is_unprotected, [&[UNPROTECTED], &[UNPROTECTED_V6]]),
            (knows_members, [&[ROUTED, UNPROTECTED], &[ROUTED_V6, UNPROTECTED_V6]]),
            (forwards, [&[FORWARDING], &[FORWARDING_V6]]),
        ];
        for (question, yes) in questions {
            for (is_v6, yes) in [false, true].into_iter().zip(yes) {
                for flag in ALL {
                    assert_eq!(question(flag, is_v6), yes.contains(&flag), "{flag:#x} {is_v6}");
                    assert_eq!(question(!flag, is_v6), yes != [flag], "all but {flag:#x} {is_v6}");
                }
            }
        }
    }

    #[test]
    fn masquerade_is_of_networks_with_an_outside_that_is_not_routed() {
        for is_v6 in [false, true] {
            assert!(masquerades(MASQUERADE, is_v6) && !masquerades(!MASQUERADE, is_v6));
            assert!(!masquerades(MASQUERADE | INTERNAL, is_v6));
            assert_eq!(masquerades(MASQUERADE | ROUTED, is_v6), is_v6);
            assert_eq!(masquerades(MASQUERADE | ROUTED_V6, is_v6), !is_v6);
        }
    }

    #[test]
    fn a_device_has_an_address_for_each_family() {
        let address = |last| Address::from_v4_network_order(last);
        let device = Device {
            role: DeviceRole::CONTAINER,
            flags: 0,
            network: 0,
            epoch: 0,
            container: 0,
            address: address(1),
            gateway: address(2),
            address_v6: address(3),
            gateway_v6: address(4),
            prefix_length: 0,
            prefix_length_v6: 0,
            mtu: 0,
            mac: MacAddress { octets: [0; 6] },
            vxlan_port: 0,
            vni: 0,
            uplink_mtu: 0,
        };
        let of = |is_v6| [*device.address_of(is_v6), *device.gateway_of(is_v6)];
        assert_eq!((of(false), of(true)), ([1, 2].map(address), [3, 4].map(address)));
    }
}
