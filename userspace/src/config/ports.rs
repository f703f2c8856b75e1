//! Published ports: the short and the long form of Compose.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    error::{Position, Report, quote},
    located::Located,
    schema::{LongPort, Port, Scalar},
    values::{self, is_digits},
};
use crate::model::{BeforePort, HostPorts, PortRange, Protocol, Publication};

/// Most ports of one entry that leaves the choice of host ports to weft: the ephemeral range holds 28,232.
const MOST_CHOSEN: u32 = 1024;

/// One entry of `ports`, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortSpec {
    /// Host address; `None`: not said.
    pub host_address: Option<IpAddr>,
    /// Host ports; `None`: weft's choice.
    pub host_ports: Option<PortRange>,
    /// Container ports.
    pub container_ports: PortRange,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// In the short form, which `parse_short` reads back.
impl fmt::Display for PortSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host_address.map(BeforePort), self.host_ports) {
            (Some(address), Some(ports)) => write!(out, "{address}:{ports}:")?,
            (Some(address), None) => write!(out, "{address}::")?,
            (None, Some(ports)) => write!(out, "{ports}:")?,
            (None, None) => {}
        }
        write!(out, "{}/{}", self.container_ports, self.protocol)
    }
}

impl PortSpec {
    /// Whether it has its host ports, one to one.
    pub(super) fn is_fixed(&self) -> bool {
        self.host_ports.is_some_and(|ports| ports.count() == self.container_ports.count())
    }

    /// What it means: ranges of equal length lead one to one; a range to one port offers a choice; host ports that
    /// are not said are chosen for each container port by itself.
    pub(super) fn publications(self, binding: Option<Ipv4Addr>) -> Result<Vec<Publication>, String> {
        let Self { host_address, host_ports, container_ports, protocol } = self;
        // A wildcard that is written out means its own family, as in Docker.
        let host_address = host_address.or(binding.map(IpAddr::V4));
        let publication =
            |host_ports, container_ports| Publication { protocol, host_address, host_ports, container_ports };
        let Some(host_ports) = host_ports else {
            if container_ports.count() > MOST_CHOSEN {
                return Err(format!(
                    "{container_ports}: at most {MOST_CHOSEN} ports without host ports; give the host ports as in \
                     {container_ports}:{container_ports}"
                ));
            }
            let each = container_ports.first..=container_ports.last;
            return Ok(each.map(|port| publication(HostPorts::Any, PortRange::single(port))).collect());
        };
        if host_ports.count() == container_ports.count() {
            Ok(vec![publication(HostPorts::Exactly(host_ports), container_ports)])
        } else if container_ports.count() == 1 {
            Ok(vec![publication(HostPorts::OneOf(host_ports), container_ports)])
        } else {
            Err(format!(
                "{} host ports for {} container ports: the ranges must be of equal length, or the container port a \
                 single one",
                host_ports.count(),
                container_ports.count()
            ))
        }
    }
}

/// Reads an entry of `ports`.
pub(super) fn read(port: &Located<Port>, report: &mut Report) -> Option<PortSpec> {
    let result = match &port.value {
        Port::Text(text) => parse_short(text),
        Port::Integer(number) => parse_short(&number.to_string()),
        Port::Map(long) => return read_long(long, port.at, report),
    };
    result.map_err(|reason| report.add(port.at, reason)).ok()
}

