//! weft's side: the file for each host's daemon.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{
    description::{Binding, HOSTS, NetworkKind, Publication, Topology, uplink},
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
        let ipam = json!({ "config": [ { "subnet": topology.subnet(number) } ] });
        let declared = match network.kind {
            NetworkKind::Plain => json!({ "ipam": ipam }),
            NetworkKind::Internal => json!({ "ipam": ipam, "internal": true }),
            NetworkKind::Isolated => {
                json!({ "ipam": ipam, "driver_opts": { "com.docker.network.bridge.enable_icc": "false" } })
            }
            NetworkKind::Overlay => {
                let list = vni(number).to_string();
                let options = json!({ "com.docker.network.driver.overlay.vxlanid_list": list });
                peers.push(peer(topology, host, number));
                json!({ "ipam": ipam, "driver": "overlay", "driver_opts": options })
            }
        };
        networks.insert(format!("n{number}"), declared);
    }
    let mut services = Map::new();
    for (slot, container) in topology.present().filter(|(_, container)| container.host == host) {
        let attachments: Map<String, Value> = container
            .networks
            .iter()
            .map(|&number| {
                let settings = json!({
                    "ipv4_address": topology.address(slot, number).to_string(),
                    "mac_address": topology.mac(slot, number),
                });
                (format!("n{number}"), settings)
            })
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
        "x-weft": { "uplinks": ["eth0"], "vtep": uplink(host).to_string(), "peers": peers },
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
            json!({
                "name": format!("c{slot}"),
                "ipv4_address": topology.address(slot, network).to_string(),
                "mac_address": topology.mac(slot, network),
            })
        })
        .collect();
    let other = (host + 1) % HOSTS;
    json!({ "vtep": uplink(other).to_string(), "network": format!("n{network}"), "endpoints": endpoints })
}

/// A publication in the short form of Compose.
fn port(publication: &Publication, host: usize) -> String {
    let range = |first: u16| match publication.count {
        1 => first.to_string(),
        count => format!("{first}-{}", first + count - 1),
    };
    let address = match publication.binding {
        Binding::Any => String::new(),
        Binding::Uplink => format!("{}:", uplink(host)),
        Binding::Loopback => "127.0.0.1:".to_owned(),
    };
    let (host_ports, container_ports) = (range(publication.host_port), range(publication.container_port));
    format!("{address}{host_ports}:{container_ports}/{}", publication.protocol.name())
}
