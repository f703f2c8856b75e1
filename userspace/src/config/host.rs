//! Top-level `x-weft`: settings of the host, and the containers of overlay networks elsewhere.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    error::{Position, Report, quote},
    located::Located,
    merge::Networks,
    ports, schema, values,
};
use crate::model::{Driver, Family, HostSettings, MacAddress, Peer, PortRange, RemoteEndpoint, Xdp};

/// A peer's tunnel address, network and endpoints, to tell repetitions.
type PeerContent = (IpAddr, String, Vec<(String, IpAddr, MacAddress)>);

/// What the files said about the host so far, each with its place.
#[derive(Debug, Default)]
pub(super) struct HostDraft {
    pub settings: HostSettings,
    pub vtep_at: Option<Position>,
    uplinks_at: Option<Position>,
    vxlan_port_at: Option<Position>,
    masquerade_ports_at: Option<Position>,
    max_flows_at: Option<Position>,
    timeouts_at: [Option<Position>; 6],
    /// Uplink names with their places.
    pub uplinks: Vec<Located<String>>,
    pub peers: Vec<PeerDraft>,
    /// Peers by content, with the file that declared them first.
    known_peers: HashMap<PeerContent, usize>,
}

/// An entry of `peers` with its places.
#[derive(Debug)]
pub(super) struct PeerDraft {
    pub peer: Peer,
    pub at: Position,
    pub vtep_at: Position,
    pub endpoints: Vec<EndpointDraft>,
}

/// A container elsewhere.
#[derive(Debug)]
pub(super) struct EndpointDraft {
    /// Of either family.
    pub addresses: Vec<(IpAddr, Position)>,
    pub mac_address: MacAddress,
    pub mac_at: Position,
}

/// Takes over a value that another file may have set too; the same again is no contradiction.
fn settle<T: PartialEq>(
    value: Option<(T, Position)>,
    into: &mut T,
    at: &mut Option<Position>,
    what: &str,
    report: &mut Report,
) {
    let Some((value, here)) = value else { return };
    match *at {
        Some(first) if *into != value => {
            let place = report.place(first);
            report.add(here, format!("{what} is set differently at {place}: one host has one"));
        }
        _ => {
            *into = value;
            *at = Some(here);
        }
    }
}

impl HostDraft {
    /// Adds what one file says.
    pub(super) fn add(&mut self, host: &schema::Host, networks: &mut Networks, report: &mut Report) {
        self.add_uplinks(host.uplinks.as_deref(), report);
        let settings = &mut self.settings;

        let vtep = host.vtep.as_ref().and_then(|text| Some((Some(values::unicast(text, report)?), text.at)));
        settle(vtep, &mut settings.vtep, &mut self.vtep_at, "vtep", report);

        let port = host.vxlan_port.as_ref().and_then(|port| {
            let number = values::integer(port, "the VXLAN port", 1, u16::MAX.into(), report)?;
            Some((u16::try_from(number).ok(), port.at))
        });
        settle(port, &mut settings.vxlan_port, &mut self.vxlan_port_at, "vxlan_port", report);

        let ports = host.masquerade_ports.as_ref().and_then(|text| {
            let range: Option<PortRange> =
                ports::range(&text.value.text()).map_err(|reason| report.add(text.at, reason)).ok();
            Some((Some(range?), text.at))
        });
        settle(
            ports,
            &mut settings.masquerade_ports,
            &mut self.masquerade_ports_at,
            "masquerade_ports",
            report,
        );

        let flows = host.max_flows.as_ref().and_then(|flows| {
            Some((Some(values::integer(flows, "the number of flows", 1, u32::MAX, report)?), flows.at))
        });
        settle(flows, &mut settings.max_flows, &mut self.max_flows_at, "max_flows", report);

        if let Some(timeouts) = &host.timeouts {
            let known = &mut settings.timeouts;
            let transitory = timeouts.tcp_transitory.as_ref();
            let opening = timeouts.tcp_opening.as_ref().or(transitory);
            let closing = timeouts.tcp_closing.as_ref().or(transitory);
            let fields = [
                (timeouts.udp.as_ref(), &mut known.udp, "timeouts.udp"),
                (timeouts.tcp_established.as_ref(), &mut known.tcp_established, "timeouts.tcp_established"),
                (opening, &mut known.tcp_opening, "timeouts.tcp_opening"),
                (closing, &mut known.tcp_closing, "timeouts.tcp_closing"),
                (timeouts.icmp_query.as_ref(), &mut known.icmp_query, "timeouts.icmp_query"),
                (timeouts.port_hold.as_ref(), &mut known.port_hold, "timeouts.port_hold"),
            ];
            for ((given, into, what), at) in fields.into_iter().zip(&mut self.timeouts_at) {
                let given = given.and_then(|text| Some((values::timeout(text, report)?, text.at)));
                settle(given, into, at, what, report);
            }
        }

        for peer in host.peers.iter().flatten() {
            if let Some(peer) = read_peer(peer, networks, report) {
                // Another file may repeat a peer; a repetition in the same file shows up as equal addresses.
                let Peer { vtep, network, endpoints } = &peer.peer;
                let endpoints = endpoints
                    .iter()
                    .map(|endpoint| (endpoint.name.clone(), endpoint.address, endpoint.mac_address));
                let content = (*vtep, network.clone(), endpoints.collect());
                if *self.known_peers.entry(content).or_insert(peer.at.file) == peer.at.file {
                    self.peers.push(peer);
                }
            }
        }
    }

