//! Published ports against sockets of the host: who came first keeps the port.

use std::collections::{BTreeMap, HashSet};

use super::{
    problem::Problem,
    resolved::{ResolvedPublication, ResolvedState},
};
use crate::{
    model::Protocol,
    netdev::{self, LocalSocket, SocketState, holders, sockets},
};

/// The refused ones of these publications as problems.
pub fn problems(publications: &[ResolvedPublication], refused: &Refused) -> impl Iterator<Item = Problem> {
    publications.iter().filter_map(|publication| {
        let object = format!("port {} of container {}", publication.host_side(), publication.container);
        refused
            .get(&key(publication))
            .map(|reason| Problem::of_container(&publication.container, object, reason))
    })
}

/// Which publications are served. A served one stays so: from then on the `bind` programs keep processes away.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    served: HashSet<String>,
}

/// Publications that a process of the host stands in the way of, by [`key`], with the reason.
pub type Refused = BTreeMap<String, String>;

/// What tells one publication from another.
pub fn key(publication: &ResolvedPublication) -> String {
    format!("{} {}", publication.container, publication.host_side())
}

impl Ports {
    /// Publications that may not be served now. Reads the host's sockets only if there is one to decide on.
    pub async fn check(&mut self, state: &ResolvedState) -> netdev::Result<Refused> {
        let declared: HashSet<String> = state.publications.iter().map(key).collect();
        self.served.retain(|known| declared.contains(known));
        self.decide(&state.publications).await
    }

    /// The same where only some publications are others than before.
    pub async fn check_difference(
        &mut self,
        before: &[ResolvedPublication],
        after: &[ResolvedPublication],
    ) -> netdev::Result<Refused> {
        let declared: HashSet<String> = after.iter().map(key).collect();
        for gone in before.iter().map(key).filter(|key| !declared.contains(key)) {
            self.served.remove(&gone);
        }
        self.decide(after).await
    }

    async fn decide(&mut self, publications: &[ResolvedPublication]) -> netdev::Result<Refused> {
        let new: Vec<(&ResolvedPublication, String)> = publications
            .iter()
            .map(|publication| (publication, key(publication)))
            .filter(|(publication, key)| !publication.is_routed() && !self.served.contains(key))
            .collect();
        let mut refused = Refused::new();
        for protocol in Protocol::ALL {
            let of_protocol: Vec<_> =
                new.iter().filter(|(publication, _)| publication.protocol == protocol).collect();
            if of_protocol.is_empty() {
                continue;
            }
            let sockets = sockets(protocol).await?;
            for (publication, key) in of_protocol {
                match sockets.iter().any(|socket| stands_in_the_way(socket, publication)) {
                    false => {
                        self.served.insert(key.clone());
                    }
                    true => {
                        refused.insert(key.clone(), describe(publication).await?);
                    }
                }
            }
        }
        Ok(refused)
    }
}

fn stands_in_the_way(socket: &LocalSocket, publication: &ResolvedPublication) -> bool {
    let ports = publication.host_ports;
    (ports.first..=ports.last).contains(&socket.local.port())
        && socket.receives(publication.host_address)
        && (publication.protocol == Protocol::Udp || socket.state != SocketState::Connected)
}

async fn describe(publication: &ResolvedPublication) -> netdev::Result<String> {
    let found = holders(publication.protocol, Some(publication.host_address), publication.host_ports).await?;
    let holder =
        found.first().map_or_else(|| "a process held it a moment ago".to_owned(), ToString::to_string);
    Ok(format!("{holder}; stop that process or publish another port"))
}

#[cfg(test)]
mod tests {
    use std::{
        error::Error,
        net::{IpAddr, Ipv4Addr, TcpListener},
    };

    use super::*;
    use crate::{model::PortRange, reconcile::resolved::EndpointId};

    /// As in a whole round: what leads elsewhere in the container is the same port of the host.
    #[tokio::test]
    async fn a_served_port_stays_so_when_its_container_port_changes() -> Result<(), Box<dyn Error>> {
        let process = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let publication = |container_port| -> Result<_, Box<dyn Error>> {
            Ok(ResolvedPublication {
                container: "web".into(),
                endpoint: EndpointId { container: "web".into(), network: "front".into() },
                network_number: 1,
                address: "10.10.0.10".parse()?,
                protocol: Protocol::Tcp,
                host_address: IpAddr::from(Ipv4Addr::LOCALHOST),
                host_ports: PortRange::single(process.local_addr()?.port()),
                container_ports: PortRange::single(container_port),
            })
        };
        let (before, after) = ([publication(80)?], [publication(81)?]);
        let mut ports = Ports::default();
        assert_eq!(ports.check_difference(&[], &before).await?.len(), 1, "the process came first");
        ports.served.insert(key(&before[0]));
        assert_eq!(ports.check_difference(&before, &after).await?, Refused::new());
        assert_eq!(ports.check_difference(&after, &[]).await?, Refused::new());
        assert_eq!(ports.check_difference(&[], &after).await?.len(), 1, "it was gone in between");
        Ok(())
    }
}
