//! What must hold of every packet, whatever it was.

use std::net::IpAddr;

use dataplane_common::abi::{DropReason, Path, program};

use super::{
    translation::translated,
    wire::{self, ICMP, ICMPV6, Part, SCTP, UDP, Wire},
};
use crate::{
    ipv6::topology as v6,
    outcome::{Outcome, Verdict, sum},
    topology::{self, CONTAINERS, Container, HOST, HOST_2, MESH, NETWORKS, UPLINK_MAC, VXLAN_PORT},
};

/// What is wrong.
pub type Judgement = Result<(), String>;

pub fn ensure(condition: bool, wrong: impl FnOnce() -> String) -> Judgement {
    if condition { Ok(()) } else { Err(wrong()) }
}

/// A container that has IPv6.
fn member_v6(container: &Container) -> Option<&'static v6::Member> {
    [&v6::A, &v6::B, &v6::C, &v6::M].into_iter().find(|it| it.container.device == container.device)
}

/// A member of a network, in both families.
fn addresses(container: &Container) -> [IpAddr; 2] {
    let v6 = member_v6(container).map_or([0; 16].into(), |member| member.address.into());
    [container.address.into(), v6]
}

fn link_local(container: &Container) -> IpAddr {
    member_v6(container).map_or([0; 16].into(), |member| member.link_local().into())
}

fn gateways(container: &Container) -> [IpAddr; 2] {
    [container.network.gateway.into(), v6::gateway(container.network.number).into()]
}

/// What the world knows this host by.
fn external() -> [IpAddr; 3] {
    [HOST.into(), HOST_2.into(), v6::HOST.into()]
}

fn is_host(address: IpAddr) -> bool {
    external().contains(&address)
        || NETWORKS.iter().any(|it| address == it.gateway || address == v6::gateway(it.number))
}

/// The network whose subnet this is in.
fn network(address: IpAddr) -> Option<u32> {
    NETWORKS.iter().map(|network| network.number).find(|number| match address {
        IpAddr::V4(v4) => {
            let network = NETWORKS[*number as usize - 1].gateway.octets();
            v4.octets()[..3] == network[..3]
        }
        IpAddr::V6(v6) => v6.segments()[..4] == v6::gateway(*number).segments()[..4],
    })
}

fn member(address: IpAddr) -> Option<&'static Container> {
    CONTAINERS.into_iter().find(|container| addresses(container).contains(&address))
}

/// Which gateway mode A's network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Nat,
    Routed,
    Unprotected,
    /// Internal, and members do not reach one another.
    Closed,
}

/// Judges what a program made of a frame that came by this device.
pub fn judge(program: &str, sender: &'static Container, mode: Mode, outcome: &Outcome) -> Judgement {
    let (input, output) = (&outcome.input, &outcome.frame);
    let is_for_bridge =
        program == program::FROM_CONTAINER && mode == Mode::Closed && outcome.verdict == Verdict::Next;
    match wire::read(input).filter(|wire| is_for_bridge && solicits_neighbour(sender, input, wire)) {
        Some(wire) => asks_in_group(input, output, &wire)?,
        None if outcome.verdict != Verdict::Redirect => {
            ensure(input == output, || "it is not redirected, and changed".to_owned())?;
        }
        None => {}
    }
    match program {
        program::FROM_CONTAINER => from_container(sender, mode, outcome),
        program::FROM_UPLINK => from_uplink(mode, outcome),
        program::TO_UPLINK => to_uplink(mode, outcome),
        program::FROM_BRIDGE => is_dropped(outcome, DropReason::Isolated),
        program::FROM_WAITING_ROOM => is_dropped(outcome, DropReason::UnknownDevice),
        other => Err(format!("{other} has no judge")),
    }
}

fn is_dropped(outcome: &Outcome, reason: DropReason) -> Judgement {
    ensure(outcome.drop == Some(reason) && outcome.verdict == Verdict::Drop, || {
        "it must be dropped".to_owned()
    })
}

