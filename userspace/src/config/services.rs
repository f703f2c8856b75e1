//! `services`: each entry by itself, given the networks. What concerns several of them is the work of `check`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    error::{Position, Report, quote},
    located::Located,
    merge::Networks,
    networks::NetworkDraft,
    ports::{self, PortSpec},
    schema::{self, ServiceNetworks},
    values,
};
use crate::model::{Attachment, Container, ContainerNamespace, MacAddress};

/// The kernel's `PID_MAX_LIMIT`.
const MOST_PID: u32 = 1 << 22;
/// Most entries that `ports` may come to, on the host as a whole; ranges with host ports count once.
pub(super) const MOST_PUBLICATIONS: usize = 1 << 16;
/// The network of services that name none, as in Compose.
pub(super) const DEFAULT_NETWORK: &str = "default";

/// A container of the model with the places of what can clash with other containers.
#[derive(Debug)]
pub(super) struct ServiceDraft {
    pub container: Container,
    /// Where it is declared.
    pub at: Position,
    /// Where its location is said, or it itself where that is missing.
    pub location_at: Position,
    pub container_name: Option<Located<String>>,
    pub attachments: Vec<AttachmentDraft>,
    pub ports: Vec<Located<PortSpec>>,
    /// Host address of the ports that name none.
    pub binding: Option<Ipv4Addr>,
    /// Whether its ports are ports of the host as well, which only one may have.
    pub has_host_ports: bool,
    /// `network_mode: service:NAME` or `container:NAME`.
    pub shared_with: Option<Located<Shared>>,
    /// The services of `links`.
    pub links: Vec<Located<String>>,
}

impl ServiceDraft {
    /// The host address that a port of this service is published on, unspecified for all of a family; `None`: all of them.
    pub(super) fn host_address(&self, port: &PortSpec) -> Option<IpAddr> {
        port.host_address.or(self.binding.map(IpAddr::V4))
    }
}

/// Whose network stack is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shared {
    Service(String),
    Container(String),
}

/// A membership with the places of its values.
#[derive(Debug)]
pub(super) struct AttachmentDraft {
    pub network: String,
    /// Of either family.
    pub addresses: Vec<(IpAddr, Position)>,
    pub mac_address: Option<(MacAddress, Position)>,
}

/// Reads one service.
pub(super) fn read(
    name: &Located<String>,
    service: &Located<schema::Service>,
    networks: &mut Networks,
    report: &mut Report,
) -> ServiceDraft {
    values::name(&name.value, name.at, "service name", report);
    let declared = &service.value;
    let mode = declared.network_mode.as_ref().and_then(|mode| read_mode(mode, report));
    let namespace = read_namespace(name, declared, mode.as_ref(), report);
    let mut draft = ServiceDraft {
        container: Container {
            namespace,
            attachments: Default::default(),
            publications: Vec::new(),
            hostname: None,
            links: Vec::new(),
        },
        at: name.at,
        location_at: declared.location.as_ref().map_or(name.at, |location| location.at),
        container_name: None,
        attachments: Vec::new(),
        ports: Vec::new(),
        binding: None,
        has_host_ports: true,
        shared_with: None,
        links: Vec::new(),
    };
    draft.container_name =
        declared.container_name.clone().filter(|name| values::docker_name(name, "container name", report));
    draft.container.hostname = declared
        .hostname
        .as_ref()
        .filter(|hostname| values::host_name(hostname, "host name", report))
        .map(|hostname| hostname.value.clone());
    for port in declared.expose.iter().flatten() {
        // The form is that of a container port with a protocol, without host ports.
        let text = port.value.text();
        match ports::parse_short(&text) {
            Ok(spec) if spec.host_ports.is_none() && spec.host_address.is_none() => {}
            Ok(_) => report.add(port.at, format!("{}: 'expose' names container ports only", quote(&text))),
            Err(reason) => report.add(port.at, reason),
        }
    }
    read_links(name, declared, &mut draft, report);
    match mode {
        None if declared.network_mode.is_none() => {
            attach(name, declared, networks, &mut draft, report);
            let publishing = networks.publishing(&draft.container);
            draft.binding = publishing.and_then(NetworkDraft::host_binding);
            draft.has_host_ports = publishing.is_none_or(NetworkDraft::has_host_ports);
            publish(declared, &mut draft, report);
        }
        mode => {
            refuse_with_mode(declared, report);
            if let Some(Mode::Shared(shared)) = mode
                && let Some(at) = declared.network_mode.as_ref().map(|mode| mode.at)
            {
                draft.shared_with = Some(Located { value: shared, at });
            }
        }
    }
    draft
}

