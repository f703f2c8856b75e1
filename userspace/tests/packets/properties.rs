//! Properties over many packets of one flow: checksums are right whatever is translated. See `ipv6::properties` for the
//! same by IPv6, and `fuzz` for packets of any kind.

use std::{cell::RefCell, net::Ipv4Addr};

use dataplane_common::abi::Path;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    Result,
    frames::{Frame, assert_checksums},
    host::with_host,
    outcome::assert_bytes,
    topology::{A, HOST},
};

const CASES: u32 = 400;

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