    fn add_uplinks(&mut self, uplinks: Option<&[Located<schema::Uplink>]>, report: &mut Report) {
        let Some(uplinks) = uplinks else { return };
        let Some(first) = uplinks.first() else { return };
        let (mut names, mut modes) = (Vec::new(), BTreeMap::new());
        let mut seen = HashSet::new();
        for uplink in uplinks {
            let (name, mode) = match &uplink.value {
                schema::Uplink::Text(name) => (Located { value: name.clone(), at: uplink.at }, None),
                schema::Uplink::Map(long) => (long.name.clone(), long.xdp.as_ref()),
            };
            if !values::device_name(&name, report) {
                continue;
            }
            if !seen.insert(name.value.clone()) {
                report.add(name.at, format!("the uplink {} is named twice", quote(&name.value)));
                continue;
            }
            if let Some(mode) = mode.and_then(|mode| xdp(mode, report)) {
                modes.insert(name.value.clone(), mode);
            }
            names.push(name.value.clone());
            self.uplinks.push(name);
        }
        let mut settled =
            (std::mem::take(&mut self.settings.uplinks), std::mem::take(&mut self.settings.xdp));
        settle(Some(((names, modes), first.at)), &mut settled, &mut self.uplinks_at, "uplinks", report);
        (self.settings.uplinks, self.settings.xdp) = settled;
    }
}

/// `on` and `off` are YAML's booleans of old.
fn xdp(mode: &Located<schema::Flag>, report: &mut Report) -> Option<Xdp> {
    match &mode.value {
        schema::Flag::Boolean(true) => Some(Xdp::On),
        schema::Flag::Boolean(false) => Some(Xdp::Off),
        schema::Flag::Text(text) => {
            let known = [Xdp::Auto, Xdp::On, Xdp::Off].into_iter().find(|mode| mode.as_str() == text);
            if known.is_none() {
                report.add(mode.at, format!("xdp is auto, on or off, not {}", quote(text)));
            }
            known
        }
    }
}

fn read_peer(
    declared: &Located<schema::Peer>,
    networks: &mut Networks,
    report: &mut Report,
) -> Option<PeerDraft> {
    let peer = &declared.value;
    let vtep = values::unicast(&peer.vtep, report);
    let network = networks.resolve(&peer.network);
    let draft = network.as_ref().and_then(|network| networks.drafts.get(network));
    match draft {
        None if network.is_none() => report.add(
            peer.network.at,
            format!("unknown network {}: declare it under 'networks'", quote(&peer.network.value)),
        ),
        Some(draft) if !draft.faulty && draft.network.driver == Driver::Bridge => report.add(
            peer.network.at,
            format!("the network {} is no overlay, so it has no peers", quote(&peer.network.value)),
        ),
        _ => {}
    }
    let network = network?;
    let mut endpoints = Vec::new();
    let mut remotes = Vec::new();
    for endpoint in peer.endpoints.iter().flatten() {
        let schema::PeerEndpoint { name, ipv4_address, ipv6_address, mac_address } = &endpoint.value;
        let named = values::name(&name.value, name.at, "container name", report);
        let mac = values::mac(mac_address, report);
        if ipv4_address.is_none() && ipv6_address.is_none() {
            report.add(endpoint.at, "its address is missing: add ipv4_address or ipv6_address");
        }
        let mut addresses = Vec::new();
        for (family, text) in [(Family::V4, ipv4_address), (Family::V6, ipv6_address)] {
            let Some(text) = text else { continue };
            let Some(address) = values::address(text, family, report) else { continue };
            networks.check_address(&network, address, text.at, report);
            addresses.push((address, text.at));
        }
        if let (true, Some(mac)) = (named, mac) {
            remotes.extend(addresses.iter().map(|(address, _)| RemoteEndpoint {
                name: name.value.clone(),
                address: *address,
                mac_address: mac,
            }));
            endpoints.push(EndpointDraft { addresses, mac_address: mac, mac_at: mac_address.at });
        }
    }
    Some(PeerDraft {
        peer: Peer { vtep: vtep?, network, endpoints: remotes },
        at: declared.at,
        vtep_at: peer.vtep.at,
        endpoints,
    })
}