enum Mode {
    None,
    Host,
    Shared(Shared),
}

fn read_mode(mode: &Located<String>, report: &mut Report) -> Option<Mode> {
    let reason = match mode.value.split_once(':') {
        None if mode.value == "none" => return Some(Mode::None),
        None if mode.value == "host" => return Some(Mode::Host),
        None if mode.value == "bridge" => {
            "'bridge' is Docker's own default network: leave network_mode out to join the network 'default'"
                .to_owned()
        }
        Some(("service", name)) if !name.is_empty() => {
            return Some(Mode::Shared(Shared::Service(name.to_owned())));
        }
        Some(("container", name)) if !name.is_empty() => {
            return Some(Mode::Shared(Shared::Container(name.to_owned())));
        }
        _ => format!(
            "{} is not a network mode: none, host, service:NAME or container:NAME; networks go under 'networks'",
            quote(&mode.value)
        ),
    };
    report.add(mode.at, reason);
    None
}

fn read_namespace(
    name: &Located<String>,
    declared: &schema::Service,
    mode: Option<&Mode>,
    report: &mut Report,
) -> ContainerNamespace {
    if let Some(mode) = mode {
        if let Some(location) = &declared.location {
            report.add(
                location.at,
                "with network_mode there is nothing to say about where the container is: remove x-weft or network_mode",
            );
        }
        return match mode {
            Mode::Host => ContainerNamespace::Host,
            // The name of a shared stack is settled when all services are known.
            Mode::None | Mode::Shared(_) => ContainerNamespace::None,
        };
    }
    let Some(location) = &declared.location else {
        if declared.network_mode.is_none() {
            report.add(
                name.at,
                format!(
                    "nothing says where the container {} is: add 'x-weft: {{ netns: NAME }}' (or pid: NUMBER, or \
                     container: DOCKER-NAME), or 'network_mode: none'",
                    quote(&name.value)
                ),
            );
        }
        return ContainerNamespace::None;
    };
    let read = match &location.value {
        schema::ServiceLocation { netns: Some(netns), pid: None, container: None } => {
            namespace_name(netns, report).then(|| ContainerNamespace::Named(netns.value.clone()))
        }
        schema::ServiceLocation { netns: None, pid: Some(pid), container: None } => {
            values::integer(pid, "a process id", 1, MOST_PID, report).map(ContainerNamespace::Pid)
        }
        schema::ServiceLocation { netns: None, pid: None, container: Some(container) } => {
            values::docker_name(container, "container name or id", report)
                .then(|| ContainerNamespace::Docker(container.value.clone()))
        }
        _ => {
            report.add(location.at, "x-weft of a service has exactly one of netns, pid and container");
            None
        }
    };
    read.unwrap_or(ContainerNamespace::None)
}

/// The name of a file in /run/netns.
fn namespace_name(netns: &Located<String>, report: &mut Report) -> bool {
    let name = netns.value.as_str();
    let good = !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.contains(|character: char| character == '/' || character.is_control());
    if !good {
        report.add(
            netns.at,
            format!(
                "{} is not the name of a network namespace: write it as 'ip netns list' does",
                quote(name)
            ),
        );
    }
    good
}

fn refuse_with_mode(declared: &schema::Service, report: &mut Report) {
    let Some(mode) = &declared.network_mode else { return };
    let networks = match &declared.networks {
        Some(ServiceNetworks::List(names)) => !names.is_empty(),
        Some(ServiceNetworks::Map(entries)) => !entries.0.is_empty(),
        None => false,
    };
    if networks {
        report.add(mode.at, "network_mode and networks exclude each other: remove one");
    }
    if declared.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        report.add(
            mode.at,
            "network_mode and ports exclude each other: with host and none nothing is published, with service:NAME \
             the ports belong to NAME",
        );
    }
}

fn read_links(
    name: &Located<String>,
    declared: &schema::Service,
    draft: &mut ServiceDraft,
    report: &mut Report,
) {
    for link in declared.links.iter().flatten() {
        let (service, alias) = link.value.split_once(':').unwrap_or((&link.value, &link.value));
        let alias_text = Located { value: alias.to_owned(), at: link.at };
        if service == name.value {
            report.add(link.at, "a service cannot link to itself");
        } else if values::host_name(&alias_text, "name to resolve", report) {
            draft.container.links.push((service.to_owned(), alias.to_owned()));
            draft.links.push(Located { value: service.to_owned(), at: link.at });
        }
    }
}

