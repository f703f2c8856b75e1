//! Routed and unprotected networks: others know containers by their own addresses; nothing is translated.

use std::time::Duration;

use dataplane_common::abi::{
    Address, DropReason, Path, Publication, PublicationKey, Subnet, SubnetKey, flags, map,
};
use etherparse::{Icmpv6Type, icmpv6::DestUnreachableCode};

use super::{
    arrives, became,
    frame::Frame,
    sends,
    topology::{A, B, C, HOST, Member, REMOTE, REMOTE_2, gateway, key, with_host},
};
use crate::{
    Result, frames,
    host::{Host, TCP, UDP, address},
    topology,
};

pub const NAT: u32 = 0;
pub const ROUTED: u32 = flags::ROUTED | flags::ROUTED_V6;
pub const UNPROTECTED: u32 = flags::UNPROTECTED | flags::UNPROTECTED_V6;

/// Gives A's network a gateway mode, in both families.
pub fn mode(host: &mut Host, set: u32) -> Result {
    let clear = ROUTED | UNPROTECTED | flags::INTERNAL;
    for member in [&A, &B] {
        let container = member.container;
        host.change_flags(container.device, clear, set)?;
        for address in [address(container.address), key(member.address)] {
            let entry = dataplane_common::abi::EndpointKey { network: container.network.number, address };
            let mut endpoints = host.programs.hash::<_, dataplane_common::abi::Endpoint>(map::ENDPOINTS)?;
            let mut endpoint = endpoints.get(&entry, 0)?;
            endpoint.flags = endpoint.flags & !clear | set;
            endpoints.insert(entry, endpoint, 0)?;
        }
    }
    let network = A.container.network;
    let value = Subnet { network: network.number, flags: network.flags & !clear | set };
    let mut subnets = host.programs.trie(map::SUBNETS)?;
    let v4 = SubnetKey { address: address("10.10.0.0".parse()?) };
    subnets.insert(&aya::maps::lpm_trie::Key::new(96 + 24, v4), value, 0)?;
    let v6 = SubnetKey { address: key("fd00:1::".parse()?) };
    Ok(subnets.insert(&aya::maps::lpm_trie::Key::new(64, v6), value, 0)?)
}

/// Publishes a container's own port.
pub fn publish(host: &mut Host, protocol: u8, member: &Member, port: u16) -> Result {
    for address in [address(member.container.address), key(member.address)] {
        let value = Publication {
            address,
            network: member.container.network.number,
            first_host_port: port,
            first_container_port: port,
            publication: 0,
        };
        let entry = PublicationKey::new(protocol, &address, port);
        let entry = aya::maps::lpm_trie::Key::new(PublicationKey::BITS, entry);
        host.programs.trie(map::PUBLISHED)?.insert(&entry, value, 0)?;
    }
    host.change_flags(member.container.device, 0, flags::PUBLISHED)
}

