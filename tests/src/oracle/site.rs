//! The lab of one side: two hosts with namespaces for containers, an outside client, and everybody's servers.

use std::{net::IpAddr, os::fd::OwnedFd, rc::Rc};

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;

use super::{
    description::{CONTAINERS, HOSTS, NETWORKS, Place, Topology},
    family::{Family, client, subnet_of, uplink},
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
    /// Sends echo requests, of IPv4 and of IPv6.
    icmp: [Rc<AsyncFd<OwnedFd>>; 2],
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
        let machine = |name: &str, address: [IpAddr; 2]| -> Result<Host> {
            let host = lab.host(name)?;
            // It is on the wire at once. What comes later is each side's own business.
            let detection = |on: u8| host.sysctl("net.ipv6.conf.default.accept_dad", &on.to_string());
            detection(0)?;
            let [v4, v6] = address;
            let host = host.clone().on(&wire, &format!("{v4}/24"))?;
            host.ip(&format!("address add {v6}/64 dev eth0 nodad"))?;
            detection(1)?;
            Ok(host)
        };
        let outside = machine("client", Family::ALL.map(client))?;
        let mut hosts = Vec::new();
        for (number, name) in NAMES.into_iter().enumerate() {
            let host = machine(name, Family::ALL.map(|family| uplink(number, family)))?;
            for family in Family::ALL {
                host.ip(&format!("route add default via {}", client(family)))?;
            }
            hosts.push(host);
        }
        let names: Vec<String> = (0..CONTAINERS).map(|slot| format!("c{slot}")).collect();
        let containers = hosts.iter().map(|host| host.containers(&names)).collect::<Result<Vec<_>>>()?;
        // Direct routing attempts need routes: the third place is that of the overlay networks, see `Network::address`.
        for place in 0..=HOSTS {
            for network in 0..NETWORKS {
                for family in Family::ALL {
                    let subnet = subnet_of(place, network, family, 0);
                    let via = uplink(place % HOSTS, family);
                    outside.ip(&format!("route add {subnet}/{} via {via}", family.prefix_length()))?;
                }
            }
        }
        outside.sysctl("net.ipv4.ip_forward", "0")?;
        outside.sysctl("net.ipv6.conf.all.forwarding", "0")?;
        let site = Self { hosts, containers, client: outside };
        for namespace in site.namespaces() {
            // Who has answered "packet too big" for a container of an overlay behind a published port is an end of the tunnels
            // as well: believed for the usual ten minutes, it makes the path between the hosts too narrow for them, in this
            // case and all that follow. So it does between the containers, if one sends something while the hosts believe it.
            // A refusal that the kernel does not send because of its rate limit would be taken for a drop, and so would what
            // waits a second for its second ARP request.
            namespace.check(
                "cd /proc/sys/net; echo 0 > ipv6/route/mtu_expires; echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit; \
                 for of in ipv4/neigh/default ipv4/neigh/eth0 ipv6/neigh/default ipv6/neigh/eth0; do \
                 [ ! -e $of ] || { echo 40 > $of/retrans_time_ms; echo 25 > $of/mcast_solicit; }; done; \
                 for limit in ipv4/icmp_msgs_per_sec ipv4/icmp_msgs_burst; do \
                 [ ! -e $limit ] || echo 100000 > $limit; done",
            )?;
        }
        Ok(site)
    }

    /// Everybody's.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
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

impl Actor {
    /// The socket for echo requests of a family.
    pub fn icmp(&self, family: Family) -> &AsyncFd<OwnedFd> {
        let [v4, v6] = &self.icmp;
        if family == Family::V4 { v4 } else { v6 }
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
