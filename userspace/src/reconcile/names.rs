//! Names that weft gives to kernel devices, and the marks by which it knows its own.

/// Longest device name, `IFNAMSIZ` less the closing zero.
const LONGEST_NAME: usize = 15;
/// What every `ifalias` of weft begins with.
const MARK: &str = "weft:";

/// What fragments are sent into that come before the first of their datagram.
pub const WAITING_ROOM: &str = "weft-wait";
/// The other end of it.
pub const WAITING_ROOM_EXIT: &str = "weft-back";

/// How the names of vxlan devices begin.
pub const VXLAN_PREFIX: &str = "vx-";
/// How the names of the host's ends of veth pairs begin.
pub const VETH_PREFIX: &str = "veth";

/// FNV-1a with a finalizer: short, and the same in every build, because names made from it must last for years.
pub fn stable_hash(seed: u64, parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed;
    for part in parts {
        // The closing byte cannot occur in UTF-8, so ("ab", "c") and ("a", "bc") differ.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// Bridge device of a network: readable where the name is short enough.
pub fn bridge(network: &str) -> String {
    readable("br-", network)
}

/// Vxlan device of an overlay network.
pub fn vxlan(network: &str) -> String {
    readable(VXLAN_PREFIX, network)
}

/// Host side of a container's veth pair.
pub fn veth(container: &str, network: &str) -> String {
    format!("{VETH_PREFIX}{:011x}", stable_hash(0, &[container, network]) >> 20)
}

fn readable(prefix: &str, name: &str) -> String {
    let fits = prefix.len() + name.len() <= LONGEST_NAME
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits { format!("{prefix}{name}") } else { format!("{prefix}{:012x}", stable_hash(0, &[name]) >> 16) }
}

/// The `ifalias` of a network's bridge and vxlan device.
pub fn network_alias(network: &str) -> String {
    format!("{MARK}{network}")
}

/// The `ifalias` of a container's veth.
pub fn endpoint_alias(network: &str, container: &str) -> String {
    format!("{MARK}{network}/{container}")
}

/// The `ifalias` of both ends of the waiting room; no network has such a name.
pub fn waiting_room_alias() -> String {
    format!("{MARK}:waiting-room")
}

/// Whom a device belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A network.
    Network(String),
    /// The host as a whole: its waiting room.
    Host,
    /// A container's interface in a network.
    Endpoint {
        /// The network.
        network: String,
        /// The container.
        container: String,
    },
}

/// Reads an `ifalias`; `None` for devices that are not weft's.
pub fn owner(alias: &str) -> Option<Owner> {
    let rest = alias.strip_prefix(MARK)?;
    Some(match rest.split_once('/') {
        Some((network, container)) => {
            Owner::Endpoint { network: network.to_owned(), container: container.to_owned() }
        }
        None if alias == waiting_room_alias() => Owner::Host,
        None => Owner::Network(rest.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_stay_readable() {
        assert_eq!(bridge("front"), "br-front");
        assert_eq!(vxlan("mesh"), "vx-mesh");
        assert_eq!(bridge("a-network-with-a-long-name").len(), LONGEST_NAME);
    }

    #[test]
    fn aliases_lead_back_to_their_owner() {
        assert_eq!(owner(&network_alias("front")), Some(Owner::Network("front".into())));
        assert_eq!(
            owner(&endpoint_alias("front", "web")),
            Some(Owner::Endpoint { network: "front".into(), container: "web".into() })
        );
        assert_eq!(owner(&waiting_room_alias()), Some(Owner::Host));
        assert_eq!(owner("docker"), None);
    }

    #[test]
    fn the_hash_never_changes() {
        // Devices made by an older build are found again by name.
        assert_eq!(stable_hash(0, &["web", "front"]), stable_hash(0, &["web", "front"]));
        assert_ne!(stable_hash(0, &["ab", "c"]), stable_hash(0, &["a", "bc"]));
        assert_eq!(veth("web", "front"), "vethdfea25b9706");
    }

    proptest! {
        #[test]
        fn names_fit_the_kernel(container in ".{0,80}", network in ".{0,80}") {
            for name in [bridge(&network), vxlan(&network), veth(&container, &network)] {
                prop_assert!(name.len() <= LONGEST_NAME);
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':'));
            }
        }
    }
}