#[test]
fn out_with_its_own_address_and_only_answers_back() -> Result {
    with_host(|host| {
        mode(host, ROUTED)?;
        let (a, remote) = ((A.address, 40_000), (REMOTE, 443));
        for (out, back) in [
            (Frame::syn(a, remote), Frame::syn_ack(remote, a)),
            (Frame::udp(a, remote), Frame::udp(remote, a).payload(b"odd")),
            (Frame::echo_request(a.0, REMOTE, 7), Frame::echo_reply(REMOTE, a.0, 7)),
        ] {
            let out = out.sent_by(&A);
            let arriving = back.by_router();
            arrives(host, &arriving)?.dropped(DropReason::DirectRouting);
            became(sends(host, &A, &out)?, Path::RoutedOut, &out.clone().hop());
            became(sends(host, &A, &out)?, Path::RoutedOut, &out.clone().hop());
            became(arrives(host, &arriving)?, Path::RoutedIn, &arriving.clone().routed_to(&A).hop());
        }
        arrives(host, &Frame::udp((REMOTE_2, 443), a).by_router())?.dropped(DropReason::DirectRouting);
        arrives(host, &Frame::udp((REMOTE, 444), a).by_router())?.dropped(DropReason::DirectRouting);
        // A later fragment finds its first; an error finds its flow.
        let first = Frame::udp(remote, a).payload(&[3; 792]).fragment(0, true, 9).by_router();
        arrives(host, &first)?.took(Path::RoutedIn);
        let later =
            Frame::raw(etherparse::IpNumber::UDP, REMOTE, A.address).fragment(100, false, 9).by_router();
        became(arrives(host, &later)?, Path::RoutedIn, &later.clone().routed_to(&A).hop());
        let unreachable = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
        let error =
            Frame::icmp(unreachable, REMOTE_2, A.address).payload(&Frame::udp(a, remote).bytes()[14..]);
        let error = error.by_router();
        became(arrives(host, &error)?, Path::IcmpError, &error.clone().routed_to(&A).hop());
        assert!(host.mappings()?.is_empty(), "no external port is taken");

        // By IPv4 the same.
        let out =
            frames::Frame::udp((A.container.address, 40_000), (topology::REMOTE, 443)).sent_by(A.container);
        host.container_sends(A.container, &out)?.redirected(Path::RoutedOut, &out.clone().hop());
        let back = frames::Frame::udp((topology::REMOTE, 443), (A.container.address, 40_000)).by_router();
        host.world_sends(&back)?.redirected(Path::RoutedIn, &back.clone().routed_to(A.container).hop());
        // What leaves so is not stopped by the safety net.
        host.leave(&out.bytes())?.ignored();
        host.leave(&Frame::udp(a, remote).bytes())?.ignored();
        // The gateway is the host's, which has another address for the world.
        host.leave(&Frame::udp((gateway(A.container.network.number), 22), remote).bytes())?
            .dropped(DropReason::UntranslatedSource);
        host.leave(&Frame::udp((C.address, 1), remote).bytes())?.dropped(DropReason::UntranslatedSource);
        Ok(())
    })
}

#[test]
fn published_ports_are_the_containers_own() -> Result {
    with_host(|host| {
        mode(host, ROUTED)?;
        for (protocol, frame) in [(TCP, Frame::syn as fn(_, _) -> Frame), (UDP, Frame::udp)] {
            publish(host, protocol, &A, 80)?;
            let (client, server) = ((REMOTE, 40_000), (A.address, 80));
            let request = frame(client, server).by_router();
            became(arrives(host, &request)?, Path::PortmapIn, &request.clone().routed_to(&A).hop());
            let answer = frame(server, client).sent_by(&A);
            became(sends(host, &A, &answer)?, Path::PortmapOut, &answer.clone().hop());
            arrives(host, &frame(client, (A.address, 81)).by_router())?.dropped(DropReason::DirectRouting);
            arrives(host, &frame(client, (B.address, 80)).by_router())?.dropped(DropReason::DirectRouting);
            arrives(host, &frame((C.address, 1), server).by_router())?.dropped(DropReason::SpoofedAddress);

            // From another network of this host.
            let client = (C.address, 40_000);
            let request = frame(client, server).sent_by(&C);
            became(sends(host, &C, &request)?, Path::HairpinIn, &request.clone().routed_to(&A).hop());
            became(sends(host, &C, &request)?, Path::HairpinIn, &request.clone().routed_to(&A).hop());
            let answer = frame(server, client).sent_by(&A);
            became(sends(host, &A, &answer)?, Path::HairpinOut, &answer.clone().routed_to(&C).hop());
            sends(host, &C, &frame(client, (A.address, 81)).sent_by(&C))?.dropped(DropReason::Isolated);
        }
        // The port of the host is its own.
        arrives(host, &Frame::syn((REMOTE, 1), (HOST, 80)).by_router())?.passed(Path::NotOurs);
        Ok(())
    })
}

