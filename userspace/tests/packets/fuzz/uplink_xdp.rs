//! The same packets for `uplink_xdp`. Two judges: the one of `from_uplink`, and that program itself, which must do the very
//! same with each packet that XDP does not leave to it.

use dataplane_common::abi::Path;

use super::{
    MODES, RUNS, TELLING, Ways,
    corpus::{self, Corpus},
    judge::judge,
    number, of_world,
    random::{Random, mutated},
    set, wire,
};
use crate::{
    Result,
    decapsulation::{inner, outer},
    encapsulation::vxlan_header,
    host::Host,
    ipv6::{
        frame::Frame as Frame6,
        topology::{self as v6, with_host},
    },
    outcome::{Verdict, sum},
    topology::{A, MESH, VXLAN_PORT},
    uplink_xdp::switch_on,
};

/// The corpus, with flows that both ends have confirmed, and a tunnel's datagrams with UDP in them.
fn confirmed(host: &mut Host) -> Result<Corpus> {
    let mut corpus = Corpus::played(host)?;
    for (container, frame) in &corpus.containers {
        let _ = host.container_sends_bytes(container, frame)?;
    }
    for frame in &corpus.world {
        let _ = host.world_sends_bytes(frame)?;
    }
    let payload = |inner: &[u8]| [vxlan_header(MESH.vni).as_slice(), inner].concat();
    let inner_v6 = Frame6::udp((v6::FAR, 80), (v6::M.address, 4000)).macs(v6::FAR_MAC, v6::M.mac()).bytes();
    corpus.world.push(outer(&inner().bytes()).bytes());
    corpus.world.push(outer(&inner_v6).bytes());
    let outer_v6 = Frame6::udp((v6::PEER, 50_000), (v6::HOST, VXLAN_PORT)).by_router();
    corpus.world.push(outer_v6.clone().payload(&payload(&inner().bytes())).bytes());
    corpus.world.push(outer_v6.payload(&payload(&inner_v6)).bytes());
    Ok(corpus)
}

/// Gives a datagram, and one inside of it, the length and checksum that it would have; a tunnel's none.
fn repair(frame: &mut [u8]) {
    let Some(wire) = wire::read(frame).filter(|wire| wire.protocol == wire::UDP) else { return };
    let (at, end) = (wire.transport, wire.end);
    if wire.part != wire::Part::Whole || at + 8 > end {
        return;
    }
    let length = ((end - at) as u16).to_be_bytes();
    frame[at + 4..at + 6].copy_from_slice(&length);
    frame[at + 6..at + 8].fill(0);
    if frame[at + 2..at + 4] == VXLAN_PORT.to_be_bytes() {
        return repair(&mut frame[(at + 16).min(end)..end]);
    }
    let covered = [&frame[wire.addresses()], &[0, wire::UDP], &length, &frame[at..end]].concat();
    let checksum = match !sum(&covered) {
        0 => 0xffff,
        checksum => checksum,
    };
    frame[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn no_bytes_lead_uplink_xdp_astray() -> Result {
    let runs = number("WEFT_PACKET_RUNS", RUNS)?;
    let seed = number("WEFT_PACKET_SEED", u64::from(std::process::id()))?;
    println!("WEFT_PACKET_SEED={seed}");
    let mut random = Random(seed);
    let mut ways = Ways::default();
    with_host(|host| {
        corpus::publish(host)?;
        for mode in MODES {
            set(host, mode)?;
            switch_on(host)?;
            let corpus = confirmed(host)?;
            for run in 0..runs / MODES.len() as u64 {
                let (_, frame) = of_world(&mut random, &corpus);
                let mut frame = mutated(&mut random, &frame, &corpus.addresses);
                if random.below(2) == 0 {
                    repair(&mut frame);
                }
                let early = host.driver_receives(&frame)?;
                let told = || format!("{mode:?}, run {run}, WEFT_PACKET_SEED={seed}: {early:?}");
                if early.verdict == Verdict::Next {
                    assert!(early.frame == early.input, "changed and handed on: {}", told());
                } else {
                    // What is handed on is judged where it goes.
                    let verdict = judge(dataplane_common::abi::program::FROM_UPLINK, &A, mode, &early);
                    assert_eq!(verdict, Ok(()), "{}", told());
                    let late = host.world_sends_bytes(&frame)?;
                    assert_eq!(
                        (early.verdict, early.path, early.drop, early.counted),
                        (late.verdict, late.path, late.drop, late.counted),
                        "{}",
                        told()
                    );
                    assert!(early.frame == late.frame, "{}\nfrom_uplink: {:02x?}", told(), late.frame);
                }
                ways.count(&early);
            }
        }
        Ok(())
    })?;
    ways.expect(runs, &[Path::MasqueradeIn, Path::PortmapIn, Path::RoutedIn, Path::Decapsulate]);
    assert!(
        runs < TELLING || ways.0.keys().any(|(way, _)| way.starts_with("dropped")),
        "nothing was dropped"
    );
    Ok(())
}
