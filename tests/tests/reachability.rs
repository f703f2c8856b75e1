//! Who reaches whom, and with which source address: every kind of network, from every kind of place, over TCP, UDP and echo,
//! by IPv4 and IPv6, with two uplinks and several addresses.

mod common;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Container, Host, Lab, Namespace, Process, lab::namespace::labtool_result};

/// The networks, in the order of their numbers: 10.11.0.0/24 and fd00:11::/64 are those of the first.
const NETWORKS: [&str; 6] = ["nat", "noicc", "routed", "unprotected", "internal", "isolated"];

fn file() -> String {
    let mut networks = String::new();
    let mut services = String::new();
    for (network, number) in NETWORKS.into_iter().zip(11..) {
        let bridge = "com.docker.network.bridge";
        let modes = |mode| format!("{bridge}.gateway_mode_ipv4: {mode}, {bridge}.gateway_mode_ipv6: {mode}");
        let (internal, options) = match network {
            "noicc" => (false, format!("{bridge}.enable_icc: false")),
            "routed" => (false, modes("routed")),
            "unprotected" => (false, modes("nat-unprotected")),
            "internal" => (true, String::new()),
            "isolated" => (true, modes("isolated")),
            _ => (false, String::new()),
        };
        let _ = writeln!(
            networks,
            "  {network}: {{ enable_ipv6: true, internal: {internal}, driver_opts: {{ {options} }}, \
             ipam: {{ config: [ {{ subnet: 10.{number}.0.0/24 }}, {{ subnet: \"fd00:{number}::/64\" }} ] }} }}"
        );
        let port = 8000 + number;
        let mut ports = Vec::new();
        if internal {
            // An internal network publishes nothing.
        } else {
            ports.extend([format!("{port}:80"), format!("{port}:80/udp")]);
        }
        if network == "nat" {
            for protocol in ["tcp", "udp"] {
                for (address, port) in
                    LOOPBACK.into_iter().zip([8021, 8021]).chain(SECOND.into_iter().zip([8031, 8031]))
                {
                    ports.push(format!("{}:80/{protocol}", at(address, port)));
                }
            }
        }
        for (name, last) in [("server", 10), ("neighbour", 11)] {
            let ports = if name == "server" { ports.join("\", \"") } else { String::new() };
            let ports = if ports.is_empty() { String::new() } else { format!("\"{ports}\"") };
            let _ = writeln!(
                services,
                "  {name}-{network}: {{ networks: {{ {network}: {{ ipv4_address: 10.{number}.0.{last}, \
                 ipv6_address: \"fd00:{number}::{last}\" }} }}, ports: [ {ports} ], \
                 x-weft: {{ netns: {name}-{network} }} }}"
            );
        }
    }
    format!("name: suite\nnetworks:\n{networks}services:\n{services}x-weft: {{ uplinks: [ eth0, eth1 ] }}\n")
}

/// The host's addresses: by the first uplink, a second one there, and by the second uplink. IPv4, IPv6.
const FIRST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const SECOND: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const OTHER_UPLINK: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
/// Others on the first and the second wire.
const CLIENTS: [[&str; 2]; 2] = [["192.0.2.100", "2001:db8::100"], ["203.0.113.100", "2001:db8:2::100"]];

/// A port of the container that is published, one that is not, and one of the host's own.
const PUBLISHED: u16 = 80;
const UNPUBLISHED: u16 = 81;
const OF_HOST: u16 = 9000;
/// One that listens at its first address only: of a datagram to one that listens everywhere the kernel would answer from
/// the gateway's address.
const AT_FIRST: u16 = 9001;
/// What listens outside.
const OUTSIDE: u16 = 7000;

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// An address of the network with this index, in one family.
fn member(network: usize, family: usize, last: u16) -> String {
    let number = 11 + network;
    if family == 0 { format!("10.{number}.0.{last}") } else { format!("fd00:{number}::{last}") }
}

/// Where packets come from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Client(usize),
    Host,
    /// The server of a network, or its neighbour.
    Member {
        network: usize,
        is_server: bool,
    },
}

