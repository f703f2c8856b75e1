//! Flows whose container has gone, and another has its address: the other must neither get them nor suffer from them.

use dataplane_common::abi::{DropReason, Path};

use crate::{
    Result,
    frames::Frame,
    host::{Host, TCP, UDP, with_host},
    topology::{A, A_AGAIN, B, C, Container, HOST, REMOTE},
};

/// Another container with the address, and the device, of `A`.
const SUCCESSOR: Container = Container { epoch: 200, mac: [0x02, 0x42, 10, 10, 0, 99], ..A_AGAIN };
fn out(container: &Container) -> Frame {
    Frame::udp((container.address, 25_000), (REMOTE, 123)).sent_by(container)
}

fn back() -> Frame {
    Frame::udp((REMOTE, 123), (HOST, 25_000)).by_router()
}

/// Opens a masqueraded flow of `A`, confirms it if asked to, and replaces `A`.
fn replaced(host: &mut Host, confirmed: bool) -> Result {
    host.container_sends(&A, &out(&A))?.took(Path::MasqueradeOut);
    if confirmed {
        host.world_sends(&back())?.took(Path::MasqueradeIn);
    }
    host.add_container(&SUCCESSOR)
}

fn delivered(container: &Container) -> Frame {
    back().destination((container.address, 25_000)).routed_to(container).hop()
}

#[test]
fn a_reply_to_the_predecessor_is_not_delivered() -> Result {
    for confirmed in [false, true] {
        with_host(|host| {
            replaced(host, confirmed)?;
            host.world_sends(&back())?.dropped(DropReason::Filtered);
            assert!(host.confirmed()?.is_empty() && host.unconfirmed()?.is_empty());
            assert_eq!(host.mapping_users(UDP, (A.address, 25_000))?, 0);
            // The successor has a flow of its own.
            host.container_sends(&SUCCESSOR, &out(&SUCCESSOR))?.took(Path::MasqueradeOut);
            host.world_sends(&back())?.redirected(Path::MasqueradeIn, &delivered(&SUCCESSOR));
            assert_eq!(host.mapping_users(UDP, (A.address, 25_000))?, 1);
            Ok(())
        })?;
    }
    Ok(())
}

/// The successor uses the very same ports (NTP, DNS servers, SIP do) before anything else reveals the change.
#[test]
fn the_successor_may_use_the_same_ports() -> Result {
    for confirmed in [false, true] {
        with_host(|host| {
            replaced(host, confirmed)?;
            for _ in 0..3 {
                host.container_sends(&SUCCESSOR, &out(&SUCCESSOR))?
                    .redirected(Path::MasqueradeOut, &out(&SUCCESSOR).source((HOST, 25_000)).hop());
            }
            assert_eq!(host.mapping_users(UDP, (A.address, 25_000))?, 1);
            for _ in 0..3 {
                host.world_sends(&back())?.redirected(Path::MasqueradeIn, &delivered(&SUCCESSOR));
                host.container_sends(&SUCCESSOR, &out(&SUCCESSOR))?.took(Path::MasqueradeOut);
            }
            assert_eq!((host.confirmed()?.len(), host.unconfirmed()?.len()), (1, 0));
            host.expire()?;
            host.world_sends(&back())?.redirected(Path::MasqueradeIn, &delivered(&SUCCESSOR));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_published_port_leads_to_the_successor() -> Result {
    for confirmed in [false, true] {
        with_host(|host| {
            host.publish(TCP, None, 8080, (&A, 80))?;
            let client = (REMOTE, 50_000);
            let request = Frame::syn(client, (HOST, 8080)).by_router();
            let answer = Frame::syn((A.address, 80), client).control(|tcp| tcp.ack = true);
            let ack = Frame::tcp(client, (HOST, 8080)).control(|tcp| tcp.ack = true).by_router();
            host.world_sends(&request)?.took(Path::PortmapIn);
            if confirmed {
                host.container_sends(&A, &answer.clone().sent_by(&A))?.took(Path::PortmapOut);
                host.world_sends(&ack)?.took(Path::PortmapIn);
            }
            // Nobody has the address for a while.
            host.remove_endpoint(&A)?;
            host.world_sends(&request)?.dropped(DropReason::NoEndpoint);
            host.add_container(&SUCCESSOR)?;
            host.publish(TCP, None, 8080, (&SUCCESSOR, 80))?;
            let expected = request.clone().destination((A.address, 80)).routed_to(&SUCCESSOR).hop();
            host.world_sends(&request)?.redirected(Path::PortmapIn, &expected);
            let answer = answer.sent_by(&SUCCESSOR);
            host.container_sends(&SUCCESSOR, &answer)?
                .redirected(Path::PortmapOut, &answer.clone().source((HOST, 8080)).hop());
            host.world_sends(&ack)?.took(Path::PortmapIn);
            assert_eq!((host.confirmed()?.len(), host.ports()?.len()), (1, 1));
            Ok(())
        })?;
    }
    Ok(())
}

/// A published port that leads elsewhere now: established flows stay where they are, new ones go there, and those of a
/// container that has gone are new.
#[test]
fn a_published_port_moves() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        let request = |port| Frame::udp((REMOTE, port), (HOST, 53)).by_router();
        let at = |port, container: &Container| {
            request(port).destination((container.address, 53)).routed_to(container).hop()
        };
        host.world_sends(&request(1))?.redirected(Path::PortmapIn, &at(1, &A));
        host.publish(UDP, None, 53, (&B, 53))?;
        host.world_sends(&request(1))?.redirected(Path::PortmapIn, &at(1, &A));
        host.world_sends(&request(2))?.redirected(Path::PortmapIn, &at(2, &B));
        host.remove_endpoint(&A)?;
        host.world_sends(&request(1))?.redirected(Path::PortmapIn, &at(1, &B));
        Ok(())
    })
}

/// The server of a hairpin flow is replaced.
#[test]
fn a_hairpin_flow_of_the_predecessor() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        let request = Frame::udp((C.address, 4000), (HOST, 53)).sent_by(&C);
        host.container_sends(&C, &request)?.took(Path::HairpinIn);
        host.add_container(&SUCCESSOR)?;
        host.publish(UDP, None, 53, (&SUCCESSOR, 53))?;
        let expected = request.clone().destination((A.address, 53)).routed_to(&SUCCESSOR).hop();
        host.container_sends(&C, &request)?.redirected(Path::HairpinIn, &expected);
        Ok(())
    })
}
