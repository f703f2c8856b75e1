//! Properties over many packets: checksums are right whatever is translated, and no bytes lead out of a program's ways.
//!
//! `WEFT_PACKET_RUNS` sets how many random packets each program gets, `WEFT_PACKET_SEED` where they begin; a failure
//! prints the seed.

use std::{cell::RefCell, env, net::Ipv4Addr};

use dataplane_common::abi::{Path, program};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    Result,
    encapsulation::vxlan_header,
    frames::{Frame, arp, assert_checksums},
    harness::shortest,
    host::{SCTP, TCP, UDP, with_host},
    outcome::{Verdict, assert_bytes},
    topology::{A, B, C, FAR, FAR_MAC, HOST, M, MESH, PEER, REMOTE, ROUTER_MAC, UPLINK, VXLAN_PORT},
};

const CASES: u32 = 400;
/// For each of the four tc programs.
const RUNS: u64 = 50_000;

/// Out through masquerade and back: each packet is exactly what etherparse makes of the translated addresses, so every
/// checksum is right and the payload untouched.
#[test]
fn masquerade_and_back() -> Result {
    // Any address outside that is no neighbour of the host, nor a special one.
    let remote = (1_u8..=9, any::<u8>(), any::<u8>(), 1_u8..=254);
    let payload = prop::collection::vec(any::<u8>(), 0..1400);
    let strategy = (0_u8..5, 1_u16.., 1_u16.., remote, payload.clone(), payload, 2_u8.., any::<u16>());
    with_host(|host| {
        // Each case is a socket of its own: the pool is as large as can be, and ports are kept where they are free.
        host.change_settings(|settings| (settings.first_port, settings.last_port) = (1, u16::MAX))?;
        let host = RefCell::new(host);
        let mut runner =
            TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let outcome =
            runner.run(&strategy, |(kind, port, remote_port, (a, b, c, d), there, back, ttl, id)| {
                let host = &mut *host.borrow_mut();
                let (inside, remote) = ((A.address, port), (Ipv4Addr::new(a, b, c, d), remote_port));
                let (request, reply) = match kind {
                    0 => (Frame::tcp(inside, remote), Frame::tcp(remote, inside)),
                    1 => (Frame::udp(inside, remote), Frame::udp(remote, inside)),
                    2 => (
                        Frame::udp(inside, remote).without_checksum(),
                        Frame::udp(remote, inside).without_checksum(),
                    ),
                    4 => (Frame::sctp(inside, remote), Frame::sctp(remote, inside)),
                    _ => (
                        Frame::echo_request(inside.0, remote.0, port),
                        Frame::echo_reply(remote.0, inside.0, port),
                    ),
                };
                let mut request = request.payload(&there).ttl(ttl).sent_by(&A);
                request.ip.identification = id;
                let failed =
                    |error: Box<dyn std::error::Error + Send + Sync>| TestCaseError::fail(error.to_string());
                let outcome =
                    host.container_sends(&A, &request).map_err(failed)?.on_path(Path::MasqueradeOut);
                assert_checksums(&outcome.frame);
                let external = match kind {
                    3 => u16::from_be_bytes([outcome.frame[38], outcome.frame[39]]),
                    _ => outcome.source_port(),
                };
                assert_bytes(&outcome.frame, &request.source((HOST, external)).hop().bytes());

                let reply = reply.payload(&back).ttl(ttl);
                let expected = reply.clone().routed_to(&A).hop();
                let arriving = reply.destination((HOST, external)).by_router();
                let outcome = host.world_sends(&arriving).map_err(failed)?.on_path(Path::MasqueradeIn);
                assert_checksums(&outcome.frame);
                assert_bytes(&outcome.frame, &expected.bytes());
                Ok(())
            });
        outcome.map_err(|error| error.to_string().into())
    })
}

/// splitmix64 (Steele, Lea, Flood 2014): reproducible by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// A frame that is nearly one of these, or nothing but noise.
fn noise(random: &mut Random, frames: &[Vec<u8>]) -> Vec<u8> {
    if random.below(8) == 0 {
        let length = 14 + random.below(150);
        let mut frame = random.bytes(length);
        frame.resize(length.max(shortest(&frame)), 0);
        return frame;
    }
    let mut frame = frames[random.below(frames.len())].clone();
    for _ in 0..random.below(5) {
        // Headers, mostly.
        let at = random.below(frame.len().min(100));
        frame[at] = random.next() as u8;
    }
    match random.below(4) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => {
            let count = random.below(40);
            frame.extend(random.bytes(count));
        }
        _ => {}
    }
    frame.resize(frame.len().max(shortest(&frame)), 0);
    frame
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text} is no number").into()),
        Err(_) => Ok(default),
    }
}

