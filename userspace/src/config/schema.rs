//! The file format as serde structs: the one definition that the parser reads by and the JSON schema is made of.
//! Shapes only; what the values mean is the work of `networks`, `services` and `host`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::located::{Ignored, Located, Named};

/// A weft file: a strict subset of the Compose specification. Fields of Compose that do not concern networks are
/// accepted and ignored; every unknown field is an error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("ComposeFile"))]
pub(super) struct ComposeFile {
    /// Name of the project.
    pub name: Option<Located<String>>,
    /// Networks by name; a network without settings is written as `front:`.
    pub networks: Option<NetworksMap>,
    /// Services by name: the containers.
    pub services: Option<Named<Located<Service>>>,
    /// Settings of this host.
    #[serde(rename = "x-weft")]
    pub host: Option<Host>,
}

/// The `networks` of a file.
pub(super) type NetworksMap = Named<Option<Network>>;

/// A network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("Network"))]
pub(super) struct Network {
    /// Name under which the network is known on the host; by default the key in `networks`.
    pub name: Option<Located<String>>,
    /// `bridge` (the default) or `overlay`.
    pub driver: Option<Located<String>>,
    /// Options of the driver.
    pub driver_opts: Option<DriverOptions>,
    /// Addresses.
    pub ipam: Option<Ipam>,
    /// No traffic to or from the world.
    pub internal: Option<Located<Flag>>,
    /// Accepted for Compose; every weft network can be attached to.
    pub attachable: Ignored,
    /// Members have IPv4 addresses; the default.
    pub enable_ipv4: Option<Located<Flag>>,
    /// Members have IPv6 addresses; not the default.
    pub enable_ipv6: Option<Located<Flag>>,
    /// Accepted for Compose and ignored.
    pub labels: Ignored,
    /// Declared in another file of the same load.
    pub external: Option<Located<Flag>>,
}

/// Docker's options of network drivers that weft knows, and one of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DriverOptions {
    /// Name of the bridge device.
    #[serde(rename = "com.docker.network.bridge.name")]
    pub bridge_name: Option<Located<String>>,
    /// Containers of the network may talk to one another.
    #[serde(rename = "com.docker.network.bridge.enable_icc")]
    pub inter_container: Option<Located<Flag>>,
    /// Traffic to the world leaves with the host's address.
    #[serde(rename = "com.docker.network.bridge.enable_ip_masquerade")]
    pub masquerade: Option<Located<Flag>>,
    /// `nat`, `nat-unprotected` (whoever has a route also reaches the containers' own IPv4 addresses), `routed` (the world
    /// knows the containers by those only), or `isolated` (an internal network without its host).
    #[serde(rename = "com.docker.network.bridge.gateway_mode_ipv4")]
    pub gateway_mode_ipv4: Option<Located<String>>,
    /// The same for IPv6.
    #[serde(rename = "com.docker.network.bridge.gateway_mode_ipv6")]
    pub gateway_mode_ipv6: Option<Located<String>>,
    /// Host address of published ports that name none.
    #[serde(rename = "com.docker.network.bridge.host_binding_ipv4")]
    pub host_binding: Option<Located<String>>,
    /// MTU of the containers' interfaces, 68 to 65535.
    #[serde(rename = "com.docker.network.driver.mtu")]
    pub mtu: Option<Located<Scalar>>,
    /// Whom masqueraded containers hear uninvited at their sockets' external ports (RFC 4787 section 5):
    /// `address-and-port` (the default: whom the socket has sent to), `address` (any port there) or
    /// `endpoint-independent` (everybody).
    #[serde(rename = "weft.filtering")]
    pub filtering: Option<Located<String>>,
    /// VXLAN network identifier of an overlay network, 1 to 16777215.
    #[serde(rename = "com.docker.network.driver.overlay.vxlanid_list")]
    pub vxlan_id: Option<Located<Scalar>>,
}

