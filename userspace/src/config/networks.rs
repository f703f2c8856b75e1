//! `networks`: each entry by itself. What concerns several of them is the work of `check`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnetwork::IpNetwork;

use super::{
    error::{Position, Report, quote},
    ipam,
    located::Located,
    schema, values,
};
use crate::model::{
    Driver, Family, Filtering, GatewayMode, Network, PerFamily, Policy, range::default_gateway,
};

/// The kernel's `ETH_MIN_MTU`, which is RFC 791's least.
const LEAST_MTU: u32 = 68;
/// The kernel's `ETH_MAX_MTU`.
const MOST_MTU: u32 = 65_535;
/// 24 bits (RFC 7348 section 5); zero is kept for no network.
const MOST_VNI: u32 = (1 << 24) - 1;
/// IPv6 needs it on every link (RFC 8200 section 5).
const LEAST_MTU_V6: u32 = 1280;

/// A network of the model with the places of what can clash with other networks.
#[derive(Debug)]
pub(super) struct NetworkDraft {
    pub network: Network,
    /// Where it is declared.
    pub at: Position,
    /// The subnets, checked, and their places.
    pub subnets: PerFamily<(IpNetwork, Position)>,
    pub vni: Option<(u32, Position)>,
    pub bridge_name: Option<(String, Position)>,
    /// `aux_addresses`.
    pub reserved: BTreeSet<IpAddr>,
    /// Something in it was wrong: conclusions from what is missing would mislead.
    pub faulty: bool,
}

impl NetworkDraft {
    /// The network that a name without a declaration stands for.
    pub(super) fn implicit(at: Position) -> Self {
        read(&schema::Network::default(), at, &mut Report::new([]))
    }

    /// The bridge's own address.
    pub(super) fn gateway(&self, family: Family) -> Option<IpAddr> {
        let (range, _) = self.subnets.of(family)?;
        Some(self.network.subnet(family)?.gateway.unwrap_or_else(|| default_gateway(*range)))
    }

    /// The network's host binding, for publications that name no address.
    pub(super) fn host_binding(&self) -> Option<Ipv4Addr> {
        match self.network.host_binding {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        }
    }

    /// Whether ports of its containers are ports of the host in some family: they are not in one that is routed.
    pub(super) fn has_host_ports(&self) -> bool {
        let network = &self.network;
        Family::BOTH.into_iter().any(|family| network.has(family) && !network.policy.is_routed(family))
    }
}

/// Names of the networks of one file.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// From the key in `networks` to the name in the model, where they were given, faulty ones included.
    pub names: BTreeMap<String, String>,
    /// Networks that another file must declare.
    pub external: Vec<Located<String>>,
    /// Networks declared here, by name in the model.
    pub declared: Vec<(String, NetworkDraft)>,
}

/// Reads the `networks` of a file.
pub(super) fn read_all(networks: Option<&schema::NetworksMap>, report: &mut Report) -> Scope {
    let mut scope = Scope::default();
    for (key, network) in networks.map_or(&[][..], |networks| networks.0.as_slice()) {
        if !values::name(&key.value, key.at, "network name", report) {
            scope.names.insert(key.value.clone(), key.value.clone());
            continue;
        }
        let default = schema::Network::default();
        let network = network.as_ref().unwrap_or(&default);
        let name = match &network.name {
            Some(name) if values::docker_name(name, "network name", report) => name,
            _ => key,
        };
        scope.names.insert(key.value.clone(), name.value.clone());
        let external = network.external.as_ref().and_then(|external| values::flag(external, report));
        if external == Some(true) {
            refuse_settings_of_external(network, key, report);
            scope.external.push(Located { value: name.value.clone(), at: key.at });
        } else {
            scope.declared.push((name.value.clone(), read(network, key.at, report)));
        }
    }
    scope
}

fn refuse_settings_of_external(network: &schema::Network, key: &Located<String>, report: &mut Report) {
    if network.driver.is_some()
        || network.driver_opts.is_some()
        || network.ipam.is_some()
        || network.internal.is_some()
        || network.enable_ipv4.is_some()
        || network.enable_ipv6.is_some()
    {
        report.add(key.at, "an external network has no settings here: they stand where it is declared");
    }
}

