//! Which external port a masqueraded flow gets.

use std::{collections::HashSet, time::Duration};

use dataplane_common::abi::{DropReason, Mapping, MappingKey, Path, PortSet, map};

use crate::{
    Result,
    frames::Frame,
    host::{Host, ICMP, TCP, UDP, with_host, with_sizes},
    outcome::assert_bytes,
    topology::{A, A_AGAIN, B, Container, FIRST_PORT, FRONT, HOST, LAST_PORT, REMOTE, REMOTE_2},
};

/// Opens a UDP flow and answers its external port.
fn external_port(
    host: &mut Host,
    container: &Container,
    port: u16,
    remote: (std::net::Ipv4Addr, u16),
) -> Result<u16> {
    let frame = Frame::udp((container.address, port), remote).sent_by(container);
    let outcome = host.container_sends(container, &frame)?.on_path(Path::MasqueradeOut);
    let external = outcome.source_port();
    assert_bytes(&outcome.frame, &frame.source((HOST, external)).hop().bytes());
    Ok(external)
}

#[test]
fn a_port_of_the_pool_is_kept() -> Result {
    with_host(|host| {
        for port in [FIRST_PORT, 25_000, LAST_PORT] {
            assert_eq!(external_port(host, &A, port, (REMOTE, 53))?, port);
        }
        for port in [1, FIRST_PORT - 1, LAST_PORT + 1, 65_535] {
            let external = external_port(host, &A, port, (REMOTE, 53))?;
            assert!((FIRST_PORT..=LAST_PORT).contains(&external), "{port} became {external}");
        }
        Ok(())
    })
}

/// RFC 4787 REQ-1, RFC 5382 REQ-1: one external port for a socket, whatever it talks to.
#[test]
fn the_mapping_does_not_depend_on_the_remote_end() -> Result {
    with_host(|host| {
        let external = external_port(host, &A, 50_000, (REMOTE, 53))?;
        for remote in [(REMOTE, 54), (REMOTE_2, 53), (REMOTE_2, 3478)] {
            assert_eq!(external_port(host, &A, 50_000, remote)?, external);
            let back = Frame::udp(remote, (HOST, external)).by_router();
            let expected = Frame::udp(remote, (A.address, 50_000)).routed_to(&A).hop();
            host.world_sends(&back)?.redirected(Path::MasqueradeIn, &expected);
        }
        assert_eq!(host.mapping_users(UDP, (A.address, 50_000))?, 4);
        Ok(())
    })
}

#[test]
fn a_port_belongs_to_one_socket() -> Result {
    with_host(|host| {
        // Even where the remote ends differ.
        assert_eq!(external_port(host, &A, 25_000, (REMOTE, 53))?, 25_000);
        let other = external_port(host, &B, 25_000, (REMOTE_2, 53))?;
        assert_ne!(other, 25_000);
        assert_eq!(external_port(host, &B, 25_000, (REMOTE, 53))?, other);
        // TCP has ports of its own.
        let syn = Frame::syn((B.address, 25_000), (REMOTE, 443)).sent_by(&B);
        host.container_sends(&B, &syn)?
            .redirected(Path::MasqueradeOut, &syn.clone().source((HOST, 25_000)).hop());
        assert_eq!(host.mapping_users(TCP, (B.address, 25_000))?, 1);
        Ok(())
    })
}

#[test]
fn identifiers_of_queries_are_mapped_alike() -> Result {
    with_host(|host| {
        let ping =
            |container: &Container| Frame::echo_request(container.address, REMOTE, 7).sent_by(container);
        host.container_sends(&A, &ping(&A))?
            .redirected(Path::MasqueradeOut, &ping(&A).source((HOST, 7)).hop());
        let outcome = host.container_sends(&B, &ping(&B))?.on_path(Path::MasqueradeOut);
        let id = u16::from_be_bytes([outcome.frame[38], outcome.frame[39]]);
        assert_ne!(id, 7);
        assert_bytes(&outcome.frame, &ping(&B).source((HOST, id)).hop().bytes());
        let reply = Frame::echo_reply(REMOTE, HOST, id).by_router();
        let expected = Frame::echo_reply(REMOTE, B.address, 7).routed_to(&B).hop();
        host.world_sends(&reply)?.redirected(Path::MasqueradeIn, &expected);
        assert_eq!(host.mapping_users(ICMP, (B.address, 7))?, 1);
        Ok(())
    })
}