fn from_container(sender: &'static Container, mode: Mode, outcome: &Outcome) -> Judgement {
    let (input, output) = (&outcome.input[..], &outcome.frame[..]);
    if outcome.verdict == Verdict::Drop {
        return Ok(());
    }
    ensure(input[6..12] == sender.mac, || "a foreign MAC address".to_owned())?;
    if input[12..14] == [0x08, 0x06] {
        let speaks_for_itself = input[22..28] == sender.mac
            && [sender.address.octets(), [0; 4]].contains(&input[28..32].try_into().unwrap_or([1; 4]));
        return ensure(speaks_for_itself && outcome.path == Some(Path::SlowPath), || {
            "foreign ARP".to_owned()
        });
    }
    let wire = wire::read(input).ok_or("it cannot be read, and was not dropped")?;
    let own = addresses(sender);
    let is_of_link = [link_local(sender), IpAddr::from([0; 16])].contains(&wire.source);
    ensure(own.contains(&wire.source) || is_of_link && outcome.verdict == Verdict::Next, || {
        format!("a foreign source {}", wire.source)
    })?;
    discovery(sender, input, &wire)?;
    if let Some(reason) = outcome.drop {
        return refused(reason, outcome, &wire, &gateways(sender));
    }
    let path = outcome.path.ok_or("no path")?;
    let (source, destination) =
        wire::read(output).map(|it| (it.source, it.destination)).ok_or("unreadable")?;
    let routes = matches!(mode, Mode::Routed | Mode::Unprotected);
    match path {
        Path::SlowPath => {
            let stays = match wire.destination {
                IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
                IpAddr::V6(to) => to.is_multicast() || to.is_unicast_link_local(),
            };
            ensure(stays || network(wire.destination) == Some(sender.network.number), || {
                format!("{} is beyond the link", wire.destination)
            })
        }
        Path::Host => ensure(is_host(wire.destination), || format!("{} is not the host", wire.destination)),
        Path::FragmentWaits => ensure(input == output, || "it waits, and changed".to_owned()),
        Path::Bridge => {
            let to = member(wire.destination).filter(|to| to.network.number == sender.network.number);
            let to = to.ok_or_else(|| format!("{} is no neighbour", wire.destination))?;
            ensure(mode != Mode::Closed || sender.network.number != topology::FRONT.number, || {
                "members do not reach one another".to_owned()
            })?;
            ensure(output[..6] == to.mac && output[6..] == input[6..], || "more than bridged".to_owned())
        }
        Path::Encapsulate => encapsulated(input, output),
        Path::MasqueradeOut => {
            translated(input, output)?;
            ensure(external().contains(&source) && destination == wire.destination, || {
                format!("from {source} to {destination}")
            })?;
            ensure(network(destination).is_none(), || format!("{destination} is a network's"))
        }
        Path::PortmapOut | Path::RoutedOut => {
            translated(input, output)?;
            let allowed = external().contains(&source) && path == Path::PortmapOut || source == wire.source;
            ensure(allowed && destination == wire.destination, || format!("from {source} to {destination}"))
        }
        Path::HairpinIn | Path::HairpinOut | Path::IcmpError => {
            translated(input, output)?;
            let known = is_host(source) || own.contains(&source);
            ensure(known, || format!("from {source}"))?;
            match member(destination) {
                Some(to) => ensure(is_delivered(output, to), || format!("not to {destination}")),
                None if path == Path::IcmpError => ensure(
                    destination == wire.destination && (external().contains(&source) || routes),
                    || format!("from {source} to {destination}"),
                ),
                None => Err(format!("{destination} is no member")),
            }
        }
        other => Err(format!("{other:?} is not a container's")),
    }
}

/// Nobody speaks for another in neighbour discovery, and no container for a router (RFC 4861 section 11).
fn discovery(sender: &Container, input: &[u8], wire: &Wire) -> Judgement {
    if wire.protocol != ICMPV6 || !wire.is_v6 || wire.part != Part::Whole {
        return Ok(());
    }
    let message = &input[wire.transport..wire.end];
    let kind = message.first().copied().unwrap_or_default();
    ensure(!matches!(kind, 134 | 137), || "a container speaks for a router".to_owned())?;
    let options = match kind {
        133 => 8,
        135 | 136 => 24,
        _ => return Ok(()),
    };
    if kind == 136 {
        // One that is cut short is not heard (RFC 4861 section 7.1.2).
        let about: Option<[u8; 16]> = message.get(8..24).and_then(|it| it.try_into().ok());
        let own = [addresses(sender)[1], link_local(sender)];
        ensure(about.is_none_or(|about| own.contains(&about.into())), || {
            "a foreign advertisement".to_owned()
        })?;
    }
    let mut rest = message.get(options..).unwrap_or_default();
    while let [number, units, ..] = rest {
        if *units == 0 || rest.len() < usize::from(*units) * 8 {
            break;
        }
        if matches!(number, 1 | 2) {
            ensure(rest[2..8] == sender.mac, || "a foreign link-layer address".to_owned())?;
        }
        rest = &rest[usize::from(*units) * 8..];
    }
    Ok(())
}

/// Whether a member of a closed network asks a neighbour something that it will not hear.
fn solicits_neighbour(sender: &Container, input: &[u8], wire: &Wire) -> bool {
    let is_solicitation = wire.is_v6 && wire.protocol == ICMPV6 && wire.part == Part::Whole;
    sender.network.number == topology::FRONT.number
        && is_solicitation
        && input.get(wire.transport) == Some(&135)
        && network(wire.destination) == Some(sender.network.number)
        && !gateways(sender).contains(&wire.destination)
}

