//! expire_flows: what goes when, and what goes with it. Records are made older instead of waiting.

use std::time::Duration;

use dataplane_common::abi::{DropReason, Path, map};

use crate::{
    Result,
    frames::Frame,
    host::{Host, TCP, UDP, with_host, with_sizes},
    topology::{A, A_AGAIN, B, C, Container, HOST, HOST_2, REMOTE, REMOTE_2},
};

const PORT: u16 = 25_000;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

type Steps = fn(&mut Host) -> Result;

fn udp(host: &mut Host) -> Result {
    host.container_sends(&A, &Frame::udp((A.address, PORT), (REMOTE, 53)).sent_by(&A))?
        .took(Path::MasqueradeOut);
    Ok(())
}

fn answered_udp(host: &mut Host) -> Result {
    udp(host)?;
    host.world_sends(&Frame::udp((REMOTE, 53), (HOST, PORT)).by_router())?.took(Path::MasqueradeIn);
    Ok(())
}

fn query(host: &mut Host) -> Result {
    host.container_sends(&A, &Frame::echo_request(A.address, REMOTE, 3).sent_by(&A))?
        .took(Path::MasqueradeOut);
    host.world_sends(&Frame::echo_reply(REMOTE, HOST, 3).by_router())?.took(Path::MasqueradeIn);
    Ok(())
}

/// A TCP segment out (`true`) or in, with these control bits.
fn segment(host: &mut Host, out: bool, control: fn(&mut etherparse::TcpHeader)) -> Result {
    let (a, remote) = ((A.address, PORT), (REMOTE, 443));
    if out {
        host.container_sends(&A, &Frame::tcp(a, remote).control(control).sent_by(&A))?
            .took(Path::MasqueradeOut);
    } else {
        let frame = Frame::tcp(remote, (HOST, PORT)).control(control).by_router();
        host.world_sends(&frame)?.took(Path::MasqueradeIn);
    }
    Ok(())
}

fn opening(host: &mut Host) -> Result {
    segment(host, true, |tcp| tcp.syn = true)
}

fn established(host: &mut Host) -> Result {
    opening(host)?;
    segment(host, false, |tcp| (tcp.syn, tcp.ack) = (true, true))?;
    segment(host, true, |tcp| tcp.ack = true)
}

fn half_closed(host: &mut Host) -> Result {
    established(host)?;
    segment(host, true, |tcp| (tcp.fin, tcp.ack) = (true, true))
}

fn closed(host: &mut Host) -> Result {
    half_closed(host)?;
    segment(host, false, |tcp| (tcp.fin, tcp.ack) = (true, true))
}

fn reset(host: &mut Host) -> Result {
    established(host)?;
    segment(host, false, |tcp| (tcp.rst, tcp.ack) = (true, true))
}

fn reopened(host: &mut Host) -> Result {
    closed(host)?;
    established(host)
}

/// RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2.
#[test]
fn every_protocol_and_state_has_its_timeout() -> Result {
    let cases: [(&str, Steps, u64); 10] = [
        ("udp", udp, 300),
        ("answered udp", answered_udp, 300),
        ("query", query, 60),
        ("opening", opening, 230),
        ("established", established, 7440),
        ("half closed", half_closed, 7440),
        ("closed", closed, 240),
        ("reset", reset, 240),
        ("reopened", reopened, 7440),
        ("hairpin and published", published, 300),
    ];
    for (name, steps, timeout) in cases {
        with_host(|host| {
            steps(host)?;
            let flows = host.confirmed()?.len() + host.unconfirmed()?.len();
            assert!(flows > 0);
            assert_eq!(host.expire()?, 0, "{name}: at once");
            // Never may one go too soon. The test itself may take some seconds where the machine does much else.
            const MARGIN: u64 = 5;
            host.age_flows(seconds(timeout - MARGIN))?;
            assert_eq!(host.expire()?, 0, "{name}: early");
            assert_eq!(host.confirmed()?.len() + host.unconfirmed()?.len(), flows, "{name}: early");
            // The times in the records are up to a second old.
            host.age_flows(seconds(MARGIN + 1))?;
            assert_eq!(host.expire()? as usize, flows, "{name}: in time");
            assert!(host.confirmed()?.is_empty() && host.unconfirmed()?.is_empty(), "{name}: in time");
            Ok(())
        })?;
    }
    Ok(())
}

fn published(host: &mut Host) -> Result {
    host.publish(UDP, None, 53, (&C, 53))?;
    host.world_sends(&Frame::udp((REMOTE, 9), (HOST, 53)).by_router())?.took(Path::PortmapIn);
    host.container_sends(&A, &Frame::udp((A.address, 9), (HOST, 53)).sent_by(&A))?.took(Path::HairpinIn);
    host.container_sends(&C, &Frame::udp((C.address, 53), (A.address, 9)).sent_by(&C))?
        .took(Path::HairpinOut);
    Ok(())
}