/// Address management of a network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("Ipam"))]
pub(super) struct Ipam {
    /// `default`, the only one.
    pub driver: Option<Located<String>>,
    /// One entry for each address family.
    pub config: Option<Vec<Located<IpamConfig>>>,
}

/// A subnet of a network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("IpamConfig"))]
pub(super) struct IpamConfig {
    /// The subnet, as in `10.10.0.0/24` or `fd00:10::/64`.
    pub subnet: Option<Located<String>>,
    /// The bridge's own address; by default the first of the subnet.
    pub gateway: Option<Located<String>>,
    /// Part of the subnet from which addresses are given out.
    pub ip_range: Option<Located<String>>,
    /// Addresses that are never given out, by a name of your choice.
    pub aux_addresses: Option<Named<Located<String>>>,
}

/// A service: one container.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("Service"))]
pub(super) struct Service {
    /// Networks to join: a list of names, or a mapping with settings.
    pub networks: Option<ServiceNetworks>,
    /// Ports published on the host.
    pub ports: Option<Vec<Located<Port>>>,
    /// `none`, `host`, `service:NAME` or `container:NAME`, in place of `networks`.
    pub network_mode: Option<Located<String>>,
    /// Services to resolve by name, `SERVICE` or `SERVICE:ALIAS`.
    pub links: Option<Vec<Located<String>>>,
    /// Host name.
    pub hostname: Option<Located<String>>,
    /// Another name of the container, unique on the host.
    pub container_name: Option<Located<String>>,
    /// Ports that the container serves to its networks: checked, and without further effect.
    pub expose: Option<Vec<Located<Scalar>>>,
    /// Where the container is.
    #[serde(rename = "x-weft")]
    pub location: Option<Located<ServiceLocation>>,
}

/// Where a container's network stack is: exactly one of the three.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ServiceLocation {
    /// A named network namespace, as made by `ip netns add NAME`.
    pub netns: Option<Located<String>>,
    /// The network namespace of this process.
    pub pid: Option<Located<i64>>,
    /// A Docker container, by name or id.
    pub container: Option<Located<String>>,
}

/// Networks of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(untagged)]
pub(super) enum ServiceNetworks {
    /// Names.
    List(Vec<Located<String>>),
    /// Names with settings.
    Map(Named<Option<ServiceNetwork>>),
}

/// A service's place in a network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("ServiceNetwork"))]
pub(super) struct ServiceNetwork {
    /// IPv4 address in the network; given out by weft when absent.
    pub ipv4_address: Option<Located<String>>,
    /// IPv6 address in the network; given out by weft when absent.
    pub ipv6_address: Option<Located<String>>,
    /// MAC address of the interface.
    pub mac_address: Option<Located<String>>,
    /// Other names of the container in this network.
    pub aliases: Option<Vec<Located<String>>>,
    /// The network with the highest value gives the default route.
    pub gw_priority: Option<Located<i64>>,
    /// Accepted for Compose: the order of connecting has no effect here.
    pub priority: Option<i64>,
}

/// A published port.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(untagged)]
pub(super) enum Port {
    /// `[[HOST-ADDRESS:]HOST-PORTS:]CONTAINER-PORTS[/PROTOCOL]`.
    Text(String),
    /// A container port.
    Integer(i64),
    /// The long form.
    Map(LongPort),
}

/// The long form of a published port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = compose_fields("LongPort"))]
pub(super) struct LongPort {
    /// Container port, or a range of them.
    pub target: Option<Located<Scalar>>,
    /// Host port, or a range of them; a free one is chosen when absent.
    pub published: Option<Located<Scalar>>,
    /// Host address; every one when absent.
    pub host_ip: Option<Located<String>>,
    /// `tcp` (the default) or `udp`.
    pub protocol: Option<Located<String>>,
    /// `host` or `ingress`: both mean this host.
    pub mode: Option<Located<String>>,
    /// Accepted for Compose and ignored.
    pub name: Ignored,
    /// Accepted for Compose and ignored.
    pub app_protocol: Ignored,
}