impl From {
    fn name(self) -> String {
        match self {
            Self::Client(uplink) => format!("a client on uplink {uplink}"),
            Self::Host => "the host".to_owned(),
            Self::Member { network, is_server } => {
                format!("the {} of {}", if is_server { "server" } else { "neighbour" }, NETWORKS[network])
            }
        }
    }

    /// Its own address.
    fn own(self, family: usize) -> String {
        match self {
            Self::Client(uplink) => CLIENTS[uplink][family].to_owned(),
            Self::Host => FIRST[family].to_owned(),
            Self::Member { network, is_server } => member(network, family, if is_server { 10 } else { 11 }),
        }
    }
}

fn is_internal(network: usize) -> bool {
    matches!(NETWORKS[network], "internal" | "isolated")
}

/// Everything to be tried from one place by TCP and UDP, with the source address that must be seen; `None`: not reached.
fn expectations(from: From) -> BTreeMap<SocketAddr, Option<IpAddr>> {
    let mut all = BTreeMap::new();
    for family in [0, 1] {
        let mut expect = |address: &str, port: u16, seen: Option<String>| {
            let target =
                at(address, port).parse().unwrap_or_else(|error| panic!("{address} {port}: {error}"));
            let seen = seen.map(|seen| seen.parse().unwrap_or_else(|error| panic!("{seen}: {error}")));
            assert!(all.insert(target, seen).is_none(), "{target} twice from {}", from.name());
        };
        host_ports(from, family, &mut expect);
        containers(from, family, &mut expect);
        host_itself_and_world(from, family, &mut expect);
    }
    all
}

/// Published ports at the host's addresses.
fn host_ports(from: From, family: usize, expect: &mut impl FnMut(&str, u16, Option<String>)) {
    // Who sees a packet that reaches the server of a network by a host port.
    let seen = |network: usize| match from {
        From::Host => Some(member(network, family, 1)),
        From::Client(_) => Some(from.own(family)),
        // An internal network has the host, not what it publishes.
        From::Member { network: own, .. } if is_internal(own) => None,
        From::Member { network: own, is_server: true } if own == network => Some(member(network, family, 1)),
        From::Member { .. } => Some(from.own(family)),
    };
    for (network, name) in NETWORKS.into_iter().enumerate().filter(|(network, _)| !is_internal(*network)) {
        let port = 8011 + network as u16;
        // A routed network's ports are its containers', not the host's.
        let seen = seen(network).filter(|_| name != "routed");
        for address in [FIRST, SECOND, OTHER_UPLINK] {
            expect(address[family], port, seen.clone());
        }
        match from {
            From::Host => expect(LOOPBACK[family], port, seen.clone()),
            From::Member { network: own, .. } => expect(&member(own, family, 1), port, seen.clone()),
            From::Client(_) => {}
        }
        // A gateway is the host's for its containers, and nobody's outside.
        let gateway = member(network, family, 1);
        match from {
            From::Member { network: own, .. } if own == network => {}
            From::Client(_) => expect(&gateway, port, None),
            _ => expect(&gateway, port, seen),
        }
    }
    let nat = seen(0);
    expect(SECOND[family], 8031, nat.clone());
    expect(FIRST[family], 8031, None);
    expect(FIRST[family], 8021, None);
    if from == From::Host {
        expect(LOOPBACK[family], 8021, nat);
        expect(LOOPBACK[family], 8031, None);
    }
}

/// Containers by their own addresses.
fn containers(from: From, family: usize, expect: &mut impl FnMut(&str, u16, Option<String>)) {
    for network in 0..NETWORKS.len() {
        if matches!(from, From::Member { network: own, is_server: true } if own == network) {
            continue;
        }
        for port in [PUBLISHED, UNPUBLISHED] {
            let reached = reaches_member(from, network, port == PUBLISHED);
            let seen = if from == From::Host { member(network, family, 1) } else { from.own(family) };
            expect(&member(network, family, 10), port, reached.then_some(seen));
        }
    }
}