#[test]
fn reserved_ports_are_never_chosen() -> Result {
    with_host(|host| {
        // A pool of 64 ports of which all but four are reserved; tries are random, so some sockets find none.
        host.change_settings(|settings| settings.last_port = FIRST_PORT + 63)?;
        host.reserve(PortSet::RESERVED_UDP, FIRST_PORT..FIRST_PORT + 60)?;
        let free: HashSet<u16> = (FIRST_PORT + 60..FIRST_PORT + 64).collect();
        let mut got = HashSet::new();
        for port in FIRST_PORT..FIRST_PORT + 60 {
            let frame = Frame::udp((A.address, port), (REMOTE, 53)).sent_by(&A);
            let outcome = host.container_sends(&A, &frame)?;
            if outcome.path.is_none() {
                assert_eq!(outcome.drop, Some(DropReason::PortsExhausted));
            } else {
                assert!(got.insert(outcome.source_port()), "two sockets with one port");
            }
        }
        assert!(got.is_subset(&free), "{got:?} are not all free");
        assert_eq!(got, free, "nearly two thousand tries miss a port of 64 once in 10^11 runs");
        // Only UDP's.
        let syn = Frame::syn((A.address, FIRST_PORT), (REMOTE, 443)).sent_by(&A);
        host.container_sends(&A, &syn)?
            .redirected(Path::MasqueradeOut, &syn.clone().source((HOST, FIRST_PORT)).hop());
        host.reserve(PortSet::RESERVED_TCP, [FIRST_PORT + 1])?;
        let syn = Frame::syn((A.address, FIRST_PORT + 1), (REMOTE, 443)).sent_by(&A);
        assert_ne!(
            host.container_sends(&A, &syn)?.on_path(Path::MasqueradeOut).source_port(),
            FIRST_PORT + 1
        );
        Ok(())
    })
}

/// New flows are refused, established ones go on.
#[test]
fn an_empty_pool_harms_nobody_who_has_a_port() -> Result {
    with_host(|host| {
        host.change_settings(|settings| settings.last_port = settings.first_port)?;
        assert_eq!(external_port(host, &A, 40_000, (REMOTE, 53))?, FIRST_PORT);
        for container in [&A, &B] {
            let frame = Frame::udp((container.address, 40_001), (REMOTE, 53)).sent_by(container);
            host.container_sends(container, &frame)?.refused(
                DropReason::PortsExhausted,
                (3, 13, 0),
                FRONT.gateway,
            );
        }
        assert_eq!(external_port(host, &A, 40_000, (REMOTE, 53))?, FIRST_PORT);
        assert_eq!(external_port(host, &A, 40_000, (REMOTE_2, 53))?, FIRST_PORT);
        assert_eq!((host.unconfirmed()?.len(), host.mappings()?.len(), host.ports()?.len()), (2, 1, 3));
        Ok(())
    })
}

/// A socket that has shared another's port gets the same one for itself: the flow from before was never counted with it, and
/// takes nothing from it when it ends, whether by the timeout or because its container has gone.
#[test]
fn the_end_of_a_flow_that_shares_its_port_releases_nothing() -> Result {
    const PORT: u16 = FIRST_PORT;
    let past = |host: &mut Host| {
        host.age_flows(Duration::from_secs(302))?;
        host.age_mappings(Duration::from_secs(121))
    };
    let shared = |host: &mut Host| -> Result {
        host.change_settings(|settings| settings.last_port = settings.first_port)?;
        assert_eq!(external_port(host, &B, 40_000, (REMOTE, 53))?, PORT);
        assert_eq!(external_port(host, &A, PORT, (REMOTE_2, 53))?, PORT);
        assert_eq!((host.mappings()?.len(), host.ports()?.len()), (1, 3), "one mapping, B's");
        // B's flow and then its claim end; A's goes on.
        for _ in 0..2 {
            past(host)?;
            assert_eq!(external_port(host, &A, PORT, (REMOTE_2, 53))?, PORT);
            assert_eq!(host.expire()?, 1);
        }
        assert_eq!((host.mappings()?.len(), host.ports()?.len()), (0, 1));
        Ok(())
    };
    with_host(|host| {
        shared(host)?;
        assert_eq!(external_port(host, &A, PORT, (REMOTE, 53))?, PORT);
        assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1, "it is counted");
        past(host)?;
        assert_eq!(external_port(host, &A, PORT, (REMOTE, 53))?, PORT);
        assert_eq!(host.expire()?, 1, "the flow from before");
        assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1, "it still is");
        Ok(())
    })?;
    // The same where the record was evicted, and where it was evicted and the flow went on.
    for goes_on in [false, true] {
        with_host(|host| {
            shared(host)?;
            assert_eq!(external_port(host, &A, PORT, (REMOTE, 53))?, PORT);
            host.evict_unconfirmed()?;
            assert_eq!(external_port(host, &A, PORT, (REMOTE, 53))?, PORT);
            if goes_on {
                assert_eq!(external_port(host, &A, PORT, (REMOTE_2, 53))?, PORT);
                assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 2, "now it is counted as well");
                past(host)?;
                assert_eq!(external_port(host, &A, PORT, (REMOTE, 53))?, PORT);
            }
            assert_eq!(host.expire()?, 1, "the flow from before");
            assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1, "the other is still counted");
            Ok(())
        })?;
    }
    with_host(|host| {
        shared(host)?;
        host.add_container(&Container { epoch: 999, ..A_AGAIN })?;
        assert_eq!(external_port(host, &A, PORT, (REMOTE, 53))?, PORT);
        let late = Frame::udp((REMOTE_2, 53), (HOST, PORT)).by_router();
        host.world_sends(&late)?.dropped(DropReason::Filtered);
        assert_eq!(host.mapping_users(UDP, (A.address, PORT))?, 1, "the successor's own");
        Ok(())
    })
}