/// Settings of the host.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Host {
    /// Devices that lead to the world; by default the one of the default route.
    pub uplinks: Option<Vec<Located<Uplink>>>,
    /// Own address of the VXLAN tunnel; by default the first uplink's.
    pub vtep: Option<Located<String>>,
    /// UDP port of VXLAN, by default 4789.
    pub vxlan_port: Option<Located<i64>>,
    /// Containers of overlay networks on other hosts.
    pub peers: Option<Vec<Located<Peer>>>,
    /// External ports that masquerade may use, as in `20000-29999`.
    pub masquerade_ports: Option<Located<Scalar>>,
    /// Number of flow records.
    pub max_flows: Option<Located<i64>>,
    /// How long an idle flow is kept.
    pub timeouts: Option<FlowTimeouts>,
}

/// A device that leads to the world.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(untagged)]
pub(super) enum Uplink {
    /// Its name.
    Text(String),
    /// Its name and more.
    Map(LongUplink),
}

/// The long form of an uplink.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LongUplink {
    /// Name of the device.
    pub name: Located<String>,
    /// Whether XDP serves it: `auto` (the default), `on` or `off`.
    #[serde(default)]
    pub xdp: Option<Located<Flag>>,
}

/// Timeouts in seconds, or durations such as `300s`, `5m` or `1h30m`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FlowTimeouts {
    /// UDP, 300 s by default.
    pub udp: Option<Located<Scalar>>,
    /// Established TCP connection, 7440 s by default.
    pub tcp_established: Option<Located<Scalar>>,
    /// TCP connection that opens or closes, 240 s by default.
    pub tcp_transitory: Option<Located<Scalar>>,
    /// TCP connection of which only one end has been heard, in place of `tcp_transitory`.
    pub tcp_opening: Option<Located<Scalar>>,
    /// TCP connection that has ended, in place of `tcp_transitory`.
    pub tcp_closing: Option<Located<Scalar>>,
    /// ICMP query, 60 s by default.
    pub icmp_query: Option<Located<Scalar>>,
    /// How long an external port stays with its socket after the last flow, 120 s by default.
    pub port_hold: Option<Located<Scalar>>,
}

/// Containers of one overlay network on another host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    /// Tunnel address of the other host.
    pub vtep: Located<String>,
    /// The overlay network.
    pub network: Located<String>,
    /// The containers.
    #[serde(default)]
    pub endpoints: Option<Vec<Located<PeerEndpoint>>>,
}

/// A container on another host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerEndpoint {
    /// Its name.
    pub name: Located<String>,
    /// Its IPv4 address in the overlay network; one of the two is needed.
    #[serde(default)]
    pub ipv4_address: Option<Located<String>>,
    /// Its IPv6 address in the overlay network.
    #[serde(default)]
    pub ipv6_address: Option<Located<String>>,
    /// Its MAC address in the overlay network.
    pub mac_address: Located<String>,
}

/// Text, or a number that stands for its digits.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(untagged)]
pub(super) enum Scalar {
    /// Text.
    Text(String),
    /// A number.
    Integer(i64),
}

impl Scalar {
    /// The digits or the text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
        }
    }
}

/// `true` or `false`, quoted or not.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(untagged)]
pub(super) enum Flag {
    /// Plain.
    Boolean(bool),
    /// In quotes, as driver options are usually written.
    Text(String),
}

/// Adds to a struct's JSON schema what the parser reads over there: `x-*` and Compose fields without effect.
fn compose_fields(structure: &'static str) -> impl FnMut(&mut schemars::Schema) {
    move |schema| {
        schema.insert("patternProperties".to_owned(), serde_json::json!({ "^x-": true }));
        if let Some(properties) = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut) {
            for field in super::fields::ignored_fields(structure) {
                properties.insert((*field).to_owned(), serde_json::Value::Bool(true));
            }
        }
    }
}
