//! Several files that together are one state.

use std::path::PathBuf;

use super::super::{ConfigErrors, parse};
use crate::model::DesiredState;

fn parse_two(first: &str, second: &str) -> Result<DesiredState, ConfigErrors> {
    parse(&[(PathBuf::from("a.yaml"), first.to_owned()), (PathBuf::from("b.yaml"), second.to_owned())])
}

#[track_caller]
fn assert_error(first: &str, second: &str, expected: &str) {
    let errors = parse_two(first, second).err().map(|errors| errors.to_string()).unwrap_or_default();
    assert_eq!(errors, expected);
}

const FRONT: &str = "networks:\n  front: { ipam: { config: [ { subnet: 10.10.0.0/24 } ] } }\n";

#[test]
fn networks_of_one_file_serve_the_services_of_another() -> Result<(), ConfigErrors> {
    let state = parse_two(
        FRONT,
        "networks: { front: { external: true } }\nservices:\n  web: { networks: [front], x-weft: { netns: web } }\n",
    )?;
    assert!(state.containers.values().all(|container| container.attachments.contains_key("front")));
    // By the name on the host, under a key of the file's own choice.
    let state = parse_two(
        FRONT,
        "networks: { edge: { external: true, name: front } }\nservices:\n  web: { networks: [edge], x-weft: { netns: \
         web } }\n",
    )?;
    assert!(state.containers.values().all(|container| container.attachments.contains_key("front")));
    assert!(state.networks.keys().eq(["front"]));
    Ok(())
}

#[test]
fn what_is_the_same_may_be_said_twice() -> Result<(), ConfigErrors> {
    let file = format!(
        "{FRONT}  mesh:\n    driver: overlay\n    driver_opts: {{ com.docker.network.driver.overlay.vxlanid_list: 7 \
         }}\n    ipam: {{ config: [ {{ subnet: 10.20.0.0/24 }} ] }}\nservices:\n  web:\n    networks: {{ front: {{ \
         ipv4_address: 10.10.0.10 }} }}\n    ports: [\"8080:80\"]\n    x-weft: {{ netns: web }}\nx-weft:\n  vtep: \
         192.0.2.1\n  peers:\n    - {{ vtep: 192.0.2.2, network: mesh, endpoints: [ {{ name: db, ipv4_address: \
         10.20.0.5, mac_address: \"02:42:0a:14:00:05\" }} ] }}\n"
    );
    let state = parse_two(&file, &file)?;
    assert_eq!((state.networks.len(), state.containers.len(), state.peers.len()), (2, 1, 1));
    Ok(())
}

#[test]
fn networks_that_differ() {
    assert_error(
        FRONT,
        "networks:\n  front: { internal: true }\n",
        "b.yaml:2:3: the network 'front' is declared differently at a.yaml:2:3",
    );
}

#[test]
fn services_that_differ() {
    assert_error(
        "services:\n  web: { x-weft: { netns: web } }\n",
        "services:\n  web: { x-weft: { netns: other } }\n",
        "b.yaml:2:3: the service 'web' is declared differently at a.yaml:2:3",
    );
    assert_error(
        "services:\n  a: { network_mode: none }\n  b: { network_mode: none }\n  web: { network_mode: service:a }\n",
        "services:\n  web: { network_mode: service:b }\n",
        "b.yaml:2:3: the service 'web' is declared differently at a.yaml:4:3",
    );
}

#[test]
fn host_settings_that_contradict() {
    assert_error(
        "x-weft: { vtep: 192.0.2.1, max_flows: 1000 }\n",
        "x-weft: { vtep: 192.0.2.1, max_flows: 2000 }\n",
        "b.yaml:1:39: max_flows is set differently at a.yaml:1:39: one host has one",
    );
    assert_error(
        "x-weft: { timeouts: { udp: 60 } }\n",
        "x-weft: { timeouts: { udp: 2m, icmp_query: 30 } }\n",
        "b.yaml:1:28: timeouts.udp is set differently at a.yaml:1:28: one host has one",
    );
}

#[test]
fn clashes_between_files() {
    assert_error(
        "services:\n  web: { x-weft: { netns: web }, ports: [\"8080:80\"] }\n",
        "services:\n  api: { x-weft: { netns: api }, ports: [\"127.0.0.1:8080:80\"] }\n",
        "b.yaml:2:42: the host ports of '127.0.0.1:8080:80/tcp' are published already, by '8080:80/tcp' of the \
         service 'web' at a.yaml:2:42",
    );
    assert_error(
        FRONT,
        "networks:\n  back: { ipam: { config: [ { subnet: 10.10.0.128/25 } ] } }\n",
        "b.yaml:2:39: the subnet 10.10.0.128/25 overlaps 10.10.0.0/24 of the network 'front' at a.yaml:2:40",
    );
}

#[test]
fn an_external_network_that_no_file_declares() {
    assert_error(
        "networks: { front: { external: true } }\n",
        "services: {}\n",
        "a.yaml:1:13: the external network 'front' is declared in none of the files",
    );
}

#[test]
fn the_errors_of_all_files_are_reported() {
    let errors =
        parse_two("services: [", "networks: 7\n").err().map(|errors| errors.to_string()).unwrap_or_default();
    assert!(errors.contains("a.yaml:") && errors.contains("b.yaml:1:11: "), "{errors}");
}