/// `[[HOST-ADDRESS:]HOST-PORTS:]CONTAINER-PORTS[/PROTOCOL]`
pub(super) fn parse_short(text: &str) -> Result<PortSpec, String> {
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, name)) => (ports, protocol(name)?),
        None => (text, Protocol::Tcp),
    };
    let (bracketed, ports) = match ports.strip_prefix('[') {
        Some(rest) => {
            let (address, ports) = rest.split_once("]:").ok_or_else(|| not_ports(text))?;
            let address =
                address.parse::<Ipv6Addr>().ok().filter(|address| address.to_ipv4_mapped().is_none());
            let address = address
                .ok_or_else(|| format!("{}: what stands in brackets is no IPv6 address", quote(text)))?;
            (Some(IpAddr::V6(address)), ports)
        }
        None => (None, ports),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (host_address, host_ports, container_ports) = match parts.as_slice() {
        ["", container] if bracketed.is_some() => (None, None, *container),
        [host, container] if bracketed.is_some() => (None, Some(*host), *container),
        _ if bracketed.is_some() => return Err(not_ports(text)),
        [container] => (None, None, *container),
        ["", _] => return Err(format!("{}: the host port is missing before ':'", quote(text))),
        [host, container] => (None, Some(*host), *container),
        [address, "", container] => (Some(*address), None, *container),
        [address, host, container] => (Some(*address), Some(*host), *container),
        _ if parts.len() > 3 => {
            return Err(format!("{}: an IPv6 address stands in brackets, as in [::1]:8080:80", quote(text)));
        }
        _ => return Err(not_ports(text)),
    };
    let host_address = match host_address.map(str::parse) {
        None => bracketed,
        Some(Ok(address)) => Some(IpAddr::V4(address)),
        Some(Err(_)) => {
            return Err(format!("{}: what stands before the host port is no IPv4 address", quote(text)));
        }
    };
    if host_address.is_some_and(is_impossible) {
        return Err(format!("{}: the host cannot have this address", quote(text)));
    }
    Ok(PortSpec {
        host_address,
        host_ports: host_ports.map(range).transpose()?,
        container_ports: range(container_ports)?,
        protocol,
    })
}

fn read_long(long: &LongPort, at: Position, report: &mut Report) -> Option<PortSpec> {
    let before = report.count();
    let mut read_range = |ports: &Located<Scalar>| {
        range(&ports.value.text()).map_err(|reason| report.add(ports.at, reason)).ok()
    };
    let container_ports = long.target.as_ref().and_then(&mut read_range);
    let host_ports = long.published.as_ref().and_then(&mut read_range);
    if long.target.is_none() {
        report.add(at, "the container port is missing: add 'target'");
    }
    let host_address = long.host_ip.as_ref().and_then(|text| values::ip(text, report));
    if let (Some(text), Some(address)) = (&long.host_ip, host_address)
        && is_impossible(address)
    {
        report.add(text.at, format!("{address}: the host cannot have this address"));
    }
    let protocol = long.protocol.as_ref().map_or(Some(Protocol::Tcp), |name| {
        protocol(&name.value).map_err(|reason| report.add(name.at, reason)).ok()
    });
    if let Some(mode) = &long.mode
        && !["host", "ingress"].contains(&mode.value.as_str())
    {
        report.add(mode.at, format!("{}: the mode is host or ingress", quote(&mode.value)));
    }
    if report.count() > before {
        return None;
    }
    Some(PortSpec { host_address, host_ports, container_ports: container_ports?, protocol: protocol? })
}

/// Link-local addresses are not published: they need a device to mean something.
fn is_impossible(address: IpAddr) -> bool {
    address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

fn protocol(name: &str) -> Result<Protocol, String> {
    let lowercase = name.to_ascii_lowercase();
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == lowercase);
    known.ok_or_else(|| format!("{} is no protocol that can be published: tcp, udp or sctp", quote(name)))
}

/// `80` or `8000-8010`.
pub(super) fn range(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first, text)?, port(last, text)?);
    if first > last {
        return Err(format!("{} runs backwards: the smaller port comes first", quote(text)));
    }
    Ok(PortRange { first, last })
}

fn port(digits: &str, text: &str) -> Result<u16, String> {
    if !is_digits(digits) {
        return Err(not_ports(text));
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(format!("{}: ports are numbers from 1 to 65535", quote(text))),
        Ok(port) => Ok(port),
    }
}

fn not_ports(text: &str) -> String {
    format!(
        "{} is no port; write it as in 80, 8080:80, 8000-8010:9000-9010 or 127.0.0.1:8080:80/udp",
        quote(text)
    )
}