/// It is asked in the group of the neighbour (RFC 4291 section 2.7.1, RFC 2464 section 7), with a checksum worth what it was.
fn asks_in_group(input: &[u8], output: &[u8], wire: &Wire) -> Judgement {
    let destination = wire.addresses().start + 16;
    let mut expected = input.to_vec();
    expected[destination..destination + 13].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    expected[..2].fill(0x33);
    expected.copy_within(destination + 12..destination + 16, 2);
    let checksum = wire.transport + 2..wire.transport + 4;
    expected[checksum.clone()].copy_from_slice(&output[checksum]);
    ensure(output == expected, || "not the question to the neighbour's group".to_owned())?;
    ensure(wire.transport_sum(input) == wire.transport_sum(output), || "the transport checksum".to_owned())
}

fn from_uplink(mode: Mode, outcome: &Outcome) -> Judgement {
    let (input, output) = (&outcome.input[..], &outcome.frame[..]);
    let wire = wire::read(input);
    match outcome.verdict {
        Verdict::Drop => return Ok(()),
        Verdict::Next => {
            let Some(wire) = wire.filter(|_| input[..6] == UPLINK_MAC) else { return Ok(()) };
            let readable = !is_mapped(&wire)
                && !overlaps_header(input, &wire)
                && (wire.part == Part::Later || fits(&wire));
            return ensure(
                !readable || network(wire.destination).is_none() || is_host(wire.destination),
                || format!("{} is reached past its published ports", wire.destination),
            );
        }
        Verdict::Redirect => {}
    }
    let wire = wire.ok_or("it cannot be read, and was redirected")?;
    if let Some(reason) = outcome.drop {
        // A container's own address is not this host's to speak with.
        let router = match wire.destination {
            sent_to if is_host(sent_to) => sent_to,
            IpAddr::V4(_) => HOST.into(),
            IpAddr::V6(_) => v6::HOST.into(),
        };
        return refused(reason, outcome, &wire, &[router]);
    }
    let path = outcome.path.ok_or("no path")?;
    if path == Path::Decapsulate {
        // What a peer puts into its tunnel is the peer's.
        let inner = &input[if wire.is_v6 { 70 } else { 50 }..];
        return ensure(output == inner && output[..6] == topology::M.mac, || {
            "not the inner frame".to_owned()
        });
    }
    let (source, destination) =
        wire::read(output).map(|it| (it.source, it.destination)).ok_or("unreadable")?;
    match path {
        Path::FragmentWaits => ensure(input == output, || "it waits, and changed".to_owned()),
        Path::MasqueradeIn | Path::PortmapIn | Path::RoutedIn | Path::IcmpError => {
            translated(input, output)?;
            let to = member(destination).ok_or_else(|| format!("{destination} is no member"))?;
            ensure(is_delivered(output, to), || format!("not to {destination}"))?;
            let is_open = matches!(mode, Mode::Routed | Mode::Unprotected) && path != Path::MasqueradeIn;
            let direct = is_open && wire.destination == destination;
            ensure(source == wire.source && (direct || is_host(wire.destination)), || {
                format!("from {source}, for {}", wire.destination)
            })
        }
        other => Err(format!("{other:?} is not the world's")),
    }
}

/// Whether the packet holds the transport header that it announces; what does not is for the host's stack to count.
fn fits(wire: &Wire) -> bool {
    let needed = match wire.protocol {
        wire::TCP => 20,
        UDP => 8,
        ICMP if !wire.is_v6 => 8,
        ICMPV6 if wire.is_v6 => 8,
        SCTP => 12,
        _ => 0,
    };
    wire.transport + needed <= wire.end
}

/// Whether it is a fragment that would overwrite a TCP header (RFC 1858 section 4.2): the host's stack sees it, and what it
/// makes of it `to_container`.
fn overlaps_header(frame: &[u8], wire: &Wire) -> bool {
    let offset = u16::from_be_bytes([frame[wire.network + 6], frame[wire.network + 7]]) & 0x1fff;
    !wire.is_v6 && wire.protocol == wire::TCP && offset == 1
}

fn is_mapped(wire: &Wire) -> bool {
    [wire.source, wire.destination].iter().any(|address| match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
        IpAddr::V4(_) => false,
    })
}

