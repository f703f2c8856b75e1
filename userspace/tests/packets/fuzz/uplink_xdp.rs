//! The same packets for `uplink_xdp`. Two judges: the one of `from_uplink`, and that program itself, which must do the very
//! same with each packet that XDP does not leave to it.

use dataplane_common::abi::{Path, program};

use super::{
    TELLING, Turn,
    corpus::Corpus,
    in_every_mode,
    judge::judge,
    of_world,
    random::{Random, mutated},
    wire,
};
use crate::{
    Result,
    decapsulation::{inner, outer},
    encapsulation::vxlan_header,
    host::Host,
    ipv6::{frame::Frame as Frame6, topology as v6},
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
    let prepare = |host: &mut Host| {
        switch_on(host)?;
        confirmed(host)
    };
    let take = |host: &mut Host, random: &mut Random, corpus: &Corpus, turn: &Turn| {
        let (_, frame) = of_world(random, corpus);
        let mut frame = mutated(random, &frame, &corpus.addresses);
        if random.below(2) == 0 {
            repair(&mut frame);
        }
        let early = host.driver_receives(&frame)?;
        if early.verdict == Verdict::Next {
            assert!(early.frame == early.input, "changed and handed on: {turn}: {early:?}");
            return Ok(early);
        }
        // What is handed on is judged where it goes.
        let verdict = judge(program::FROM_UPLINK, &A, turn.mode, &early);
        assert_eq!(verdict, Ok(()), "{turn}: {early:?}");
        let late = host.world_sends_bytes(&frame)?;
        assert_eq!(
            (early.verdict, early.path, early.drop, early.counted),
            (late.verdict, late.path, late.drop, late.counted),
            "{turn}: {early:?}"
        );
        assert!(early.frame == late.frame, "{turn}: {early:?}\nfrom_uplink: {:02x?}", late.frame);
        Ok(early)
    };
    let paths = [Path::MasqueradeIn, Path::PortmapIn, Path::RoutedIn, Path::Decapsulate];
    let (runs, ways) = in_every_mode(prepare, take, &paths)?;
    assert!(
        runs < TELLING || ways.0.keys().any(|(way, _)| way.starts_with("dropped")),
        "nothing was dropped"
    );
    Ok(())
}
