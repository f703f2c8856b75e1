//! Who is measured: for each path the same topology as a cable, with the kernel's way, and with weft.
//!
//! Hosts are joined to each other and to the client by a veth pair, not by a switch: whatever lies between
//! them costs all contenders the same and would draw their ratios towards 1.

mod iptables;
mod kernel;
mod nftables;
mod redirect;
mod servers;
mod weft;

use std::{net::IpAddr, os::fd::OwnedFd, rc::Rc};

use anyhow::{Context, Result, ensure};

use super::{
    Path, Plan, Variant,
    measure::{ECHO, HTTP, IPERF, REDIS, REQUESTS, SINK, WHOAMI},
    witness::Witness,
};
use crate::{Host, Lab, Namespace, Process};

/// A client and a server, joined in one way.
#[derive(Debug)]
pub struct Contender {
    /// The path whose figures this gives.
    pub path: Path,
    /// How they are joined.
    pub variant: Variant,
    /// Who starts.
    pub client: Namespace,
    /// Who answers.
    pub server: Namespace,
    /// What the client connects to.
    pub target: IpAddr,
    /// What the server must see as the client's address: translated where it must be, else not.
    pub seen: IpAddr,
    /// Whose counters must move.
    pub witnesses: Vec<Witness>,
    /// Programs that are attached as long as these are open.
    _links: Vec<OwnedFd>,
    _servers: Rc<Vec<Process>>,
}

/// The ends of a topology, before one knows which way the packets take.
struct Ends<'a> {
    client: &'a Namespace,
    server: &'a Namespace,
    target: &'a str,
    seen: &'a str,
}

/// A host with two containers, and a client outside.
struct Site {
    web: Namespace,
    shop: Namespace,
    client: Namespace,
    host: Host,
}

/// What the server sees as the client's address, where the contenders differ.
struct Seen {
    from_host: &'static str,
    hairpin: &'static str,
}

/// Two hosts with a container each.
struct Pair {
    hosts: [Host; 2],
    containers: [Namespace; 2],
}

const HOST: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.100";
const WEB: &str = "10.10.0.10";
const SHOP: &str = "10.10.0.11";
/// The overlay's containers and their hosts.
const OVERLAY: [&str; 2] = ["10.20.0.10", "10.20.0.20"];
const OVERLAY_MAC: [&str; 2] = ["02:42:0a:14:00:0a", "02:42:0a:14:00:14"];
const HOSTS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const VNI: u32 = 4097;
/// Of the overlay's containers, and what VXLAN over IPv4 adds.
const INNER_MTU: u32 = 1500;
const OVERHEAD: u32 = 50;
const GATEWAY: &str = "10.10.0.1";

/// Ports that the servers listen at, over TCP and over UDP: those that are published.
const TCP_PORTS: [u16; 6] = [ECHO, REQUESTS, WHOAMI, IPERF, REDIS, HTTP];
const UDP_PORTS: [u16; 3] = [ECHO, WHOAMI, SINK];

/// Builds everything, and starts the servers.
pub fn build(lab: &Lab, plan: &Plan) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    for &variant in &plan.variants {
        let paths = plan.paths.iter().copied().filter(|path| variant.takes(*path)).collect::<Vec<_>>();
        let built = match variant {
            Variant::Cable => cable(lab, &paths),
            Variant::Kernel | Variant::Nftables => kernel::build(lab, variant, &paths),
            Variant::Redirect => redirect::build(lab, &paths),
            Variant::Weft => weft::build(lab, &paths),
        };
        all.extend(built.with_context(|| format!("building {}", variant.name()))?);
    }
    Ok(all)
}

impl Contender {
    fn new(
        path: Path,
        variant: Variant,
        ends: &Ends<'_>,
        witnesses: Vec<Witness>,
        servers: &Rc<Vec<Process>>,
    ) -> Result<Self> {
        Ok(Self {
            path,
            variant,
            client: ends.client.clone(),
            server: ends.server.clone(),
            target: ends.target.parse()?,
            seen: ends.seen.parse()?,
            witnesses,
            _links: Vec::new(),
            _servers: servers.clone(),
        })
    }