fn read(declared: &schema::Network, at: Position, report: &mut Report) -> NetworkDraft {
    let before = report.count();
    let no_options = schema::DriverOptions::default();
    let options = declared.driver_opts.as_ref().unwrap_or(&no_options);
    let mut flag = |flag: &Option<Located<schema::Flag>>, default| {
        flag.as_ref().and_then(|flag| values::flag(flag, report)).unwrap_or(default)
    };
    let internal = flag(&declared.internal, false);
    let inter_container = flag(&options.inter_container, true);
    let masquerade = flag(&options.masquerade, true);
    let (enable_ipv4, enable_ipv6) = (flag(&declared.enable_ipv4, true), flag(&declared.enable_ipv6, false));
    if !enable_ipv4
        && !enable_ipv6
        && let Some(enable) = &declared.enable_ipv4
    {
        report.add(enable.at, "a network without IPv4 needs IPv6: add 'enable_ipv6: true'");
    }
    let (driver, vni) = read_driver(declared, options, report);
    let subnets = ipam::read(declared.ipam.as_ref(), [enable_ipv4, enable_ipv6], report);
    let mtu = options.mtu.as_ref().and_then(|mtu| {
        let (least, what) =
            if enable_ipv6 { (LEAST_MTU_V6, "the MTU with IPv6") } else { (LEAST_MTU, "the MTU") };
        values::number(mtu, what, least, MOST_MTU, report)
    });
    let bridge_name = options
        .bridge_name
        .as_ref()
        .filter(|name| values::device_name(name, report))
        .map(|name| (name.value.clone(), name.at));
    let gateway_modes = PerFamily {
        v4: gateway_mode(options.gateway_mode_ipv4.as_ref(), enable_ipv4, internal, driver, report),
        v6: gateway_mode(options.gateway_mode_ipv6.as_ref(), enable_ipv6, internal, driver, report),
    };
    if enable_ipv4 && enable_ipv6 {
        refuse_isolation_of_one_family(&gateway_modes, options, report);
    }
    let policy = Policy {
        internal,
        inter_container,
        masquerade,
        filtering: options.filtering.as_ref().and_then(|text| filtering(text, report)).unwrap_or_default(),
        gateway_modes,
    };
    let network = Network {
        driver,
        enable_ipv4,
        enable_ipv6,
        subnets: subnets.iter().map(|(subnet, _)| subnet.clone()).collect(),
        policy,
        mtu,
        bridge_name: bridge_name.as_ref().map(|(name, _)| name.clone()),
        host_binding: options
            .host_binding
            .as_ref()
            .and_then(|binding| host_binding(binding, report))
            // It is the address of IPv4's host ports, and says nothing where there are none.
            .filter(|_| enable_ipv4 && !policy.is_routed(Family::V4)),
    };
    NetworkDraft {
        reserved: network.subnets.iter().flat_map(|subnet| &subnet.reserved).copied().collect(),
        network,
        at,
        subnets: subnets.map(|(subnet, at)| (subnet.range, at)),
        vni,
        bridge_name,
        faulty: report.count() > before,
    }
}

fn filtering(text: &Located<String>, report: &mut Report) -> Option<Filtering> {
    let known = Filtering::ALL.into_iter().find(|filtering| filtering.to_string() == text.value);
    if known.is_none() {
        let reason = "is no filtering: address-and-port, address or endpoint-independent";
        report.add(text.at, format!("{} {reason}", quote(&text.value)));
    }
    known
}

/// Docker's gateway modes. `None`: `nat`.
fn gateway_mode(
    mode: Option<&Located<String>>,
    enabled: bool,
    internal: bool,
    driver: Driver,
    report: &mut Report,
) -> Option<GatewayMode> {
    let mode = mode?;
    if mode.value == "nat" {
        return None;
    }
    let Some(known) = GatewayMode::ALL.into_iter().find(|known| known.to_string() == mode.value) else {
        let reason = "is no gateway mode: nat, nat-unprotected, routed or isolated";
        report.add(mode.at, format!("{} {reason}", quote(&mode.value)));
        return None;
    };
    if !enabled {
        report.add(mode.at, "the network has no addresses of this family");
        return None;
    }
    let refusal = match known {
        GatewayMode::Isolated if !internal => {
            "only an internal network is isolated from its host: add 'internal: true'"
        }
        GatewayMode::NatUnprotected | GatewayMode::Routed if driver != Driver::Bridge => {
            "nobody has a route to the members of an overlay network: it reaches the world by each host's address"
        }
        _ => return Some(known),
    };
    report.add(mode.at, refusal);
    None
}

/// A bridge hears its host or it does not.
fn refuse_isolation_of_one_family(
    modes: &PerFamily<GatewayMode>,
    options: &schema::DriverOptions,
    report: &mut Report,
) {
    let isolated = |mode: Option<GatewayMode>| mode == Some(GatewayMode::Isolated);
    let (one, other) = match (isolated(modes.v4), isolated(modes.v6)) {
        (true, false) => (&options.gateway_mode_ipv4, "gateway_mode_ipv6"),
        (false, true) => (&options.gateway_mode_ipv6, "gateway_mode_ipv4"),
        _ => return,
    };
    if let Some(one) = one {
        report.add(one.at, format!("the network is isolated in both families or in none: {other} is not"));
    }
}

/// 0.0.0.0 is Docker's default and means the same here: every address.
fn host_binding(binding: &Located<String>, report: &mut Report) -> Option<IpAddr> {
    let address = values::ipv4(binding, report)?;
    if address.is_multicast() || address.is_broadcast() {
        report.add(binding.at, format!("{address}: the host cannot have this address"));
    }
    (!address.is_unspecified()).then_some(IpAddr::V4(address))
}

fn read_driver(
    declared: &schema::Network,
    options: &schema::DriverOptions,
    report: &mut Report,
) -> (Driver, Option<(u32, Position)>) {
    let vni = options.vxlan_id.as_ref();
    match &declared.driver {
        Some(driver) if driver.value == "overlay" => {
            let Some(vni) = vni else {
                report.add(
                    driver.at,
                    "an overlay network needs a VXLAN identifier, the same on every host: add driver_opts: { \
                     com.docker.network.driver.overlay.vxlanid_list: \"4097\" }",
                );
                return (Driver::Bridge, None);
            };
            match values::number(vni, "a VXLAN identifier (one, no list)", 1, MOST_VNI, report) {
                Some(number) => (Driver::Overlay { vni: number }, Some((number, vni.at))),
                None => (Driver::Bridge, None),
            }
        }
        Some(driver) if driver.value != "bridge" => {
            report.add(
                driver.at,
                format!("{} is not a driver of weft: bridge or overlay", quote(&driver.value)),
            );
            (Driver::Bridge, None)
        }
        _ => {
            if let Some(vni) = vni {
                report.add(
                    vni.at,
                    "a bridge network has no VXLAN identifier: add 'driver: overlay' or remove it",
                );
            }
            (Driver::Bridge, None)
        }
    }
}
