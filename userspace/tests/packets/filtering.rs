//! Whom a masqueraded container hears uninvited (RFC 4787 section 5), and how two of them reach each other through their
//! external ports (section 6).

use dataplane_common::abi::{DropReason, Path, flags};

use crate::{
    Result,
    frames::Frame,
    host::{Host, with_host},
    outcome::assert_bytes,
    topology::{A, A_AGAIN, B, C, Container, HOST, REMOTE, REMOTE_2},
};

const PORT: u16 = 25_000;

fn policy(host: &mut Host, container: &Container, flag: u32) -> Result {
    host.change_flags(container.device, 0, flag)?;
    host.change_endpoint(container, |endpoint| endpoint.flags |= flag)
}

/// Opens a mapping, then tries strangers.
#[test]
fn strangers() -> Result {
    let cases = [
        // (policy, same address another port, another address)
        (0, false, false),
        (flags::FILTER_ADDRESS_DEPENDENT, true, false),
        (flags::FILTER_ENDPOINT_INDEPENDENT, true, true),
    ];
    for (flag, same_address, other_address) in cases {
        with_host(|host| {
            policy(host, &A, flag)?;
            for tcp in [false, true] {
                let frame = |from, to| if tcp { Frame::syn(from, to) } else { Frame::udp(from, to) };
                host.container_sends(&A, &frame((A.address, PORT), (REMOTE, 443)).sent_by(&A))?
                    .took(Path::MasqueradeOut);
                for (from, heard) in [((REMOTE, 444), same_address), ((REMOTE_2, 443), other_address)] {
                    let incoming = frame(from, (HOST, PORT)).by_router();
                    if !heard {
                        host.world_sends(&incoming)?.dropped(DropReason::Filtered);
                        continue;
                    }
                    for _ in 0..2 {
                        let expected = incoming.clone().destination((A.address, PORT)).routed_to(&A).hop();
                        host.world_sends(&incoming)?.redirected(Path::MasqueradeIn, &expected);
                    }
                    let answer = frame((A.address, PORT), from).sent_by(&A);
                    host.container_sends(&A, &answer)?
                        .redirected(Path::MasqueradeOut, &answer.clone().source((HOST, PORT)).hop());
                }
                // A port that nobody has is the host's.
                host.world_sends(&frame((REMOTE, 443), (HOST, PORT + 1)).by_router())?.passed(Path::NotOurs);
            }
            host.age_flows(std::time::Duration::from_secs(8000))?;
            host.age_mappings(std::time::Duration::from_secs(8000))?;
            for _ in 0..3 {
                host.expire()?;
                host.age_mappings(std::time::Duration::from_secs(200))?;
            }
            assert!(host.is_empty()?, "flows, mappings and what was allowed to be heard end together");
            Ok(())
        })?;
    }
    Ok(())
}

/// The container has gone and another has its address: what strangers send to the old one's port is not for it, until it
/// has sent from that port itself.
#[test]
fn strangers_of_a_predecessor() -> Result {
    with_host(|host| {
        policy(host, &A, flags::FILTER_ENDPOINT_INDEPENDENT)?;
        let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        let stranger = Frame::udp((REMOTE_2, 1), (HOST, PORT)).by_router();
        host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
        host.world_sends(&stranger)?.took(Path::MasqueradeIn);
        host.add_container(&Container { epoch: 999, ..A_AGAIN })?;
        policy(host, &A, flags::FILTER_ENDPOINT_INDEPENDENT)?;
        for _ in 0..2 {
            host.world_sends(&stranger)?.dropped(DropReason::Filtered);
        }
        host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
        host.world_sends(&stranger)?.took(Path::MasqueradeIn);
        Ok(())
    })
}