    /// Fails unless client and server reach each other, with the addresses that the path stands for.
    pub fn verify(&self) -> Result<()> {
        for protocol in ["tcp", "udp"] {
            let seen = self
                .client
                .whoami(protocol, &format!("{}:{WHOAMI}", self.target))
                .with_context(|| format!("{} with {}, {protocol}", self.path.name(), self.variant.name()))?;
            ensure!(
                seen.ip() == self.seen,
                "{} with {}: the server sees {seen} over {protocol}, but {} was expected",
                self.path.name(),
                self.variant.name(),
                self.seen
            );
        }
        Ok(())
    }

    /// The MTU of the client's device.
    pub fn mtu(&self) -> Result<u64> {
        let links = self.client.ip_json("link show dev eth0")?;
        links[0]["mtu"].as_u64().context("the client's eth0 has no MTU")
    }
}

impl Site {
    fn build(lab: &Lab, name: &str) -> Result<Self> {
        let host = lab.host(name)?;
        let client = lab.host(&format!("{name}-client"))?;
        lab.cable((&host, &format!("{HOST}/24")), (&client, &format!("{CLIENT}/24")))?;
        let (web, shop) = (host.container("web")?, host.container("shop")?);
        Ok(Self { web: (*web).clone(), shop: (*shop).clone(), client: (*client).clone(), host })
    }

    /// The chosen paths of one host.
    fn contenders(
        &self,
        lab: &Lab,
        paths: &[Path],
        variant: Variant,
        seen: &Seen,
        witness: impl Fn(&'static str, &'static str) -> Vec<Witness>,
    ) -> Result<Vec<Contender>> {
        let Self { web, shop, client, host } = self;
        let servers = Rc::new(
            [servers::start(lab, web)?, servers::start(lab, client)?].into_iter().flatten().collect(),
        );
        let mut all = Vec::new();
        for &path in paths {
            let (client, server, target, seen, (forward, backward)) = match path {
                Path::Bridge => (shop, web, WEB, SHOP, ("bridge", "bridge")),
                Path::Masquerade => (shop, client, CLIENT, HOST, ("masquerade_out", "masquerade_in")),
                Path::PublishedPort => (client, web, HOST, CLIENT, ("portmap_in", "portmap_out")),
                Path::PublishedPortFromHost => (&**host, web, HOST, seen.from_host, ("host", "host")),
                Path::Hairpin => (shop, web, HOST, seen.hairpin, ("hairpin_in", "hairpin_out")),
                Path::Overlay => continue,
            };
            let ends = Ends { client, server, target, seen };
            all.push(Contender::new(path, variant, &ends, witness(forward, backward), &servers)?);
        }
        Ok(all)
    }
}

impl Pair {
    fn build(lab: &Lab, name: &str) -> Result<Self> {
        let hosts = [lab.host(&format!("{name}-left"))?, lab.host(&format!("{name}-right"))?];
        let [left, right] = &hosts;
        // Room for the outer headers (RFC 7348): inside are full Ethernet packets of 1500 bytes.
        lab.cable((left, &format!("{}/24", HOSTS[0])), (right, &format!("{}/24", HOSTS[1])))?;
        for host in &hosts {
            host.ip(&format!("link set eth0 mtu {}", INNER_MTU + OVERHEAD))?;
        }
        let containers = [(*left.container("cache")?).clone(), (*right.container("worker")?).clone()];
        Ok(Self { hosts, containers })
    }

    fn contender(&self, lab: &Lab, variant: Variant, witnesses: Vec<Witness>) -> Result<Contender> {
        let [client, server] = &self.containers;
        let ends = Ends { client, server, target: OVERLAY[1], seen: OVERLAY[0] };
        Contender::new(Path::Overlay, variant, &ends, witnesses, &Rc::new(servers::start(lab, server)?))
    }
}

/// One cable, measured anew for every path.
fn cable(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    let (client, server) = (lab.host("cable-a")?, lab.host("cable-b")?);
    lab.cable((&client, &format!("{HOST}/24")), (&server, &format!("{CLIENT}/24")))?;
    let ends = Ends { client: &client, server: &server, target: CLIENT, seen: HOST };
    let servers = Rc::new(servers::start(lab, &server)?);
    paths.iter().map(|path| Contender::new(*path, Variant::Cable, &ends, Vec::new(), &servers)).collect()
}

fn on_one_host(paths: &[Path]) -> bool {
    paths.iter().any(|path| *path != Path::Overlay)
}