fn vxlan(inner: &Frame) -> Vec<u8> {
    let payload = [vxlan_header(MESH.vni).as_slice(), &inner.bytes()].concat();
    Frame::udp((PEER, 50_000), (HOST, VXLAN_PORT)).payload(&payload).by_router().bytes()
}

/// Checksum of the IPv4 header of a frame, summed up with the header: 0 if it is right.
fn header_sum(frame: &[u8]) -> Option<u16> {
    let header = frame.get(14..14 + usize::from(frame.get(14)? & 0x0f) * 4)?;
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    Some(!((sum & 0xffff) + (sum >> 16)) as u16)
}

#[test]
fn no_bytes_lead_astray() -> Result {
    let runs = number("WEFT_PACKET_RUNS", RUNS)?;
    let seed = number("WEFT_PACKET_SEED", u64::from(std::process::id()))?;
    println!("WEFT_PACKET_SEED={seed}");
    let (a, m) = ((A.address, 25_000), (M.address, 4000));
    let from_container = [
        Frame::syn(a, (REMOTE, 443)).sent_by(&A).bytes(),
        Frame::udp(a, (REMOTE, 443)).options(&[1; 12]).sent_by(&A).bytes(),
        Frame::echo_request(a.0, REMOTE, 1).sent_by(&A).bytes(),
        Frame::udp(a, (B.address, 53)).macs(A.mac, B.mac).bytes(),
        Frame::udp(a, (HOST, 53)).sent_by(&A).bytes(),
        Frame::tcp(a, (HOST, 80)).sent_by(&A).bytes(),
        Frame::sctp(a, (HOST, 80)).sent_by(&A).bytes(),
        arp(A.mac, A.mac, A.address, B.address),
    ];
    let from_uplink = [
        Frame::syn((REMOTE, 1), (HOST, 80)).by_router().bytes(),
        Frame::udp((REMOTE, 1), (HOST, 53)).options(&[1; 12]).by_router().bytes(),
        Frame::udp((REMOTE, 443), (HOST, 25_000)).by_router().bytes(),
        Frame::echo_reply(REMOTE, HOST, 1).by_router().bytes(),
        Frame::sctp((REMOTE, 1), (HOST, 38_412)).by_router().bytes(),
        vxlan(&Frame::udp((FAR, 1), m).macs(FAR_MAC, M.mac)),
        vxlan(&Frame::tcp((FAR, 1), m).options(&[1; 8]).macs(FAR_MAC, M.mac)),
        arp(ROUTER_MAC, ROUTER_MAC, REMOTE, HOST),
    ];
    let programs = [
        (program::FROM_CONTAINER, A.device, &from_container[..]),
        (program::TO_CONTAINER, A.device, &from_container[..]),
        (program::FROM_UPLINK, UPLINK, &from_uplink[..]),
        (program::TO_UPLINK, UPLINK, &from_uplink[..]),
    ];
    with_host(|host| {
        host.publish(UDP, None, 53, (&C, 53))?;
        host.publish(TCP, None, 80, (&B, 80))?;
        host.publish(SCTP, None, 38_412, (&B, 80))?;
        for frame in &from_container {
            let _ = host.container_sends_bytes(&A, frame)?;
        }
        let mut random = Random(seed);
        let mut redirected = 0;
        for (name, device, frames) in programs {
            for run in 0..runs {
                let frame = noise(&mut random, frames);
                // The harness fails on an unknown verdict, and on one that does not fit the counter that moved.
                let outcome = host.programs.run(name, &frame, device)?.outcome()?;
                match outcome.verdict {
                    Verdict::Redirect => {
                        redirected += 1;
                        let decapsulated = outcome.path == Some(Path::Decapsulate);
                        if !decapsulated && header_sum(&outcome.input) == Some(0) {
                            let sum = header_sum(&outcome.frame);
                            assert_eq!(sum, Some(0), "{name}, run {run}, seed {seed}: {frame:02x?}");
                        }
                    }
                    _ => assert!(outcome.frame == frame, "{name}, run {run}, seed {seed}: {frame:02x?}"),
                }
            }
        }
        println!("{} packets, {redirected} redirected", 4 * runs);
        assert!(redirected > runs / 50, "the noise does not get anywhere: {redirected} redirected");
        Ok(())
    })
}