/// A packet of either end keeps a flow alive.
#[test]
fn use_keeps_alive() -> Result {
    with_host(|host| {
        answered_udp(host)?;
        for _ in 0..3 {
            host.age_flows(seconds(200))?;
            host.world_sends(&Frame::udp((REMOTE, 53), (HOST, PORT)).by_router())?.took(Path::MasqueradeIn);
            host.age_flows(seconds(200))?;
            udp(host)?;
            assert_eq!(host.expire()?, 0);
        }
        Ok(())
    })
}

/// RFC 6888 REQ-8: the port stays with its socket for a while after its last flow.
#[test]
fn the_claim_is_held() -> Result {
    with_host(|host| {
        udp(host)?;
        host.age_mappings(seconds(1000))?;
        assert_eq!(host.expire()?, 0, "a flow uses it");
        host.age_flows(seconds(302))?;
        assert_eq!(host.expire()?, 1);
        assert_eq!((host.ports()?.len(), host.mapping_users(UDP, (A.address, PORT))?), (1, 0));
        // Nobody else gets it meanwhile; its socket does.
        let other = Frame::udp((B.address, PORT), (REMOTE, 53)).sent_by(&B);
        assert_ne!(host.container_sends(&B, &other)?.on_path(Path::MasqueradeOut).source_port(), PORT);
        host.age_mappings(seconds(119))?;
        assert_eq!(host.expire()?, 0);
        udp(host)?;
        assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1);
        // Everything goes in the end.
        host.age_flows(seconds(302))?;
        assert_eq!(host.expire()?, 2);
        host.age_mappings(seconds(120))?;
        assert_eq!(host.expire()?, 2);
        assert!(host.is_empty()?);
        Ok(())
    })
}

/// But not where it takes the room of a new one.
#[test]
fn a_full_table_ends_the_hold() -> Result {
    with_sizes(&[(map::MAPPINGS, 2)], |host| {
        for port in [PORT, PORT + 1] {
            let frame = Frame::udp((A.address, port), (REMOTE, 53)).sent_by(&A);
            host.container_sends(&A, &frame)?.took(Path::MasqueradeOut);
        }
        let new = Frame::udp((B.address, PORT), (REMOTE, 53)).sent_by(&B);
        assert_eq!(host.expire_held_ports()?, 0, "a flow uses each");
        assert_eq!(host.container_sends(&B, &new)?.drop, Some(DropReason::FlowTableFull));
        host.age_flows(seconds(302))?;
        assert_eq!(host.expire()?, 2);
        assert_eq!(host.container_sends(&B, &new)?.drop, Some(DropReason::FlowTableFull));
        assert_eq!(host.expire_held_ports()?, 2);
        host.container_sends(&B, &new)?.took(Path::MasqueradeOut);
        Ok(())
    })
}

#[test]
fn a_mapping_counts_its_flows() -> Result {
    with_host(|host| {
        let to = |remote| Frame::udp((A.address, PORT), remote).sent_by(&A);
        for (remote, users) in [((REMOTE, 1), 1), ((REMOTE, 1), 1), ((REMOTE, 2), 2), ((REMOTE_2, 1), 3)] {
            host.container_sends(&A, &to(remote))?.took(Path::MasqueradeOut);
            assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, users);
        }
        host.age_flows(seconds(200))?;
        host.container_sends(&A, &to((REMOTE, 2)))?.took(Path::MasqueradeOut);
        host.age_flows(seconds(150))?;
        assert_eq!(host.expire()?, 2);
        assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1);
        Ok(())
    })
}

/// Records that the table of unconfirmed flows has lost, used again before the index is cleaned or not.
#[test]
fn evictions_leak_nothing() -> Result {
    for again in [false, true] {
        with_host(|host| {
            for round in 0..3 {
                udp(host)?;
                host.evict_unconfirmed()?;
                if again {
                    udp(host)?;
                    assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1, "round {round}");
                    // Its answer finds it.
                    let back = Frame::udp((REMOTE, 53), (HOST, PORT)).by_router();
                    host.world_sends(&back)?.took(Path::MasqueradeIn);
                    host.age_flows(seconds(302))?;
                }
                assert_eq!(host.expire()?, 1, "round {round}");
                assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 0, "round {round}");
            }
            host.age_mappings(seconds(121))?;
            host.expire()?;
            assert!(host.is_empty()?);
            Ok(())
        })?;
    }
    Ok(())
}

