//! The same packets for `uplink_xdp`. Two judges: the one of `from_uplink`, and that program itself, which must do the very
//! same with each packet that XDP does not leave to it.

use dataplane_common::abi::Path;

use super::{
    MODES, RUNS, TELLING, Ways,
    corpus::{self, Corpus},
    judge::judge,
    number, of_world,
    random::{Random, mutated},
    set,
};
use crate::{
    Result, ipv6::topology::with_host, outcome::Verdict, topology::A, uplink_xdp::switch_on,
};

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
            let corpus = Corpus::played(host)?;
            for run in 0..runs / MODES.len() as u64 {
                let (_, frame) = of_world(&mut random, &corpus);
                let frame = mutated(&mut random, &frame, &corpus.addresses);
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
    assert!(runs < TELLING || ways.0.keys().any(|(way, _)| way.starts_with("dropped")), "nothing was dropped");
    Ok(())
}
