//! What a packet costs in each program, by the kernel's own clock (`BPF_PROG_TEST_RUN`): a measurement, not a test.
//!
//! ```text
//! cargo nextest run --release -p weft --test packets --run-ignored only --no-capture what_a_packet_costs
//! ```
//!
//! docs/cost.md has figures. Each run is of one packet, so the clock's own time is in it; the first row shows how much.

use dataplane_common::abi::{DropReason, Path, program};

use crate::{
    Result,
    decapsulation::{inner, outer},
    frames::Frame,
    host::{Host, TCP, with_host},
    ipv6,
    outcome::Outcome,
    topology::{A, B, C, FAR, FAR_MAC, HOST, M, REMOTE, UPLINK},
};

/// Runs of each packet; the first tenth warms up.
const RUNS: usize = 5_000;
/// Bytes behind the transport header.
pub const PAYLOAD: [u8; 1000] = [1; 1000];

/// The median and the tenth part in nanoseconds, of packets that take this way: no drop is measured by mistake.
pub fn measure(name: &str, path: Path, run: impl FnMut() -> Result<Outcome>) -> Result {
    measure_any(name, (Some(path), None), run)
}

fn measure_any(
    name: &str,
    expected: (Option<Path>, Option<DropReason>),
    mut run: impl FnMut() -> Result<Outcome>,
) -> Result {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let outcome = run()?;
        assert_eq!((outcome.path, outcome.drop), expected, "{name}");
        times.push(outcome.duration.as_nanos());
    }
    let times = &mut times[RUNS / 10..];
    times.sort_unstable();
    println!("{name:<40}{:>8}{:>8}", times[times.len() / 2], times[times.len() / 10]);
    Ok(())
}

fn ipv4(host: &mut Host) -> Result {
    host.publish(TCP, None, 80, (&A, 8080))?;
    let isolated = Frame::udp((A.address, 1), (C.address, 1)).sent_by(&A).bytes();
    measure_any("nothing (from_bridge)", (None, Some(DropReason::Isolated)), || {
        host.programs.run(program::FROM_BRIDGE, &isolated, UPLINK)?.outcome()
    })?;
    let bridged = Frame::tcp((B.address, 4000), (A.address, 80)).macs(B.mac, A.mac).payload(&PAYLOAD);
    measure("bridge", Path::Bridge, || host.container_sends(&B, &bridged))?;
    let out = Frame::tcp((A.address, 25_000), (REMOTE, 443)).sent_by(&A).payload(&PAYLOAD);
    measure("masquerade, out", Path::MasqueradeOut, || host.container_sends(&A, &out))?;
    let back = Frame::tcp((REMOTE, 443), (HOST, 25_000)).by_router().payload(&PAYLOAD);
    measure("masquerade, in", Path::MasqueradeIn, || host.world_sends(&back))?;
    let request = Frame::tcp((REMOTE, 4430), (HOST, 80)).by_router().payload(&PAYLOAD);
    measure("published port, in", Path::PortmapIn, || host.world_sends(&request))?;
    let answer = Frame::tcp((A.address, 8080), (REMOTE, 4430)).sent_by(&A).payload(&PAYLOAD);
    measure("published port, out", Path::PortmapOut, || host.container_sends(&A, &answer))?;
    let hairpin = Frame::tcp((C.address, 4430), (HOST, 80)).sent_by(&C).payload(&PAYLOAD);
    measure("hairpin, in", Path::HairpinIn, || host.container_sends(&C, &hairpin))?;
    let far = Frame::tcp((M.address, 4430), (FAR, 80)).macs(M.mac, FAR_MAC).payload(&PAYLOAD);
    measure("encapsulation", Path::Encapsulate, || host.container_sends(&M, &far))?;
    let near = outer(&inner().payload(&PAYLOAD).bytes());
    measure("decapsulation", Path::Decapsulate, || host.world_sends(&near))?;
    let others = Frame::tcp((REMOTE, 443), (HOST, 22)).by_router().payload(&PAYLOAD);
    measure("the host's own, in", Path::NotOurs, || host.world_sends(&others))?;
    let leaving = Frame::tcp((HOST, 22), (REMOTE, 443)).payload(&PAYLOAD).bytes();
    measure_any("safety net, out", (None, None), || {
        host.programs.run(program::TO_UPLINK, &leaving, UPLINK)?.outcome()
    })
}

#[test]
#[ignore = "a measurement: docs/cost.md"]
fn what_a_packet_costs() -> Result {
    println!("{:<40}{:>8}{:>8}", "ns", "p50", "p10");
    println!("IPv4");
    with_host(ipv4)?;
    println!("IPv6");
    ipv6::cost::measure_all()
}