/// Whether a server is reached by its own address. Echo requests are let through to whoever is known by its address.
fn reaches_member(from: From, network: usize, is_open: bool) -> bool {
    let by_own_address = match NETWORKS[network] {
        "routed" => is_open,
        "unprotected" => true,
        _ => false,
    };
    match from {
        From::Host => NETWORKS[network] != "isolated",
        From::Client(_) => by_own_address,
        From::Member { network: own, .. } if own == network => NETWORKS[network] != "noicc",
        From::Member { network: own, .. } => by_own_address && !is_internal(own),
    }
}

/// A server of the host's own, and servers outside.
fn host_itself_and_world(from: From, family: usize, expect: &mut impl FnMut(&str, u16, Option<String>)) {
    let From::Member { network, .. } = from else { return };
    let own = from.own(family);
    let name = NETWORKS[network];
    expect(&member(network, family, 1), OF_HOST, (name != "isolated").then(|| own.clone()));
    expect(FIRST[family], AT_FIRST, (!is_internal(network)).then(|| own.clone()));
    for (client, uplink) in CLIENTS.iter().zip([FIRST, OTHER_UPLINK]) {
        let seen = match name {
            "internal" | "isolated" => None,
            "routed" => Some(own.clone()),
            _ => Some(uplink[family].to_owned()),
        };
        expect(client[family], OUTSIDE, seen);
    }
}

/// The lab.
struct Site {
    lab: Lab,
    host: Host,
    clients: [Host; 2],
    /// Server and neighbour of each network.
    members: Vec<[Container; 2]>,
}

impl Site {
    fn new() -> Result<Self> {
        let lab = Lab::new("reach")?;
        let wires = [lab.segment("192.0.2.0/24")?, lab.segment("203.0.113.0/24")?];
        let host = lab
            .host("a")?
            .on(&wires[0], &format!("{}/24", FIRST[0]))?
            .on(&wires[1], &format!("{}/24", OTHER_UPLINK[0]))?
            .default_via(CLIENTS[0][0])?;
        let client = |name: &str, uplink: usize| -> Result<Host> {
            let client = lab.host(name)?.on(&wires[uplink], &format!("{}/24", CLIENTS[uplink][0]))?;
            client.ip(&format!("addr add {}/64 dev eth0 nodad", CLIENTS[uplink][1]))?;
            Ok(client)
        };
        let clients = [client("client", 0)?, client("second", 1)?];
        for (device, address) in [("eth0", FIRST[1]), ("eth1", OTHER_UPLINK[1])] {
            host.ip(&format!("addr add {address}/64 dev {device} nodad"))?;
        }
        host.ip(&format!("addr add {}/24 dev eth0", SECOND[0]))?;
        // Deprecated, so that the kernel and weft leave with the first.
        host.ip(&format!("addr add {}/64 dev eth0 nodad preferred_lft 0", SECOND[1]))?;
        host.ip(&format!("-6 route add default via {}", CLIENTS[0][1]))?;
        // They know the way to every network of the host, whether it wants them to or not.
        for (client, via) in clients.iter().zip([FIRST, OTHER_UPLINK]) {
            client.ip(&format!("route add default via {}", via[0]))?;
            client.ip(&format!("-6 route add default via {}", via[1]))?;
        }
        let members = NETWORKS
            .iter()
            .map(|network| {
                Ok([
                    host.container(&format!("server-{network}"))?,
                    host.container(&format!("neighbour-{network}"))?,
                ])
            })
            .collect::<Result<_>>()?;
        Ok(Self { lab, host, clients, members })
    }

    /// Servers of all places.
    fn serve(&self) -> Result<Vec<Process>> {
        let mut servers = vec![self.host.serve_whoami(OF_HOST)?];
        for address in FIRST {
            servers.push(self.host.serve(&format!("whoami-serve {}", at(address, AT_FIRST)))?);
        }
        for client in &self.clients {
            servers.push(client.serve_whoami(OUTSIDE)?);
        }
        for [server, _] in &self.members {
            servers.extend([server.serve_whoami(PUBLISHED)?, server.serve_whoami(UNPUBLISHED)?]);
        }
        Ok(servers)
    }