fn to_uplink(mode: Mode, outcome: &Outcome) -> Judgement {
    let input = &outcome.input;
    let source: IpAddr = match input[12..14] {
        [0x08, 0x00] => <[u8; 4]>::try_from(&input[26..30]).map_err(|_| "cut")?.into(),
        [0x86, 0xdd] => <[u8; 16]>::try_from(&input[22..38]).map_err(|_| "cut")?.into(),
        _ => return ensure(outcome.verdict == Verdict::Next, || "not IP, and dropped".to_owned()),
    };
    // In the maps a mapped address is the IPv4 one; neither belongs on a wire.
    let source = source.to_canonical();
    let shown =
        matches!(mode, Mode::Routed | Mode::Unprotected) && network(source) == Some(topology::FRONT.number);
    if network(source).is_none() || shown && !is_host(source) {
        return ensure(outcome.verdict == Verdict::Next, || format!("{source} is stopped"));
    }
    ensure(outcome.drop == Some(DropReason::UntranslatedSource), || format!("{source} leaves"))
}

fn is_delivered(output: &[u8], to: &Container) -> bool {
    output[..6] == to.mac && output[6..12] == to.network.gateway_mac
}

/// Turned back as an ICMP error of this host.
fn refused(reason: DropReason, outcome: &Outcome, wire: &Wire, sources: &[IpAddr]) -> Judgement {
    let (input, output) = (&outcome.input[..], &outcome.frame[..]);
    let told =
        [DropReason::TimeToLive, DropReason::TooBig, DropReason::PortsExhausted, DropReason::FlowTableFull];
    ensure(told.contains(&reason), || format!("{reason:?} is nobody's to know"))?;
    let error = wire::read(output).ok_or("an error that cannot be read")?;
    let first = if error.is_v6 { [0x60, 0, 0, 0] } else { [0x45, 0xc0, output[16], output[17]] };
    ensure(error.end == output.len() && error.hops == 64 && output[14..18] == first, || {
        "its header".to_owned()
    })?;
    ensure(output[..6] == input[6..12] && output[6..12] == input[..6], || {
        "not back where it came from".to_owned()
    })?;
    ensure(sources.contains(&error.source) && error.destination == wire.source, || {
        format!("from {} to {}", error.source, error.destination)
    })?;
    let quote = &output[error.transport + 8..];
    ensure(quote == &input[14..14 + quote.len()], || "it quotes something else".to_owned())?;
    ensure(error.is_v6 || error.header_sum(output) == Some(0), || "the IPv4 checksum".to_owned())?;
    // What looks as if a network card had to complete it is quoted as the card will send it.
    let pseudo = [&input[wire.addresses()], &[0, wire.protocol]].concat();
    let length = u16::try_from(wire.end - wire.network - if wire.is_v6 { 40 } else { 20 }).unwrap_or(0);
    let is_partial = wire.checksum().is_some_and(|at| {
        let begun = sum(&[&pseudo[..], &length.to_be_bytes()].concat());
        input.get(at) == Some(&begun.to_be_bytes())
    });
    // The length is part of an ICMPv6 checksum.
    let length = if error.is_v6 { (error.end - error.transport) as u16 } else { 0 };
    let total =
        sum(&[&error.transport_sum(output).to_be_bytes()[..], &length.to_be_bytes()].concat()) % 0xffff;
    ensure(is_partial || total == 0, || "the ICMP checksum".to_owned())
}

/// In a datagram of the tunnel, as it was but for MAC addresses.
fn encapsulated(input: &[u8], output: &[u8]) -> Judgement {
    let outer = wire::read(output).ok_or("unreadable")?;
    let added = if outer.is_v6 { 70 } else { 50 };
    ensure(outer.is_v6 || outer.header_sum(output) == Some(0), || "the outer checksum".to_owned())?;
    let ends = [(IpAddr::from(HOST), IpAddr::from(topology::PEER)), (v6::HOST.into(), v6::PEER.into())];
    ensure(ends.contains(&(outer.source, outer.destination)), || {
        format!("a tunnel from {} to {}", outer.source, outer.destination)
    })?;
    let udp = &output[outer.transport..];
    let length = u16::try_from(input.len() + 16).unwrap_or(0).to_be_bytes();
    let port = VXLAN_PORT.to_be_bytes();
    ensure(outer.protocol == UDP && udp[2..4] == port && udp[4..8] == [length[0], length[1], 0, 0], || {
        "the outer UDP header".to_owned()
    })?;
    let [_, a, b, c] = MESH.vni.to_be_bytes();
    ensure(udp[8..16] == [8, 0, 0, 0, a, b, c, 0], || "the VXLAN header".to_owned())?;
    let inner = &output[added..];
    let far = [topology::FAR_MAC, v6::FAR_MAC].contains(&inner[..6].try_into().unwrap_or_default());
    ensure(far && inner[6..] == input[6..], || "the inner frame".to_owned())
}