/// Both ends send to the other's external port, as peers do that were told of each other by a third (hole punching).
#[test]
fn hairpin_between_external_ports() -> Result {
    for (flag, first_passes) in [(0, false), (flags::FILTER_ENDPOINT_INDEPENDENT, true)] {
        for (one, other) in [(&A, &B), (&A, &C)] {
            with_host(|host| {
                for container in [one, other] {
                    policy(host, container, flag)?;
                }
                let ports = [(one, PORT), (other, PORT + 1)];
                for (container, port) in ports {
                    host.container_sends(
                        container,
                        &Frame::udp((container.address, port), (REMOTE, 3478)).sent_by(container),
                    )?
                    .took(Path::MasqueradeOut);
                }
                let forth = Frame::udp((one.address, PORT), (HOST, PORT + 1)).sent_by(one);
                let back = Frame::udp((other.address, PORT + 1), (HOST, PORT)).sent_by(other);
                if first_passes {
                    host.container_sends(one, &forth)?.took(Path::HairpinIn);
                } else {
                    host.container_sends(one, &forth)?.dropped(DropReason::Filtered);
                }
                // The other end has sent to it now, so it may answer: seen with the external address (REQ-9a).
                for _ in 0..2 {
                    let expected = Frame::udp((HOST, PORT + 1), (one.address, PORT)).routed_to(one).hop();
                    host.container_sends(other, &back)?.redirected(Path::HairpinIn, &expected);
                    let expected = Frame::udp((HOST, PORT), (other.address, PORT + 1)).routed_to(other).hop();
                    host.container_sends(one, &forth)?.redirected(Path::HairpinIn, &expected);
                }
                assert_eq!(host.expire()?, 0, "such flows stand on no uplink");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Where no port is left for a socket alone, flows to different remote ends share them (RFC 7857 section 3).
#[test]
fn ports_are_shared_when_there_are_no_more() -> Result {
    with_host(|host| {
        host.change_settings(|settings| settings.last_port = settings.first_port)?;
        let mut external = Vec::new();
        for (container, remote) in [(&A, (REMOTE, 443)), (&B, (REMOTE, 444)), (&C, (REMOTE_2, 443))] {
            let frame = Frame::syn((container.address, 30_000), remote).sent_by(container);
            let outcome = host.container_sends(container, &frame)?.on_path(Path::MasqueradeOut);
            external.push(outcome.source_port());
            let expected = frame.source((HOST, external[0])).hop();
            assert_bytes(&outcome.frame, &expected.bytes());
            let answer = Frame::tcp(remote, (HOST, external[0])).by_router();
            let expected = answer.clone().destination((container.address, 30_000)).routed_to(container).hop();
            host.world_sends(&answer)?.redirected(Path::MasqueradeIn, &expected);
        }
        let frame = Frame::syn((B.address, 30_001), (REMOTE, 443)).sent_by(&B);
        assert_eq!(host.container_sends(&B, &frame)?.drop, Some(DropReason::PortsExhausted));
        Ok(())
    })
}

/// A process of the host bound the port after a container's socket had got it: strangers are the process's, the
/// container's flows go on.
#[test]
fn the_hosts_own_sockets_are_reached() -> Result {
    with_host(|host| {
        for tcp in [false, true] {
            let frame = |from, to| if tcp { Frame::syn(from, to) } else { Frame::udp(from, to) };
            host.container_sends(&A, &frame((A.address, PORT), (REMOTE, 443)).sent_by(&A))?
                .took(Path::MasqueradeOut);
            let stranger = frame((REMOTE_2, 1), (HOST, PORT)).by_router();
            let neighbour = frame((C.address, 1), (HOST, PORT)).sent_by(&C);
            host.world_sends(&stranger)?.dropped(DropReason::Filtered);
            host.container_sends(&C, &neighbour)?.dropped(DropReason::Filtered);
            let listener = tcp.then(|| std::net::TcpListener::bind((HOST, PORT))).transpose()?;
            let socket = (!tcp).then(|| std::net::UdpSocket::bind((HOST, PORT))).transpose()?;
            host.world_sends(&stranger)?.passed(Path::NotOurs);
            host.container_sends(&C, &frame((C.address, 2), (HOST, PORT)).sent_by(&C))?.passed(Path::Host);
            host.world_sends(&frame((REMOTE, 443), (HOST, PORT)).by_router())?.took(Path::MasqueradeIn);
            drop((listener, socket));
        }
        Ok(())
    })
}

/// A claim outlives its flows: nobody comes in by it once the network has no outside any more.
#[test]
fn a_claim_lets_nobody_into_an_internal_network() -> Result {
    for set in [flags::INTERNAL, flags::ROUTED] {
        with_host(|host| {
            policy(host, &A, flags::FILTER_ENDPOINT_INDEPENDENT)?;
            let out = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
            host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
            let stranger = |port| Frame::udp((REMOTE_2, port), (HOST, PORT)).by_router();
            host.world_sends(&stranger(1))?.took(Path::MasqueradeIn);
            host.change_endpoint(&A, |endpoint| endpoint.flags |= set)?;
            host.expire()?;
            for port in [1, 2] {
                host.world_sends(&stranger(port))?.dropped(DropReason::Filtered);
            }
            Ok(())
        })?;
    }
    Ok(())
}