fn attach(
    name: &Located<String>,
    declared: &schema::Service,
    networks: &mut Networks,
    draft: &mut ServiceDraft,
    report: &mut Report,
) {
    let no_settings = schema::ServiceNetwork::default();
    let mut wanted: Vec<(Located<String>, &schema::ServiceNetwork)> = match &declared.networks {
        None => Vec::new(),
        Some(ServiceNetworks::List(names)) => names.iter().map(|name| (name.clone(), &no_settings)).collect(),
        Some(ServiceNetworks::Map(entries)) => entries
            .0
            .iter()
            .map(|(name, settings)| (name.clone(), settings.as_ref().unwrap_or(&no_settings)))
            .collect(),
    };
    if wanted.is_empty() {
        wanted.push((Located { value: DEFAULT_NETWORK.to_owned(), at: name.at }, &no_settings));
    }
    for (key, settings) in wanted {
        let Some(network) = networks.resolve(&key) else {
            report.add(key.at, format!("unknown network {}: declare it under 'networks'", quote(&key.value)));
            continue;
        };
        let attachment = read_attachment(&network, settings, networks, draft, report);
        if draft.container.attachments.insert(network, attachment).is_some() {
            report.add(key.at, format!("the network {} is named twice", quote(&key.value)));
        }
    }
    // Docker resolves a container by this name in all its networks.
    if let Some(container_name) =
        draft.container_name.as_ref().filter(|container| container.value != name.value)
    {
        for attachment in draft.container.attachments.values_mut() {
            if !attachment.aliases.contains(&container_name.value) {
                attachment.aliases.push(container_name.value.clone());
            }
        }
    }
}

fn read_attachment(
    network: &str,
    settings: &schema::ServiceNetwork,
    networks: &Networks,
    draft: &mut ServiceDraft,
    report: &mut Report,
) -> Attachment {
    let ipv4 = settings.ipv4_address.as_ref().and_then(|text| Some((values::ipv4(text, report)?, text.at)));
    let ipv6 = settings.ipv6_address.as_ref().and_then(|text| Some((values::ipv6(text, report)?, text.at)));
    let addresses: Vec<(IpAddr, Position)> = ipv4
        .map(|(address, at)| (IpAddr::V4(address), at))
        .into_iter()
        .chain(ipv6.map(|(address, at)| (IpAddr::V6(address), at)))
        .collect();
    for (address, at) in &addresses {
        networks.check_address(network, *address, *at, report);
    }
    let mac_address =
        settings.mac_address.as_ref().and_then(|text| Some((values::mac(text, report)?, text.at)));
    let mut aliases = Vec::new();
    let mut seen = BTreeSet::new();
    for alias in settings.aliases.iter().flatten() {
        if !values::host_name(alias, "name to resolve", report) {
            continue;
        }
        if seen.insert(&alias.value) {
            aliases.push(alias.value.clone());
        }
    }
    let gateway_priority = settings.gw_priority.as_ref().map_or(0, |priority| {
        i32::try_from(priority.value).unwrap_or_else(|_| {
            report.add(priority.at, format!("{}: a priority has at most 32 bits", priority.value));
            0
        })
    });
    if !draft.container.attachments.contains_key(network) {
        draft.attachments.push(AttachmentDraft { network: network.to_owned(), addresses, mac_address });
    }
    Attachment {
        ipv4_address: ipv4.map(|(address, _)| address),
        ipv6_address: ipv6.map(|(address, _)| address),
        mac_address: mac_address.map(|(mac, _)| mac),
        aliases,
        gateway_priority,
    }
}

fn publish(declared: &schema::Service, draft: &mut ServiceDraft, report: &mut Report) {
    for port in declared.ports.iter().flatten() {
        let Some(spec) = ports::read(port, report) else { continue };
        if draft.container.publications.len() > MOST_PUBLICATIONS {
            report.add(
                port.at,
                format!("more than {MOST_PUBLICATIONS} published ports: use ranges with host ports"),
            );
            return;
        }
        match spec.publications(draft.binding) {
            Ok(publications) => {
                draft.container.publications.extend(publications);
                draft.ports.push(Located { value: spec, at: port.at });
            }
            Err(reason) => report.add(port.at, reason),
        }
    }
}