#[test]
fn full_tables_refuse_new_flows_only() -> Result {
    // In the second case there is room for a claim and one flow, in the third for claim and flow of one more socket.
    for (table, size, flows) in [(map::MAPPINGS, 1, 2), (map::PORTS, 2, 1), (map::PORTS, 4, 3)] {
        with_sizes(&[(table, size)], |host| {
            assert_eq!(external_port(host, &A, 25_000, (REMOTE, 53))?, 25_000);
            let mut opened = 1;
            for remote in [(REMOTE, 54), (REMOTE, 55), (REMOTE, 56)] {
                let frame = Frame::udp((A.address, 25_000), remote).sent_by(&A);
                let outcome = host.container_sends(&A, &frame)?;
                match outcome.path {
                    Some(_) => opened += 1,
                    None => outcome.refused(DropReason::FlowTableFull, (3, 13, 0), FRONT.gateway),
                }
                if opened == flows {
                    break;
                }
            }
            assert_eq!(opened, flows, "{table} of {size}");
            let frame = Frame::udp((B.address, 26_000), (REMOTE, 53)).sent_by(&B);
            let outcome = host.container_sends(&B, &frame)?;
            assert_eq!(outcome.path, None, "{table} of {size}");
            assert!(matches!(outcome.drop, Some(DropReason::FlowTableFull | DropReason::PortsExhausted)));
            assert_eq!(external_port(host, &A, 25_000, (REMOTE, 53))?, 25_000);
            assert_eq!(host.mapping_users(UDP, (A.address, 25_000))?, flows);
            assert_eq!(host.unconfirmed()?.len(), flows as usize);
            Ok(())
        })?;
    }
    Ok(())
}

/// A socket of the host that was bound after the controller last looked keeps its port.
#[test]
fn a_port_of_a_process_is_left_to_it() -> Result {
    with_host(|host| {
        let process = std::net::UdpSocket::bind((HOST, 25_000))?;
        assert_ne!(external_port(host, &A, 25_000, (REMOTE, 53))?, 25_000);
        // Another protocol has ports of its own.
        let syn = Frame::syn((A.address, 25_000), (REMOTE, 443)).sent_by(&A);
        host.container_sends(&A, &syn)?
            .redirected(Path::MasqueradeOut, &syn.clone().source((HOST, 25_000)).hop());
        drop(process);
        assert_eq!(external_port(host, &B, 25_000, (REMOTE, 53))?, 25_000);
        Ok(())
    })
}

/// An index entry that was left behind by a mapping that has gone is not counted out of the one that came after it.
#[test]
fn only_its_own_flows_are_taken_out_of_a_mapping() -> Result {
    with_host(|host| {
        let external = external_port(host, &A, 25_000, (REMOTE, 53))?;
        let mut mappings = host.programs.hash::<MappingKey, Mapping>(map::MAPPINGS)?;
        let (key, mapping) = mappings.iter().next().ok_or("no mapping")??;
        // The next mapping of the same socket, with another port and a flow of its own.
        mappings.insert(key, Mapping { port: external + 1, flows: 1, ..mapping }, 0)?;
        host.age_flows(Duration::from_secs(1000))?;
        host.expire()?;
        assert!(host.unconfirmed()?.is_empty());
        assert_eq!(host.mapping_users(UDP, (A.address, 25_000))?, 1);
        Ok(())
    })
}

/// A flow goes from the table of the unconfirmed to the other when its second end is heard, and stays there.
#[test]
fn an_answer_confirms() -> Result {
    with_host(|host| {
        let out = Frame::udp((A.address, 25_000), (REMOTE, 53)).sent_by(&A);
        let back = Frame::udp((REMOTE, 53), (HOST, 25_000)).by_router();
        for _ in 0..3 {
            host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
            assert_eq!((host.unconfirmed()?.len(), host.confirmed()?.len()), (1, 0));
        }
        for _ in 0..2 {
            host.world_sends(&back)?.took(Path::MasqueradeIn);
            host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
            assert_eq!((host.unconfirmed()?.len(), host.confirmed()?.len()), (0, 1));
        }
        Ok(())
    })
}

/// Where the table of confirmed flows is full, a flow works on unconfirmed.
#[test]
fn a_full_table_of_confirmed_flows_harms_nobody() -> Result {
    with_sizes(&[(map::FLOWS, 1)], |host| {
        for port in [25_000, 25_001] {
            for _ in 0..3 {
                let out = Frame::udp((A.address, port), (REMOTE, 53)).sent_by(&A);
                host.container_sends(&A, &out)?
                    .redirected(Path::MasqueradeOut, &out.clone().source((HOST, port)).hop());
                let back = Frame::udp((REMOTE, 53), (HOST, port)).by_router();
                let expected = Frame::udp((REMOTE, 53), (A.address, port)).routed_to(&A).hop();
                host.world_sends(&back)?.redirected(Path::MasqueradeIn, &expected);
            }
        }
        assert_eq!((host.unconfirmed()?.len(), host.confirmed()?.len()), (1, 1));
        Ok(())
    })
}
