//! Who is measured: for each path the same topology as a cable, with the kernel's way, and with weft.
//!
//! Hosts are joined to each other and to the client by a veth pair, not by a switch: whatever lies between
//! them costs all contenders the same and would draw their ratios towards 1.

mod kernel;
mod weft;

use std::{net::IpAddr, rc::Rc};

use anyhow::{Context, Result, ensure};

use super::{
    Path, Variant,
    machine::two_cpus,
    measure::{ECHO, REQUESTS, WHOAMI},
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

/// Builds everything, and starts the servers.
pub fn build(lab: &Lab, paths: &[Path], variants: &[Variant]) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    for &variant in variants {
        let built = match variant {
            Variant::Cable => cable(lab, paths),
            Variant::Kernel => kernel::build(lab, paths),
            Variant::Weft => weft::build(lab, paths),
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

    /// The chosen paths of one host, by the daemon's counters if there is one.
    fn contenders(
        &self,
        paths: &[Path],
        variant: Variant,
        witness: impl Fn(&'static str, &'static str) -> Vec<Witness>,
    ) -> Result<Vec<Contender>> {
        let servers = Rc::new([serve(&self.web)?, serve(&self.client)?].into_iter().flatten().collect());
        let Self { web, shop, client, .. } = self;
        let of = |path, client, server, target, seen, witnesses| {
            Contender::new(path, variant, &Ends { client, server, target, seen }, witnesses, &servers)
        };
        paths
            .iter()
            .filter_map(|path| match path {
                Path::Bridge => Some(of(*path, shop, web, WEB, SHOP, witness("bridge", "bridge"))),
                Path::Masquerade => {
                    Some(of(*path, shop, client, CLIENT, HOST, witness("masquerade_out", "masquerade_in")))
                }
                Path::PublishedPort => {
                    Some(of(*path, client, web, HOST, CLIENT, witness("portmap_in", "portmap_out")))
                }
                Path::Overlay => None,
            })
            .collect()
    }
}

impl Pair {
    fn build(lab: &Lab, name: &str) -> Result<Self> {
        let hosts = [lab.host(&format!("{name}-left"))?, lab.host(&format!("{name}-right"))?];
        let [left, right] = &hosts;
        lab.cable((left, &format!("{}/24", HOSTS[0])), (right, &format!("{}/24", HOSTS[1])))?;
        let containers = [(*left.container("cache")?).clone(), (*right.container("worker")?).clone()];
        Ok(Self { hosts, containers })
    }

    fn contender(&self, variant: Variant, witnesses: Vec<Witness>) -> Result<Contender> {
        let [client, server] = &self.containers;
        let ends = Ends { client, server, target: OVERLAY[1], seen: OVERLAY[0] };
        Contender::new(Path::Overlay, variant, &ends, witnesses, &Rc::new(serve(server)?))
    }
}

/// The servers that the measurements need, but iperf3.
fn serve(namespace: &Namespace) -> Result<Vec<Process>> {
    let [_, cpu] = two_cpus()?;
    Ok(vec![
        namespace.serve(&format!("echo-serve [::]:{ECHO} --cpu {cpu}"))?,
        namespace.serve(&format!("request-serve [::]:{REQUESTS} --cpu {cpu}"))?,
        namespace.serve_whoami(WHOAMI)?,
    ])
}

/// One cable, measured anew for every path.
fn cable(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    let (client, server) = (lab.host("cable-a")?, lab.host("cable-b")?);
    lab.cable((&client, &format!("{HOST}/24")), (&server, &format!("{CLIENT}/24")))?;
    let ends = Ends { client: &client, server: &server, target: CLIENT, seen: HOST };
    let servers = Rc::new(serve(&server)?);
    paths.iter().map(|path| Contender::new(*path, Variant::Cable, &ends, Vec::new(), &servers)).collect()
}

fn on_one_host(paths: &[Path]) -> bool {
    paths.iter().any(|path| *path != Path::Overlay)
}