/// When the network is no longer routed its flows end, and so they do with the publication.
#[test]
fn flows_end_with_what_allows_them() -> Result {
    with_host(|host| {
        mode(host, ROUTED)?;
        publish(host, UDP, &A, 80)?;
        let out = Frame::udp((A.address, 40_000), (REMOTE, 443)).sent_by(&A);
        let request = Frame::udp((REMOTE, 1), (A.address, 80)).by_router();
        for damage in [0, 1] {
            sends(host, &A, &out)?.took(Path::RoutedOut);
            arrives(host, &request)?.took(Path::PortmapIn);
            assert_eq!(host.expire()?, 0);
            if damage == 0 {
                mode(host, NAT)?;
                assert_eq!(host.expire()?, 2);
                mode(host, ROUTED)?;
            } else {
                let entry = PublicationKey::new(UDP, &key(A.address), 80);
                let entry = aya::maps::lpm_trie::Key::new(PublicationKey::BITS, entry);
                host.programs.trie::<_, Publication>(map::PUBLISHED)?.remove(&entry)?;
                assert_eq!(host.expire()?, 1);
                host.age_flows(Duration::from_secs(301))?;
                assert_eq!(host.expire()?, 1);
            }
            assert!(host.is_empty()?);
        }
        Ok(())
    })
}

/// Who may know them by their addresses may ask whether they are there.
#[test]
fn echo_requests_of_others() -> Result {
    with_host(|host| {
        let request = |id| Frame::echo_request(REMOTE, A.address, id).by_router();
        arrives(host, &request(7))?.dropped(DropReason::DirectRouting);
        for (both, ids) in [(ROUTED, [0, 1, 7]), (UNPROTECTED, [2, 3, 8])] {
            mode(host, both)?;
            for id in ids {
                let reply = Frame::echo_reply(A.address, REMOTE, id).sent_by(&A);
                sends(host, &A, &reply)?.dropped(DropReason::UnsupportedProtocol);
                arrives(host, &Frame::echo_reply(REMOTE, A.address, id).by_router())?
                    .dropped(DropReason::DirectRouting);
                for _ in 0..2 {
                    became(arrives(host, &request(id))?, Path::PortmapIn, &request(id).routed_to(&A).hop());
                    became(sends(host, &A, &reply)?, Path::PortmapOut, &reply.clone().hop());
                }
                // A query of its own with the same identifier is another.
                let own = Frame::echo_request(A.address, REMOTE, id).sent_by(&A);
                let out = sends(host, &A, &own)?;
                if both == ROUTED {
                    became(out, Path::RoutedOut, &own.clone().hop());
                    let back = Frame::echo_reply(REMOTE, A.address, id).by_router();
                    became(arrives(host, &back)?, Path::RoutedIn, &back.clone().routed_to(&A).hop());
                } else {
                    out.took(Path::MasqueradeOut);
                }
                became(sends(host, &A, &reply)?, Path::PortmapOut, &reply.clone().hop());
                let error = Frame::icmp(Icmpv6Type::PacketTooBig { mtu: 1280 }, REMOTE_2, A.address)
                    .payload(&reply.bytes()[14..])
                    .by_router();
                became(arrives(host, &error)?, Path::IcmpError, &error.clone().routed_to(&A).hop());

                // From another network of this host.
                let request = Frame::echo_request(C.address, A.address, id).sent_by(&C);
                became(sends(host, &C, &request)?, Path::HairpinIn, &request.clone().routed_to(&A).hop());
                let reply = Frame::echo_reply(A.address, C.address, id).sent_by(&A);
                became(sends(host, &A, &reply)?, Path::HairpinOut, &reply.clone().routed_to(&C).hop());
                let unasked = Frame::echo_reply(C.address, A.address, id).sent_by(&C);
                sends(host, &C, &unasked)?.dropped(DropReason::Isolated);
            }
            // An internal network has no outside.
            mode(host, both | flags::INTERNAL)?;
            arrives(host, &request(9))?.dropped(DropReason::DirectRouting);
            sends(host, &C, &Frame::echo_request(C.address, A.address, 9).sent_by(&C))?
                .dropped(DropReason::Isolated);
        }
        Ok(())
    })
}

