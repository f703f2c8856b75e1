//! The kernel's side: bridges, veth pairs and vxlan devices that mean what the topology says.
//!
//! The devices of a topology are pieces with a text each; a change takes down the pieces that have gone and puts up the
//! new ones. Rules are replaced as a whole, in one step.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use anyhow::Result;

use super::{
    description::{HOSTS, NetworkKind, Topology},
    family::{Family, uplink},
    kernel_rules,
    site::Site,
};

const MTU: u32 = 1500;

/// What the kernel's side has now.
#[derive(Debug)]
pub struct KernelSide {
    pieces: Vec<Vec<Piece>>,
}

/// A device with everything that belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Piece {
    links: Vec<String>,
    /// By namespace.
    inside: Vec<(String, String)>,
    bridge: Vec<String>,
    shell: Vec<String>,
    down_bridge: Vec<String>,
    down: Vec<String>,
}

impl KernelSide {
    /// Prepares the hosts for IPv6, as weft does where the first network has it.
    pub fn start(site: &Site) -> Result<Self> {
        for namespace in site.namespaces() {
            // Addresses are there at once; nobody has them twice.
            namespace.check("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")?;
        }
        for host in &site.hosts {
            host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        Ok(Self { pieces: vec![Vec::new(); HOSTS] })
    }

    /// Makes the hosts what the topology says.
    pub fn configure(&mut self, site: &Site, topology: &Topology) -> Result<()> {
        for host in 0..HOSTS {
            let wanted = pieces(site, topology, host);
            let script = script(&self.pieces[host], &wanted, &kernel_rules::ruleset(topology, host));
            // Even if it fails half-way: the pieces are then not what they should be, and so is the whole side.
            self.pieces[host] = wanted;
            site.hosts[host].check(&script)?;
        }
        Ok(())
    }
}

fn pieces(site: &Site, topology: &Topology, host: usize) -> Vec<Piece> {
    let mut all = Vec::new();
    for (number, network) in topology.networks.iter().enumerate().filter(|(_, it)| it.is_on(host)) {
        let mut links = vec![
            // With an address of its own: else it takes that of a port, and each change flushes its neighbours.
            format!(
                "link add br{number} address 02:fe:00:00:{host:02x}:{number:02x} type bridge stp_state 0"
            ),
        ];
        let gateways = network.families.iter().map(|family| (topology.gateway(number, family), family));
        links.extend(gateways.map(|(gateway, family)| add_address(gateway, family, &format!("br{number}"))));
        links.push(format!("link set br{number} up"));
        let mut piece = Piece {
            links,
            // Packets for published ports on 127.0.0.1 leave for the bridge, as Docker without a proxy does it.
            shell: vec![format!("echo 1 > /proc/sys/net/ipv4/conf/br{number}/route_localnet")],
            down: vec![format!("link del br{number}")],
            ..Piece::default()
        };
        if network.kind == NetworkKind::Overlay {
            piece.links.extend([
                format!(
                    "link add vx{number} mtu {} type vxlan id {} local {} dstport 4789 nolearning noudpcsum \
                     udp6zerocsumtx udp6zerocsumrx",
                    overlay_mtu(topology),
                    vni(number),
                    uplink(host, topology.tunnels)
                ),
                format!("link set vx{number} master br{number} up"),
            ]);
            // The host answers ARP for the containers elsewhere, and nobody else for the gateway.
            piece.bridge.push(format!("link set dev vx{number} neigh_suppress on"));
            piece.down.push(format!("link del vx{number}"));
        }
        all.push(piece);
    }
    for (slot, container) in topology.present() {
        for &number in &container.networks {
            if container.host == host {
                all.push(attachment(site, topology, slot, number));
            } else if topology.networks[number].kind == NetworkKind::Overlay {
                all.push(remote(topology, slot, number));
            }
        }
    }
    all
}

fn add_address(address: IpAddr, family: Family, device: &str) -> String {
    let option = if family == Family::V6 { " nodad" } else { "" };
    format!("address add {address}/{} dev {device}{option}", family.prefix_length())
}

/// MTU of an overlay network: 1500 less the 50 bytes of VXLAN over IPv4, or the 70 over IPv6 (RFC 7348 section 4.3).
fn overlay_mtu(topology: &Topology) -> u32 {
    match topology.tunnels {
        Family::V4 => MTU - 50,
        Family::V6 => MTU - 70,
    }
}

/// A container's interface in a network of this host.
fn attachment(site: &Site, topology: &Topology, slot: usize, number: usize) -> Piece {
    let Some(container) = topology.container(slot) else { return Piece::default() };
    let netns = site.netns(container.host, slot).to_owned();
    let mac = topology.mac(slot, number);
    let network = &topology.networks[number];
    let mtu = if network.kind == NetworkKind::Overlay { overlay_mtu(topology) } else { MTU };
    let (port, device) = (format!("v{slot}n{number}"), format!("e{number}"));
    let mut inside: Vec<String> = network
        .families
        .iter()
        .map(|family| add_address(topology.address(slot, number, family), family, &device))
        .collect();
    inside.push(format!("link set {device} up"));
    if topology.default_network(&container.networks) == Some(number) {
        let gateways = network.families.iter().map(|family| topology.gateway(number, family));
        inside.extend(gateways.map(|gateway| format!("route add default via {gateway} dev {device}")));
    }
    Piece {
        links: vec![
            format!(
                "link add {port} mtu {mtu} type veth peer name {device} address {mac} mtu {mtu} netns {netns}"
            ),
            format!("link set {port} master br{number} up"),
        ],
        inside: inside.into_iter().map(|line| (netns.clone(), line)).collect(),
        // A container that reaches itself through a published port comes back by the same port of the bridge.
        bridge: vec![format!("link set dev {port} hairpin on")],
        down: vec![format!("link del {port}")],
        ..Piece::default()
    }
}

/// A container of an overlay network on the other host.
fn remote(topology: &Topology, slot: usize, number: usize) -> Piece {
    let Some(container) = topology.container(slot) else { return Piece::default() };
    let mac = topology.mac(slot, number);
    let peer = uplink(container.host, topology.tunnels);
    let addresses = topology.networks[number].families.iter();
    let addresses: Vec<_> = addresses.map(|family| topology.address(slot, number, family)).collect();
    let each = |line: &dyn Fn(IpAddr) -> String| addresses.iter().map(|it| line(*it)).collect::<Vec<_>>();
    Piece {
        links: each(&|it| format!("neigh replace {it} lladdr {mac} dev br{number} nud permanent")),
        bridge: vec![
            format!("fdb replace {mac} dev vx{number} dst {peer} self static"),
            format!("fdb replace {mac} dev vx{number} master static"),
        ],
        // It may come back on this host.
        down_bridge: vec![
            format!("fdb del {mac} dev vx{number} dst {peer} self static"),
            format!("fdb del {mac} dev vx{number} master static"),
        ],
        down: each(&|it| format!("neigh del {it} dev br{number}")),
        ..Piece::default()
    }
}

fn script(before: &[Piece], wanted: &[Piece], ruleset: &str) -> String {
    let mut script = "set -e\n".to_owned();
    let mut batch = |command: &str, lines: &[&str]| {
        if !lines.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(script, "{command} <<'END'\n{}\nEND", lines.join("\n"));
        }
    };
    let gone: Vec<&Piece> = before.iter().filter(|piece| !wanted.contains(piece)).rev().collect();
    let down: Vec<&str> =
        gone.iter().flat_map(|piece| piece.down_bridge.iter().map(String::as_str)).collect();
    batch("bridge -batch -", &down);
    let down: Vec<&str> = gone.iter().flat_map(|piece| piece.down.iter().rev().map(String::as_str)).collect();
    batch("ip -batch -", &down);
    let new: Vec<&Piece> = wanted.iter().filter(|piece| !before.contains(piece)).collect();
    let links: Vec<&str> = new.iter().flat_map(|piece| piece.links.iter().map(String::as_str)).collect();
    batch("ip -batch -", &links);
    let mut inside: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (netns, line) in new.iter().flat_map(|piece| &piece.inside) {
        inside.entry(netns).or_default().push(line);
    }
    for (netns, lines) in inside {
        batch(&format!("ip -n {netns} -batch -"), &lines);
    }
    let bridge: Vec<&str> = new.iter().flat_map(|piece| piece.bridge.iter().map(String::as_str)).collect();
    batch("bridge -batch -", &bridge);
    let shell: Vec<&str> = new.iter().flat_map(|piece| piece.shell.iter().map(String::as_str)).collect();
    batch("sh -e", &shell);
    batch("nft -f -", &[ruleset]);
    // What was decided under the old rules is decided again: netfilter itself goes on translating for a container that
    // has gone, or by a port that is no longer published (moby#8795), which is not what a topology means.
    script += "conntrack -F 2>/dev/null\n";
    script
}

/// The VXLAN network identifier of a network.
pub fn vni(network: usize) -> usize {
    4100 + network
}
