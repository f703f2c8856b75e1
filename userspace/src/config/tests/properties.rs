//! What must hold for any input.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::{
    super::ports::{PortSpec, parse_short},
    parse_one,
};
use crate::model::{HostPorts, PortRange, Protocol};

fn port_range() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) })
}

fn port_spec() -> impl Strategy<Value = PortSpec> {
    let address =
        any::<u32>().prop_map(Ipv4Addr::from).prop_filter("an address a host can have", |address| {
            !address.is_multicast() && !address.is_broadcast()
        });
    let address = prop_oneof![
        address.prop_map(IpAddr::V4),
        any::<u64>().prop_map(|host| IpAddr::V6((0xfd_u128 << 120 | u128::from(host)).into())),
    ];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (proptest::option::of(address), proptest::option::of(port_range()), port_range(), protocol).prop_map(
        |(host_address, host_ports, container_ports, protocol)| PortSpec {
            host_address,
            host_ports,
            container_ports,
            protocol,
        },
    )
}

/// Pieces of real files and of YAML's syntax in any order: deeper into the reader than random characters get.
fn near_yaml() -> impl Strategy<Value = String> {
    let pieces = [
        "networks:",
        "services:",
        "x-weft:",
        "  front:",
        "  web:",
        "    ports:",
        "    networks:",
        "ipam:",
        "config:",
        "subnet: ",
        "10.10.0.0/24",
        "10.10.0.1",
        "gateway: ",
        "netns: ",
        "web",
        "network_mode: ",
        "service:web",
        "host",
        "- ",
        "\"8080:80\"",
        "80",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "&a ",
        "*a",
        "<<: ",
        "? ",
        "!!int ",
        "!!binary ",
        "!x ",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "~",
        "-1",
        "0x10",
        ".nan",
        "1e400",
        "99999999999999999999",
        "\u{feff}",
        "\t",
        "\r\n",
        "é",
        "\u{85}",
        "${A}",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..60)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse_one(&text);
    }

    #[test]
    fn no_text_that_is_nearly_a_file_panics(text in near_yaml()) {
        if let Err(errors) = parse_one(&text) {
            let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
            for error in errors.iter() {
                prop_assert!(error.line >= 1 && error.column >= 1 && !error.reason.is_empty(), "{error}");
                prop_assert!(error.line <= lines + 1, "{error} in {text:?}");
                prop_assert!(!error.reason.contains('\n'), "{error}");
            }
        }
    }

    #[test]
    fn port_specs_survive_the_way_through_text(spec in port_spec()) {
        prop_assert_eq!(parse_short(&spec.to_string()), Ok(spec));
    }

    #[test]
    fn publications_keep_to_their_port_spec(spec in port_spec()) {
        let Ok(publications) = spec.publications(None) else {
            // Refused are only ranges of unequal length, and large ranges without host ports.
            let unequal = spec.host_ports.is_some_and(|ports| ports.count() != spec.container_ports.count());
            prop_assert!(unequal || (spec.host_ports.is_none() && spec.container_ports.count() > 1024));
            return Ok(());
        };
        let mut container_ports = 0;
        for publication in &publications {
            container_ports += publication.container_ports.count();
            prop_assert_eq!(publication.protocol, spec.protocol);
            match publication.host_ports {
                HostPorts::Exactly(ports) => prop_assert_eq!(ports.count(), publication.container_ports.count()),
                HostPorts::OneOf(_) | HostPorts::Any => prop_assert_eq!(publication.container_ports.count(), 1),
            }
        }
        prop_assert_eq!(container_ports, spec.container_ports.count());
    }
}