/// Everybody answers an echo request: what strangers ask does not fill the table of those who are known.
#[test]
fn echo_requests_of_others_are_not_kept() -> Result {
    with_host(|host| {
        mode(host, ROUTED)?;
        for id in 0..50 {
            arrives(host, &Frame::echo_request(REMOTE, A.address, id).by_router())?.took(Path::PortmapIn);
            sends(host, &A, &Frame::echo_reply(A.address, REMOTE, id).sent_by(&A))?.took(Path::PortmapOut);
        }
        assert_eq!((host.confirmed()?.len(), host.unconfirmed()?.len()), (0, 50));
        Ok(())
    })
}

/// An uplink without an address of its own has none to refuse with.
#[test]
fn an_uplink_without_address_tells_nothing() -> Result {
    with_host(|host| {
        mode(host, ROUTED)?;
        let late = Frame::echo_request(REMOTE, A.address, 1).hop_limit(1).by_router();
        arrives(host, &late)?.refused_v6(DropReason::TimeToLive, (3, 0, 0), HOST);
        host.change_device(topology::UPLINK, |uplink| uplink.address_v6 = Address::UNSPECIFIED)?;
        arrives(host, &late)?.dropped(DropReason::TimeToLive);
        Ok(())
    })
}

/// Whoever has a route reaches every port; what the containers say first is masqueraded.
#[test]
fn unprotected_networks_are_open() -> Result {
    with_host(|host| {
        mode(host, UNPROTECTED)?;
        for frame in [Frame::syn as fn(_, _) -> Frame, Frame::udp] {
            for port in [1, 81, 65_535] {
                let (client, server) = ((REMOTE, 40_000), (A.address, port));
                let request = frame(client, server).by_router();
                became(arrives(host, &request)?, Path::PortmapIn, &request.clone().routed_to(&A).hop());
                let answer = frame(server, client).sent_by(&A);
                became(sends(host, &A, &answer)?, Path::PortmapOut, &answer.clone().hop());
                host.leave(&answer.bytes())?.ignored();
                sends(host, &A, &frame(server, (REMOTE_2, 40_000)).sent_by(&A))?.took(Path::MasqueradeOut);

                let client = (C.address, 40_000);
                let request = frame(client, server).sent_by(&C);
                became(sends(host, &C, &request)?, Path::HairpinIn, &request.clone().routed_to(&A).hop());
                let answer = frame(server, client).sent_by(&A);
                became(sends(host, &A, &answer)?, Path::HairpinOut, &answer.clone().routed_to(&C).hop());
            }
            // A source that nobody outside has, and a member that is not there.
            arrives(host, &frame((C.address, 1), (A.address, 81)).by_router())?
                .dropped(DropReason::SpoofedAddress);
            let nobody = "fd00:1::ffff".parse()?;
            arrives(host, &frame((REMOTE, 1), (nobody, 81)).by_router())?.dropped(DropReason::NoEndpoint);
        }
        // By IPv4 the same.
        let request = frames::Frame::udp((topology::REMOTE, 443), (A.container.address, 81)).by_router();
        let expected = request.clone().routed_to(A.container).hop();
        host.world_sends(&request)?.redirected(Path::PortmapIn, &expected);
        // It ends with the mode.
        host.expire()?;
        host.world_sends(&request)?.redirected(Path::PortmapIn, &expected);
        mode(host, NAT)?;
        host.expire()?;
        host.world_sends(&request)?.dropped(DropReason::DirectRouting);
        Ok(())
    })
}
