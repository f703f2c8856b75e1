//! What well-formed `ports` mean.

use std::error::Error;

use super::{
    good_files::{Outcome, ports, tcp, web},
    parse_one,
};
use crate::model::{HostPorts, PortRange, Protocol, Publication};

/// The publications of one `ports` list.
fn published(ports: &str) -> Result<Vec<Publication>, Box<dyn Error>> {
    let loaded = parse_one(&format!("services:\n  web: {{ x-weft: {{ netns: web }}, ports: {ports} }}\n"))?;
    Ok(web(&loaded)?.publications.clone())
}

#[test]
fn short_forms_of_ports() -> Outcome {
    let any = |port| tcp(HostPorts::Any, PortRange::single(port));
    assert_eq!(published("[\"80\", 443]")?, [any(80), any(443)]);
    assert_eq!(published("[8000-8002]")?, [any(8000), any(8001), any(8002)]);
    assert_eq!(published("[\"8080:80\"]")?, [tcp(HostPorts::Exactly(ports(8080, 8080)), ports(80, 80))]);
    assert_eq!(
        published("[\"8000-8010:9000-9010\"]")?,
        [tcp(HostPorts::Exactly(ports(8000, 8010)), ports(9000, 9010))]
    );
    assert_eq!(published("[\"8000-8010:80\"]")?, [tcp(HostPorts::OneOf(ports(8000, 8010)), ports(80, 80))]);
    let local = Some("127.0.0.1".parse()?);
    assert_eq!(published("[\"127.0.0.1::80\"]")?, [Publication { host_address: local, ..any(80) }]);
    assert_eq!(
        published("[\"127.0.0.1:8080:80/udp\"]")?,
        [Publication {
            protocol: Protocol::Udp,
            host_address: local,
            ..tcp(HostPorts::Exactly(ports(8080, 8080)), ports(80, 80))
        }]
    );
    assert_eq!(
        published("[\"0.0.0.0:8080:80/TCP\"]")?,
        [Publication {
            host_address: Some("0.0.0.0".parse()?),
            ..tcp(HostPorts::Exactly(ports(8080, 8080)), ports(80, 80))
        }]
    );
    Ok(())
}

#[test]
fn long_forms_of_ports() -> Outcome {
    let long = "[ { target: 80, published: 8080, host_ip: 192.0.2.1, protocol: udp, mode: ingress, name: web, \
                app_protocol: http } ]";
    assert_eq!(
        published(long)?,
        [Publication {
            protocol: Protocol::Udp,
            host_address: Some("192.0.2.1".parse()?),
            ..tcp(HostPorts::Exactly(ports(8080, 8080)), ports(80, 80))
        }]
    );
    assert_eq!(published("[ { target: 80 } ]")?, [tcp(HostPorts::Any, ports(80, 80))]);
    assert_eq!(
        published("[ { target: 80, published: \"8000-8010\" } ]")?,
        [tcp(HostPorts::OneOf(ports(8000, 8010)), ports(80, 80))]
    );
    Ok(())
}

#[test]
fn ports_that_look_like_clashes_and_are_none() -> Outcome {
    for ports in [
        "[\"127.0.0.1:80:80\", \"127.0.0.2:80:80\"]",
        "[\"127.0.0.1:80:80\", \"[::1]:80:80\"]",
        "[\"0.0.0.0:80:80\", \"[::]:80:80\"]",
        "[\"0.0.0.0:80:80\", \"[2001:db8::1]:80:80\"]",
        "[\"53:53/udp\", \"53:53/tcp\"]",
        "[\"8000-8009:8000-8009\", \"8010:80\"]",
        // A choice gives way to fixed ports.
        "[\"8005:80\", \"8000-8010:81\"]",
        // The UDP port of VXLAN is free where there is no overlay.
        "[\"4789:4789/udp\"]",
    ] {
        assert_eq!(published(ports)?.len(), 2 - usize::from(ports.contains("4789")), "{ports}");
    }
    Ok(())
}

/// As in Docker, ports of a network with both families are then published on that address alone.
#[test]
fn a_host_binding_is_for_ports_of_ipv4() -> Outcome {
    const IPV4_ROUTED: &str =
        "enable_ipv6: true, driver_opts: { com.docker.network.bridge.gateway_mode_ipv4: routed, ";
    for (network, expected) in [
        ("driver_opts: { ", Some("192.0.2.1".parse()?)),
        ("enable_ipv6: true, driver_opts: { ", Some("192.0.2.1".parse()?)),
        ("enable_ipv4: false, enable_ipv6: true, driver_opts: { ", None),
        (IPV4_ROUTED, None),
    ] {
        let loaded = parse_one(&format!(
            "networks: {{ front: {{ {network}com.docker.network.bridge.host_binding_ipv4: 192.0.2.1 }} }} }}\n\
             services: {{ web: {{ networks: [ front ], ports: [ \"8080:80\" ], x-weft: {{ pid: 17 }} }} }}\n"
        ))?;
        let addresses: Vec<_> =
            web(&loaded)?.publications.iter().map(|publication| publication.host_address).collect();
        assert_eq!(addresses, [expected], "{network}");
        assert_eq!(loaded.state.networks.get("front").and_then(|front| front.host_binding), expected);
    }
    Ok(())
}

/// The world reaches them by their own addresses, and so each has all ports.
#[test]
fn services_of_routed_networks_share_no_host_ports() -> Outcome {
    let parse = |modes: &str| {
        parse_one(&format!(
            "networks: {{ front: {{ enable_ipv6: true, driver_opts: {{ {modes} }} }}, back: {{}} }}\n\
             services:\n\
             \x20 a: {{ networks: [ front ], ports: [ \"80:80\" ], x-weft: {{ pid: 17 }} }}\n\
             \x20 b: {{ networks: [ front ], ports: [ \"80:80\" ], x-weft: {{ pid: 18 }} }}\n\
             \x20 c: {{ networks: [ back ], ports: [ \"80:80\" ], x-weft: {{ pid: 19 }} }}\n"
        ))
    };
    let mode = |family: &str| format!("com.docker.network.bridge.gateway_mode_{family}: routed");
    let loaded = parse(&format!("{}, {}", mode("ipv4"), mode("ipv6")))?;
    assert_eq!(loaded.state.containers.len(), 3);
    // IPv4 is translated.
    let error = parse(&mode("ipv6")).err().ok_or("host ports that clash were accepted")?;
    assert_eq!(error.to_string().matches("are published already").count(), 2, "{error}");
    Ok(())
}