/// The same under real pressure: many more half-open flows than the table holds, many times.
#[test]
fn pressure_leaks_nothing() -> Result {
    with_sizes(&[(map::UNCONFIRMED, 256)], |host| {
        for _ in 0..3 {
            for port in 0..2000 {
                let frame = Frame::udp((A.address, PORT + port % 50), (REMOTE, 1000 + port)).sent_by(&A);
                host.container_sends(&A, &frame)?.took(Path::MasqueradeOut);
            }
            assert!(host.unconfirmed()?.len() <= 256);
        }
        // An established flow was never in danger.
        answered_udp(host)?;
        for port in 0..2000 {
            let frame = Frame::udp((B.address, PORT + 100), (REMOTE, 1000 + port)).sent_by(&B);
            host.container_sends(&B, &frame)?.took(Path::MasqueradeOut);
        }
        assert_eq!(host.confirmed()?.len(), 1);
        host.age_flows(seconds(302))?;
        host.expire()?;
        assert!(host.confirmed()?.is_empty() && host.unconfirmed()?.is_empty());
        let used: Vec<_> = host.mappings()?.into_values().filter(|mapping| mapping.flows != 0).collect();
        assert!(used.is_empty(), "{used:?}");
        host.age_mappings(seconds(121))?;
        host.expire()?;
        assert!(host.is_empty()?);
        Ok(())
    })
}

/// A flow does not outlive what it stands on.
#[test]
fn orphans_go_at_once() -> Result {
    let cases: [(&str, Steps, Steps); 8] = [
        ("the container has gone", answered_udp, |host| host.remove_endpoint(&A)),
        ("so it has, unconfirmed", udp, |host| host.remove_endpoint(&A)),
        ("another has its address", answered_udp, |host| {
            host.add_container(&Container { epoch: 300, ..A_AGAIN })
        }),
        ("the host's address has gone", answered_udp, |host| host.remove_address(HOST)),
        ("the publication has gone", portmap, |host| host.unpublish(UDP, None, 53)),
        ("it leads to another container", portmap, |host| host.publish(UDP, None, 53, (&B, 53))),
        ("it leads to another port", portmap, |host| host.publish(UDP, None, 53, (&C, 54))),
        ("the published address has gone", portmap, |host| host.remove_address(HOST)),
    ];
    for (name, steps, change) in cases {
        with_host(|host| {
            steps(host)?;
            assert_eq!(host.expire()?, 0, "{name}");
            change(host)?;
            assert_eq!(host.expire()?, 1, "{name}");
            assert!(host.confirmed()?.is_empty() && host.unconfirmed()?.is_empty(), "{name}");
            assert!(host.mappings()?.into_values().all(|mapping| mapping.flows == 0), "{name}");
            Ok(())
        })?;
    }
    Ok(())
}

fn portmap(host: &mut Host) -> Result {
    host.publish(UDP, None, 53, (&C, 53))?;
    host.world_sends(&Frame::udp((REMOTE, 9), (HOST, 53)).by_router())?.took(Path::PortmapIn);
    Ok(())
}

/// Changes that are none of a flow's business leave it alone.
#[test]
fn unrelated_changes_harm_no_flow() -> Result {
    with_host(|host| {
        answered_udp(host)?;
        established(host)?;
        portmap(host)?;
        host.remove_endpoint(&B)?;
        host.remove_address(HOST_2)?;
        host.publish(TCP, None, 53, (&A, 53))?;
        host.publish(UDP, None, 54, (&A, 53))?;
        host.unpublish(UDP, None, 54)?;
        // The same again, as the controller may write it.
        host.add_container(&A)?;
        host.publish(UDP, None, 53, (&C, 53))?;
        assert_eq!(host.expire()?, 0);
        assert_eq!(host.confirmed()?.len() + host.unconfirmed()?.len(), 3);
        Ok(())
    })
}

/// An expired flow is new when it speaks again: TCP may go on without a SYN, an RST may not begin.
#[test]
fn after_expiry() -> Result {
    with_host(|host| {
        established(host)?;
        host.age_flows(seconds(7442))?;
        assert_eq!(host.expire()?, 1);
        host.world_sends(&Frame::tcp((REMOTE, 443), (HOST, PORT)).by_router())?.dropped(DropReason::Filtered);
        let reset = Frame::tcp((A.address, PORT), (REMOTE, 443)).control(|tcp| tcp.rst = true).sent_by(&A);
        host.container_sends(&A, &reset)?.dropped(DropReason::NoFlow);
        segment(host, true, |tcp| tcp.ack = true)?;
        segment(host, false, |tcp| tcp.ack = true)
    })
}

/// Port 0 is a port like any other on the wire: flows with it end, and give back what they have taken.
#[test]
fn flows_with_port_zero_end() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.world_sends(&Frame::udp((REMOTE, 0), (HOST, 53)).by_router())?.took(Path::PortmapIn);
        host.container_sends(&C, &Frame::udp((C.address, 53), (REMOTE, 0)).sent_by(&C))?
            .took(Path::PortmapOut);
        host.container_sends(&A, &Frame::udp((A.address, PORT), (REMOTE, 0)).sent_by(&A))?
            .took(Path::MasqueradeOut);
        assert_eq!(host.expire()?, 0, "both are young");
        host.age_flows(seconds(8000))?;
        host.age_mappings(seconds(8000))?;
        for _ in 0..3 {
            host.expire()?;
            host.age_mappings(seconds(200))?;
        }
        assert!(host.is_empty()?);
        Ok(())
    })
}
