//! What well-formed files mean.

use std::{error::Error, net::IpAddr, path::Path, time::Duration};

use super::{super::load, Loaded, parse_one};
use crate::model::{
    Attachment, Container, ContainerNamespace, Driver, Filtering, HostPorts, MacAddress, Network, Peer,
    Policy, PortRange, Protocol, Publication, RemoteEndpoint, Subnet, Xdp,
};

pub(super) type Outcome = Result<(), Box<dyn Error>>;

pub(super) fn web(loaded: &Loaded) -> Result<&Container, Box<dyn Error>> {
    Ok(loaded.state.containers.get("web").ok_or("there is no web")?)
}

pub(super) const fn ports(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

pub(super) const fn tcp(host_ports: HostPorts, container_ports: PortRange) -> Publication {
    Publication { protocol: Protocol::Tcp, host_address: None, host_ports, container_ports }
}

#[test]
fn the_example_of_the_repository() -> Outcome {
    let state = load(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop.yaml")])?;
    let plain = Network {
        enable_ipv4: true,
        enable_ipv6: false,
        driver: Driver::Bridge,
        subnets: Vec::new(),
        policy: Policy {
            internal: false,
            inter_container: true,
            masquerade: true,
            filtering: Filtering::AddressAndPort,
            gateway_modes: Default::default(),
        },
        mtu: None,
        bridge_name: None,
        host_binding: None,
    };
    let subnet = |range: &str, gateway: Option<IpAddr>| -> Result<Vec<Subnet>, Box<dyn Error>> {
        Ok(vec![Subnet { range: range.parse()?, gateway, lease_range: None, reserved: Vec::new() }])
    };
    let front = Network { subnets: subnet("10.10.0.0/24", Some("10.10.0.1".parse()?))?, ..plain.clone() };
    let mesh = Network {
        driver: Driver::Overlay { vni: 4097 },
        subnets: subnet("10.20.0.0/24", None)?,
        ..plain.clone()
    };
    let back = Network { policy: Policy { internal: true, ..plain.policy }, ..plain };
    let networks = [("back", back), ("front", front), ("mesh", mesh)];
    assert!(state.networks.iter().map(|(name, network)| (name.as_str(), network.clone())).eq(networks));

    let front = Attachment { ipv4_address: Some("10.10.0.10".parse()?), ..Attachment::default() };
    let web = Container {
        namespace: ContainerNamespace::Named("web".to_owned()),
        attachments: [("front".to_owned(), front), ("mesh".to_owned(), Attachment::default())].into(),
        publications: vec![
            tcp(HostPorts::Exactly(ports(8080, 8080)), ports(80, 80)),
            Publication {
                host_address: Some("127.0.0.1".parse()?),
                ..tcp(HostPorts::Exactly(ports(8443, 8443)), ports(443, 443))
            },
            Publication {
                protocol: Protocol::Udp,
                ..tcp(HostPorts::Exactly(ports(10000, 10999)), ports(10000, 10999))
            },
        ],
        hostname: None,
        links: Vec::new(),
    };
    assert_eq!(state.containers, [("web".to_owned(), web)].into());

    let db = RemoteEndpoint {
        name: "db".to_owned(),
        address: "10.20.0.5".parse()?,
        mac_address: MacAddress([0x02, 0x42, 0x0a, 0x14, 0x00, 0x05]),
    };
    assert_eq!(
        state.peers,
        [Peer { vtep: "192.0.2.2".parse()?, network: "mesh".to_owned(), endpoints: vec![db] }]
    );
    assert_eq!(state.host.uplinks, ["eth0"]);
    assert_eq!(state.host.vtep, Some("192.0.2.1".parse()?));
    Ok(())
}

#[test]
fn both_families() -> Outcome {
    let loaded = parse_one(
        r#"
networks:
  front:
    enable_ipv6: true
    ipam:
      config:
        - { subnet: "fd00:10::/64", gateway: "fd00:10::ff", ip_range: "fd00:10::8000/113" }
        - { subnet: 10.10.0.0/24 }
  only:
    enable_ipv4: false
    enable_ipv6: true
services:
  web:
    networks: { front: { ipv6_address: "fd00:10::10" }, only: {} }
    ports: ["8080:80", "[2001:db8::1]:53:53/udp", "[::]::81", { target: 82, host_ip: "::1", published: 82 }]
    x-weft: { netns: web }
x-weft: { vtep: "2001:db8::1" }
"#,
    )?;
    let front = loaded.state.networks.get("front").ok_or("front")?;
    assert_eq!((front.enable_ipv4, front.enable_ipv6, front.subnets.len()), (true, true, 2));
    let v6 = front.subnet(crate::model::Family::V6).ok_or("no IPv6 subnet")?;
    assert_eq!((v6.range, v6.gateway), ("fd00:10::/64".parse()?, Some("fd00:10::ff".parse()?)));
    assert_eq!(v6.lease_range, Some("fd00:10::8000/113".parse()?));
    let only = loaded.state.networks.get("only").ok_or("only")?;
    assert_eq!((only.enable_ipv4, only.enable_ipv6, only.subnets.len()), (false, true, 0));
    let web = web(&loaded)?;
    let attachment = web.attachments.get("front").ok_or("front")?;
    assert_eq!((attachment.ipv4_address, attachment.ipv6_address), (None, Some("fd00:10::10".parse()?)));
    let addresses: Vec<_> = web.publications.iter().map(|publication| publication.host_address).collect();
    let named = ["2001:db8::1", "::", "::1"].map(|address| address.parse().ok());
    assert_eq!(addresses, [[None].as_slice(), &named].concat());
    assert_eq!(loaded.state.host.vtep, Some("2001:db8::1".parse()?));
    Ok(())
}

#[test]
fn network_settings() -> Outcome {
    let loaded = parse_one(
        r#"
networks:
  front:
    driver: bridge
    attachable: true
    enable_ipv6: false
    labels: { com.example.tier: web }
    x-note: ours
    driver_opts:
      com.docker.network.bridge.name: br-front
      com.docker.network.bridge.enable_icc: "false"
      com.docker.network.bridge.enable_ip_masquerade: false
      com.docker.network.bridge.gateway_mode_ipv4: nat
      com.docker.network.bridge.host_binding_ipv4: 192.0.2.1
      com.docker.network.driver.mtu: 1400
      weft.filtering: address
    ipam:
      driver: default
      config:
        - subnet: 10.10.0.0/24
          ip_range: 10.10.0.128/25
          gateway: 10.10.0.254
          aux_addresses: { nas: 10.10.0.9 }
  back:
    name: shop_back
services:
  web:
    networks: [front, back]
    ports: ["8080:80", "0.0.0.0:8443:443"]
    x-weft: { pid: 17 }
"#,
    )?;
    assert_eq!(
        loaded.state.networks.get("front"),
        Some(&Network {
            driver: Driver::Bridge,
            enable_ipv4: true,
            enable_ipv6: false,
            subnets: vec![Subnet {
                range: "10.10.0.0/24".parse()?,
                gateway: Some("10.10.0.254".parse()?),
                lease_range: Some("10.10.0.128/25".parse()?),
                reserved: vec!["10.10.0.9".parse()?],
            }],
            policy: Policy {
                internal: false,
                inter_container: false,
                masquerade: false,
                filtering: Filtering::Address,
                gateway_modes: Default::default(),
            },
            mtu: Some(1400),
            bridge_name: Some("br-front".to_owned()),
            host_binding: Some("192.0.2.1".parse()?),
        })
    );
    let web = web(&loaded)?;
    assert!(web.attachments.keys().eq(["front", "shop_back"]));
    let addresses: Vec<_> = web.publications.iter().map(|publication| publication.host_address).collect();
    assert_eq!(addresses, [Some("192.0.2.1".parse()?), Some("0.0.0.0".parse()?)]);
    Ok(())
}

#[test]
fn service_settings() -> Outcome {
    let loaded = parse_one(
        r#"
services:
  web:
    hostname: www.example
    container_name: shop-web
    expose: [80, "443/tcp", "8000-8010"]
    links: [db, "db:database"]
    networks:
      default: { aliases: [www], gw_priority: 7, priority: 1000, mac_address: "02:42:0a:0a:00:0a" }
    x-weft: { netns: web }
  db: { x-weft: { container: 3f2a9c } }
  logger: { network_mode: "service:db" }
  probe: { network_mode: "container:shop-web" }
  batch: { network_mode: none }
  agent: { network_mode: host }
"#,
    )?;
    let default = Attachment {
        mac_address: Some(MacAddress([0x02, 0x42, 0x0a, 0x0a, 0x00, 0x0a])),
        aliases: vec!["www".to_owned(), "shop-web".to_owned()],
        gateway_priority: 7,
        ..Attachment::default()
    };
    assert_eq!(
        web(&loaded)?,
        &Container {
            namespace: ContainerNamespace::Named("web".to_owned()),
            attachments: [("default".to_owned(), default)].into(),
            publications: Vec::new(),
            hostname: Some("www.example".to_owned()),
            links: vec![("db".to_owned(), "db".to_owned()), ("db".to_owned(), "database".to_owned())],
        }
    );
    let namespaces: Vec<_> = loaded
        .state
        .containers
        .iter()
        .map(|(name, container)| (name.as_str(), container.namespace.clone(), container.attachments.len()))
        .collect();
    let shared = |name: &str| ContainerNamespace::SharedWith(name.to_owned());
    assert_eq!(
        namespaces,
        [
            ("agent", ContainerNamespace::Host, 0),
            ("batch", ContainerNamespace::None, 0),
            ("db", ContainerNamespace::Docker("3f2a9c".to_owned()), 1),
            ("logger", shared("db"), 0),
            ("probe", shared("web"), 0),
            ("web", ContainerNamespace::Named("web".to_owned()), 1),
        ]
    );
    assert_eq!(loaded.source_of_service("web"), Some("test.yaml:10:13"));
    assert_eq!(loaded.source_of_service("nobody"), None);
    Ok(())
}

#[test]
fn host_settings() -> Outcome {
    let host = parse_one(
        r#"
x-weft:
  uplinks: [eth0, eth1]
  vtep: 192.0.2.1
  vxlan_port: 8472
  masquerade_ports: "20000-29999"
  max_flows: 65536
  timeouts: { udp: 120, tcp_established: 2h4m, tcp_transitory: "30s", tcp_opening: 10, icmp_query: 1m30s, port_hold: 3m }
"#,
    )?
    .state
    .host;
    assert_eq!(host.uplinks, ["eth0", "eth1"]);
    assert_eq!(host.vxlan_port, Some(8472));
    assert_eq!(host.masquerade_ports, Some(ports(20000, 29999)));
    assert_eq!(host.max_flows, Some(65536));
    let timeouts = host.timeouts;
    let seconds = [
        timeouts.udp,
        timeouts.tcp_established,
        timeouts.tcp_opening,
        timeouts.tcp_closing,
        timeouts.icmp_query,
        timeouts.port_hold,
    ];
    assert_eq!(seconds.map(|timeout| timeout.as_secs()), [120, 7440, 10, 30, 90, 180]);
    let short: Vec<String> = timeouts.below_the_rfcs().collect();
    assert_eq!(short, ["timeouts.tcp_closing is 30 s, and at least 240 s by RFC 5382 REQ-5"]);
    assert_eq!(seconds.first(), Some(&Duration::from_secs(120)));
    Ok(())
}

#[test]
fn xdp_of_uplinks() -> Outcome {
    let host = parse_one(
        "x-weft: { uplinks: [ eth0, { name: eth1, xdp: on }, { name: eth2, xdp: false }, { name: eth3 }, \
         { name: eth4, xdp: auto } ] }",
    )?
    .state
    .host;
    assert_eq!(host.uplinks, ["eth0", "eth1", "eth2", "eth3", "eth4"]);
    let said = [("eth1", Xdp::On), ("eth2", Xdp::Off), ("eth4", Xdp::Auto)];
    assert!(host.xdp.iter().map(|(name, mode)| (name.as_str(), *mode)).eq(said), "{:?}", host.xdp);
    Ok(())
}

#[test]
fn a_real_compose_file_is_accepted() -> Outcome {
    let loaded = parse_one(
        r#"
version: "3.9"
x-common: &common
  restart: unless-stopped
  logging: { driver: json-file }
volumes: { data: {} }
secrets: { key: { file: ./key } }
services:
  web:
    <<: *common
    build: .
    image: "example/web:${TAG}"
    command: ["serve", "--port", "80"]
    environment: { DEBUG: "1", PRICE: $$5 }
    depends_on: { redis: { condition: service_healthy } }
    ports: ["5000:80"]
    x-weft: { container: web }
  redis:
    <<: *common
    image: redis:alpine
    volumes: ["data:/data"]
    healthcheck: { test: [CMD, redis-cli, ping], interval: 1.5s }
    x-weft: { container: redis }
"#,
    )?;
    assert!(loaded.state.networks.keys().eq(["default"]));
    assert!(loaded.state.containers.values().all(|container| container.attachments.contains_key("default")));
    Ok(())
}

#[test]
fn an_empty_state_can_be_said() -> Outcome {
    assert_eq!(parse_one("services: {}\n")?.state, Default::default());
    assert_eq!(parse_one("\u{feff}services:\n")?.state, Default::default());
    Ok(())
}

/// The schema is made of the structs that the parser reads by; this guards the parts that are added by hand.
#[test]
fn the_json_schema_knows_the_fields() {
    let schema = super::super::json_schema();
    let service = &schema["$defs"]["Service"];
    assert_eq!(service["additionalProperties"], false);
    for field in ["networks", "ports", "network_mode", "links", "hostname", "x-weft", "image", "depends_on"] {
        assert!(!service["properties"][field].is_null(), "{field}");
    }
    assert!(service["properties"]["port"].is_null());
    assert_eq!(service["patternProperties"]["^x-"], true);
    // Every struct is closed: the parser refuses what the schema does not list.
    let structs =
        schema["$defs"].as_object().into_iter().flatten().filter(|(_, item)| item["type"] == "object");
    let mut count = 0;
    for (name, item) in structs {
        assert_eq!(item["additionalProperties"], false, "{name}");
        count += 1;
    }
    assert!(count >= 10, "{count} structs");
}
