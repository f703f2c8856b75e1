//! The lab of one side: two hosts with namespaces for containers, an outside client, and everybody's servers.

use std::{os::fd::OwnedFd, rc::Rc};

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;

use super::{
    description::{CLIENT, CONTAINERS, HOSTS, NETWORKS, Place, Topology, uplink},
    servers::{self, Registry},
    sockets::Sockets,
};
use crate::{Container, Host, Lab, Namespace};

/// Names of the hosts.
pub const NAMES: [&str; HOSTS] = ["a", "b"];

/// Hosts, containers and the client of a lab.
#[derive(Debug)]
pub struct Site {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Of each host, by place in the topology: a container may run on either.
    pub containers: Vec<Vec<Container>>,
    client: Host,
}

/// Somebody of a site who acts and serves.
#[derive(Debug)]
pub struct Actor {
    /// Makes sockets there.
    pub sockets: Sockets,
    /// Sends echo requests.
    pub icmp: Rc<AsyncFd<OwnedFd>>,
}

/// Everybody of a site.
#[derive(Debug)]
pub struct Actors {
    client: Actor,
    hosts: Vec<Actor>,
    containers: Vec<Vec<Actor>>,
    /// What their servers see.
    pub registry: Rc<Registry>,
}

impl Site {
    /// Builds it, without any container network.
    pub fn build(lab: &Lab) -> Result<Self> {
        let wire = lab.segment("192.0.2.0/24")?;
        let client = lab.host("client")?.on(&wire, &format!("{CLIENT}/24"))?;
        let mut hosts = Vec::new();
        for (number, name) in NAMES.into_iter().enumerate() {
            let address = format!("{}/24", uplink(number));
            hosts.push(lab.host(name)?.on(&wire, &address)?.default_via(&CLIENT.to_string())?);
        }
        let names: Vec<String> = (0..CONTAINERS).map(|slot| format!("c{slot}")).collect();
        let containers = hosts.iter().map(|host| host.containers(&names)).collect::<Result<Vec<_>>>()?;
        // Direct routing attempts need routes: the third place is that of the overlay networks, see `Network::prefix`.
        for place in 0..=HOSTS {
            for network in 0..NETWORKS {
                let via = uplink(place % HOSTS);
                client.ip(&format!("route add 10.{}.{network}.0/24 via {via}", place + 1))?;
            }
        }
        client.sysctl("net.ipv4.ip_forward", "0")?;
        let site = Self { hosts, containers, client };
        for namespace in site.namespaces() {
            // A refusal that the kernel does not send because of its rate limit would be taken for a drop, and so would what
            // waits a second for its second ARP request.
            namespace.check(
                "cd /proc/sys/net/ipv4; echo 0 > icmp_ratelimit; \
                 for of in default eth0; do [ ! -e neigh/$of ] || { echo 40 > neigh/$of/retrans_time_ms; \
                 echo 25 > neigh/$of/mcast_solicit; }; done; \
                 for limit in icmp_msgs_per_sec icmp_msgs_burst; do [ ! -e $limit ] || echo 100000 > $limit; done",
            )?;
        }
        Ok(site)
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let hosts = self.hosts.iter().chain([&self.client]).map(|host| &**host);
        hosts.chain(self.containers.iter().flatten().map(|container| &**container))
    }

    /// Starts everybody's servers on the runtime that this runs on.
    pub fn start(&self) -> Result<Actors> {
        let registry = Rc::new(Registry::default());
        let actor = |name: &str, namespace: &Namespace| -> Result<Actor> {
            let sockets = Sockets::of(namespace.netns())?;
            let icmp = servers::start(name, &sockets, &registry)?;
            Ok(Actor { sockets, icmp })
        };
        let hosts = self.hosts.iter().map(|host| actor(&format!("host {}", host.name()), host));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let mut containers = Vec::new();
        for (host, of_host) in NAMES.iter().zip(&self.containers) {
            let of_host = of_host.iter().map(|it| actor(&format!("{} on {host}", it.name()), it));
            containers.push(of_host.collect::<Result<Vec<_>>>()?);
        }
        let client = actor("client", &self.client)?;
        Ok(Actors { client, hosts, containers, registry })
    }
}

impl Actors {
    /// Who stands in this place now.
    pub fn at(&self, topology: &Topology, place: Place) -> Result<&Actor> {
        match place {
            Place::Client => Some(&self.client),
            Place::Host(host) => self.hosts.get(host),
            Place::Container(slot) => {
                topology.container(slot).and_then(|it| self.containers.get(it.host)?.get(slot))
            }
        }
        .with_context(|| format!("nobody is at {place:?}"))
    }
}

impl Site {
    /// The name of a container's namespace.
    pub fn netns(&self, host: usize, slot: usize) -> &str {
        self.containers[host][slot].netns()
    }
}
