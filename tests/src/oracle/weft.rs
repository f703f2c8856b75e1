//! weft's side: the file for each host's daemon.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{
    description::{Binding, HOSTS, NetworkKind, Publication, Topology},
    family::{Family, uplink},
    kernel::vni,
    site::Site,
};
use crate::Daemon;

/// Limit of one change.
const RELOAD_LIMIT: Duration = Duration::from_secs(30);

/// The daemons, which live as long as their lab.
#[derive(Debug)]
pub struct WeftSide {
    daemons: Vec<Daemon>,
}

/// A change that was handed in and may not be done yet.
#[derive(Debug)]
pub struct Pending(Vec<Option<UnixStream>>);

impl WeftSide {
    /// Starts a daemon on each host, with nothing to do.
    pub fn start(site: &Site) -> Result<Self> {
        let empty = Topology::default();
        let daemons = site.hosts.iter().enumerate();
        let daemons = daemons.map(|(host, it)| it.weft(&file(site, &empty, host))).collect::<Result<_>>()?;
        Ok(Self { daemons })
    }

    /// Writes the files and asks the daemons to read them now; they would do so by themselves 50 ms later.
    pub fn begin(&self, site: &Site, topology: &Topology) -> Result<Pending> {
        let ask = |(host, daemon): (usize, &Daemon)| -> Result<Option<UnixStream>> {
            let text = file(site, topology, host);
            daemon.rewrite(&text)?;
            let mut stream = UnixStream::connect(daemon.socket())
                .with_context(|| format!("the daemon of host {}", site.hosts[host].name()))?;
            stream.set_read_timeout(Some(RELOAD_LIMIT))?;
            stream.write_all(b"\"reload\"\n")?;
            Ok(Some(stream))
        };
        Ok(Pending(self.daemons.iter().enumerate().map(ask).collect::<Result<_>>()?))
    }

    /// Waits until everything is as declared.
    pub fn finish(pending: Pending) -> Result<()> {
        for stream in pending.0.into_iter().flatten() {
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).context("waiting for a daemon")?;
            let answer: Value = serde_json::from_str(&answer).context("the daemon's answer")?;
            let problems = &answer["changes"]["problems"];
            ensure!(
                problems.as_array().is_some_and(Vec::is_empty),
                "a daemon did not apply a file: {answer}"
            );
        }
        Ok(())
    }
}

/// The file of one host. YAML is a superset of JSON.
fn file(site: &Site, topology: &Topology, host: usize) -> String {
    let mut networks = Map::new();
    let mut peers = Vec::new();
    for (number, network) in topology.networks.iter().enumerate().filter(|(_, it)| it.is_on(host)) {
        let subnets =
            network.families.iter().map(|family| json!({ "subnet": topology.subnet(number, family) }));
        let mut declared = json!({
            "ipam": { "config": subnets.collect::<Vec<_>>() },
            "enable_ipv4": network.families.has(Family::V4),
            "enable_ipv6": network.families.has(Family::V6),
        });
        match network.kind {
            NetworkKind::Plain => {}
            NetworkKind::Internal => declared["internal"] = json!(true),
            NetworkKind::Isolated => {
                declared["driver_opts"] = json!({ "com.docker.network.bridge.enable_icc": "false" });
            }
            NetworkKind::Overlay => {
                let list = vni(number).to_string();
                declared["driver_opts"] = json!({ "com.docker.network.driver.overlay.vxlanid_list": list });
                declared["driver"] = json!("overlay");
                peers.push(peer(topology, host, number));
            }
        }
        networks.insert(format!("n{number}"), declared);
    }
    let mut services = Map::new();
    for (slot, container) in topology.present().filter(|(_, container)| container.host == host) {
        let attachments: Map<String, Value> = container
            .networks
            .iter()
            .map(|&number| (format!("n{number}"), Value::Object(member(topology, slot, number))))
            .collect();
        let ports: Vec<String> = container.ports.iter().map(|publication| port(publication, host)).collect();
        let netns = site.netns(host, slot);
        services.insert(
            format!("c{slot}"),
            json!({ "networks": attachments, "ports": ports, "x-weft": { "netns": netns } }),
        );
    }
    json!({
        "networks": networks,
        "services": services,
        "x-weft": { "uplinks": ["eth0"], "vtep": uplink(host, topology.tunnels).to_string(), "peers": peers },
    })
    .to_string()
}

/// The containers of an overlay network on the other host.
fn peer(topology: &Topology, host: usize, network: usize) -> Value {
    let elsewhere = topology
        .present()
        .filter(|(_, container)| container.host != host && container.networks.contains(&network));
    let endpoints: Vec<Value> = elsewhere
        .map(|(slot, _)| {
            let mut endpoint = member(topology, slot, network);
            endpoint.insert("name".to_owned(), json!(format!("c{slot}")));
            Value::Object(endpoint)
        })
        .collect();
    let other = (host + 1) % HOSTS;
    json!({
        "vtep": uplink(other, topology.tunnels).to_string(),
        "network": format!("n{network}"),
        "endpoints": endpoints,
    })
}

/// A container's addresses in a network.
fn member(topology: &Topology, slot: usize, network: usize) -> Map<String, Value> {
    let mut settings = Map::new();
    for family in topology.networks[network].families.iter() {
        let key = if family == Family::V4 { "ipv4_address" } else { "ipv6_address" };
        settings.insert(key.to_owned(), json!(topology.address(slot, network, family).to_string()));
    }
    settings.insert("mac_address".to_owned(), json!(topology.mac(slot, network)));
    settings
}

/// A publication in the short form of Compose.
fn port(publication: &Publication, host: usize) -> String {
    let range = |first: u16| match publication.count {
        1 => first.to_string(),
        count => format!("{first}-{}", first + count - 1),
    };
    let family = publication.family.unwrap_or_default();
    let address = match publication.binding {
        Binding::Any => publication.family.map(Family::any),
        Binding::Uplink => Some(uplink(host, family)),
        Binding::Loopback => Some(family.loopback()),
    };
    let address = match address {
        None => String::new(),
        Some(address) if address.is_ipv4() => format!("{address}:"),
        Some(address) => format!("[{address}]:"),
    };
    let (host_ports, container_ports) = (range(publication.host_port), range(publication.container_port));
    format!("{address}{host_ports}:{container_ports}/{}", publication.protocol.name())
}