    fn namespace(&self, from: From) -> &Namespace {
        match from {
            From::Client(uplink) => &self.clients[uplink],
            From::Host => &self.host,
            From::Member { network, is_server } => &self.members[network][usize::from(!is_server)],
        }
    }
}

/// Every place that packets come from.
fn places() -> Vec<From> {
    let members = (0..NETWORKS.len())
        .flat_map(|network| [true, false].map(|is_server| From::Member { network, is_server }));
    [From::Client(0), From::Client(1), From::Host].into_iter().chain(members).collect()
}

/// What is not as it must be, from one place.
fn survey(site: &Site, from: From, wrong: &mut Vec<String>) -> Result<usize> {
    let expected = expectations(from);
    let targets: Vec<String> = expected.keys().map(SocketAddr::to_string).collect();
    let mut asking = site.namespace(from).start_labtool(&format!("survey {}", targets.join(" ")))?;
    let found = labtool_result(&mut asking, common::LIMIT)?;
    for protocol in ["tcp", "udp"] {
        for (target, wanted) in &expected {
            let seen = match found.get(format!("{protocol} {target}")).context("a target is missing")? {
                Value::Null => None,
                seen => Some(seen.as_str().context("no address")?.parse::<IpAddr>()?),
            };
            if seen != *wanted {
                let words = |seen: Option<IpAddr>| seen.map_or("nothing".to_owned(), |seen| seen.to_string());
                let (seen, wanted) = (words(seen), words(*wanted));
                wrong.push(format!("{} to {protocol} {target}: saw {seen}, not {wanted}", from.name()));
            }
        }
    }
    Ok(2 * expected.len())
}

/// The same for echo requests to containers.
fn pings(site: &Site, from: From, wrong: &mut Vec<String>) -> Result<usize> {
    let mut expected = BTreeMap::new();
    for family in [0, 1] {
        for network in 0..NETWORKS.len() {
            if !matches!(from, From::Member { network: own, is_server: true } if own == network) {
                expected.insert(member(network, family, 10), reaches_member(from, network, true));
            }
        }
    }
    let mut script = String::new();
    for address in expected.keys() {
        let _ =
            write!(script, "(ping -n -q -c 3 -i 0.3 -W 2 {address} > /dev/null 2>&1 && echo {address}) & ");
    }
    let output = site.namespace(from).run_for(&format!("{script} wait"), common::LIMIT)?;
    for (address, wanted) in &expected {
        let answered = output.stdout.lines().any(|line| line == address);
        if answered != *wanted {
            wrong.push(format!("{} to {address}: echo answered {answered}, not {wanted}", from.name()));
        }
    }
    Ok(expected.len())
}

#[test]
fn everybody_reaches_whom_they_may() -> Result<()> {
    let site = Site::new()?;
    let daemon = site.host.weft_within(&file(), Duration::from_secs(30))?;
    let _servers = site.serve()?;
    let (mut wrong, mut tried) = (Vec::new(), 0);
    // A few places at a time: what is not answered is waited for.
    for places in places().chunks(5) {
        let results = thread::scope(|scope| {
            let asking: Vec<_> = places
                .iter()
                .map(|from| {
                    let site = &site;
                    scope.spawn(move || {
                        let mut wrong = Vec::new();
                        let tried = survey(site, *from, &mut wrong)? + pings(site, *from, &mut wrong)?;
                        anyhow::Ok((tried, wrong))
                    })
                })
                .collect();
            asking
                .into_iter()
                .map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Vec<_>>()
        });
        for result in results {
            let (count, found) = result?;
            tried += count;
            wrong.extend(found);
        }
    }
    println!("{tried} pairs of place and target");
    ensure!(wrong.is_empty(), "{} of {tried} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let problems = daemon.json(&["status"])?["problems"].clone();
    ensure!(problems.as_array().is_some_and(Vec::is_empty), "{problems}");
    site.lab.finish()
}
