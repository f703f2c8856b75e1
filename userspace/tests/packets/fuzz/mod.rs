//! No bytes lead astray: random and nearly right packets on every tc program, judged by properties that hold for all.
//!
//! `WEFT_PACKET_RUNS` sets how many packets each program gets, `WEFT_PACKET_SEED` where they begin; a failure prints the
//! packet and the seed.

mod corpus;
mod judge;
mod random;
mod translation;
mod uplink_xdp;
mod wire;

use std::{collections::BTreeMap, env, fmt, time::Duration};

use dataplane_common::abi::{DropReason, Path, flags, program};
use nix::net::if_::if_nametoindex;

use crate::{
    Result,
    host::Host,
    ipv6::{
        routed::{NAT, ROUTED, UNPROTECTED, mode},
        topology::with_host,
    },
    outcome::{Outcome, Verdict},
    topology::{A, B, C, CONTAINERS, Container, STRANGER, UPLINK},
};
use corpus::Corpus;
use judge::{Mode, judge};
use random::{Random, mutated};

/// Packets for each program, unless told otherwise.
const RUNS: u64 = 200_000;
const MODES: [Mode; 4] = [Mode::Nat, Mode::Routed, Mode::Unprotected, Mode::Closed];
/// Fewer packets than this do not get everywhere.
const TELLING: u64 = 50_000;

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text} is no number").into()),
        Err(_) => Ok(default),
    }
}

/// Gives A's network a gateway mode. Its members are `A` and `B`.
fn set(host: &mut Host, to: Mode) -> Result {
    let (gateway, icc) = match to {
        Mode::Nat => (NAT, true),
        Mode::Routed => (ROUTED, true),
        Mode::Unprotected => (UNPROTECTED, true),
        Mode::Closed => (flags::INTERNAL, false),
    };
    mode(host, gateway)?;
    for container in [&A, &B] {
        let (clear, set) = if icc { (0, flags::INTER_CONTAINER) } else { (flags::INTER_CONTAINER, 0) };
        host.change_flags(container.device, clear, set)?;
    }
    // With flows of its own: those of another mode would go on.
    let long = Duration::from_secs(7441);
    host.age_flows(long)?;
    host.expire()?;
    host.age_mappings(long)?;
    host.expire()?;
    Ok(())
}

/// How often each way was taken, by family.
#[derive(Default)]
struct Ways(BTreeMap<(String, bool), u64>);

impl Ways {
    fn count(&mut self, outcome: &Outcome) {
        let way = match (outcome.path, outcome.drop, outcome.verdict) {
            (Some(path), ..) => format!("{path:?}"),
            (_, Some(reason), Verdict::Redirect) => format!("told: {reason:?}"),
            (_, Some(reason), _) => format!("dropped: {reason:?}"),
            _ => "ignored".to_owned(),
        };
        *self.0.entry((way, outcome.input[12..14] == [0x86, 0xdd])).or_default() += 1;
    }

    /// Fails if the noise did not get somewhere in either family.
    fn expect(&self, runs: u64, paths: &[Path]) {
        for ((way, is_v6), count) in &self.0 {
            println!("{count:>9} {} {way}", if *is_v6 { "IPv6" } else { "rest" });
        }
        if runs < TELLING {
            println!("{runs} packets are too few to expect one on each way");
            return;
        }
        for path in paths {
            for is_v6 in [false, true] {
                assert!(self.0.contains_key(&(format!("{path:?}"), is_v6)), "{path:?}, IPv6 {is_v6}: never");
            }
        }
    }
}

/// Where a failure is found again.
struct Turn {
    mode: Mode,
    run: u64,
    seed: u64,
}

impl fmt::Display for Turn {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}, run {}, WEFT_PACKET_SEED={}", self.mode, self.run, self.seed)
    }
}

/// How many packets, and the seed they begin with.
fn wanted() -> Result<(u64, u64)> {
    let runs = number("WEFT_PACKET_RUNS", RUNS)?;
    let seed = number("WEFT_PACKET_SEED", u64::from(std::process::id()))?;
    println!("WEFT_PACKET_SEED={seed}");
    Ok((runs, seed))
}

/// Takes as many packets as wanted, each mode its part, and sees where they got.
fn in_every_mode(
    mut prepare: impl FnMut(&mut Host) -> Result<Corpus> + Send,
    mut take: impl FnMut(&mut Host, &mut Random, &Corpus, &Turn) -> Result<Outcome> + Send,
    paths: &[Path],
) -> Result<(u64, Ways)> {
    let (runs, seed) = wanted()?;
    let mut random = Random(seed);
    let mut ways = Ways::default();
    with_host(|host| {
        corpus::publish(host)?;
        for mode in MODES {
            set(host, mode)?;
            let corpus = prepare(host)?;
            for run in 0..runs / MODES.len() as u64 {
                ways.count(&take(host, &mut random, &corpus, &Turn { mode, run, seed })?);
            }
        }
        Ok(())
    })?;
    ways.expect(runs, paths);
    Ok((runs, ways))
}

/// Who sends a frame, and what is done with it.
type Source = fn(&mut Random, &Corpus) -> (&'static Container, Vec<u8>);

/// Runs a program on as many packets as wanted, and judges each.
fn run(program: &'static str, source: Source, paths: &[Path]) -> Result {
    let prepare = |host: &mut Host| {
        let room = if_nametoindex(STRANGER)?;
        host.change_settings(|settings| settings.waiting_room = room)?;
        Corpus::played(host)
    };
    let take = |host: &mut Host, random: &mut Random, corpus: &Corpus, turn: &Turn| {
        let (sender, frame) = source(random, corpus);
        let frame = mutated(random, &frame, &corpus.addresses);
        let device = if program == program::FROM_CONTAINER { sender.device } else { UPLINK };
        // The harness fails on an unknown verdict, and on one that does not fit the counter that moved.
        let outcome = host.programs.run(program, &frame, device)?.outcome()?;
        if let Err(wrong) = judge(program, sender, turn.mode, &outcome) {
            panic!(
                "{program}, {turn}, from {}: {wrong}\n{:?} {:?} {:?}\n{frame:02x?}\nbecame\n{:02x?}",
                sender.device, outcome.verdict, outcome.path, outcome.drop, outcome.frame
            );
        }
        Ok(outcome)
    };
    in_every_mode(prepare, take, paths).map(drop)
}

fn of_container(random: &mut Random, corpus: &Corpus) -> (&'static Container, Vec<u8>) {
    random.one_of(&corpus.containers).clone()
}

fn of_world(random: &mut Random, corpus: &Corpus) -> (&'static Container, Vec<u8>) {
    (&A, random.one_of(&corpus.world).clone())
}

#[test]
fn no_bytes_lead_from_container_astray() -> Result {
    run(
        program::FROM_CONTAINER,
        of_container,
        &[
            Path::Bridge,
            Path::MasqueradeOut,
            Path::PortmapOut,
            Path::RoutedOut,
            Path::HairpinIn,
            Path::HairpinOut,
            Path::Encapsulate,
            Path::IcmpError,
            Path::FragmentWaits,
            Path::Host,
            Path::SlowPath,
        ],
    )
}

#[test]
fn no_bytes_lead_from_uplink_astray() -> Result {
    run(
        program::FROM_UPLINK,
        of_world,
        &[
            Path::MasqueradeIn,
            Path::PortmapIn,
            Path::RoutedIn,
            Path::Decapsulate,
            Path::IcmpError,
            Path::FragmentWaits,
            Path::NotOurs,
        ],
    )
}

#[test]
fn no_bytes_lead_to_uplink_astray() -> Result {
    run(program::TO_UPLINK, of_container, &[])
}

#[test]
fn no_bytes_lead_from_bridge_astray() -> Result {
    run(program::FROM_BRIDGE, of_container, &[])
}

/// A test run cannot say that a packet has been waiting (`tc_index`), so every packet is a stranger there.
#[test]
fn no_bytes_lead_from_waiting_room_astray() -> Result {
    run(program::FROM_WAITING_ROOM, of_container, &[])
}

/// What decides is where a packet came in, whatever it is.
#[test]
fn no_bytes_lead_to_container_astray() -> Result {
    let (runs, seed) = wanted()?;
    let mut random = Random(seed);
    with_host(|host| {
        corpus::publish(host)?;
        let corpus = Corpus::played(host)?;
        let bridge = A.network.bridge;
        for (isolated, icc) in [(false, true), (false, false), (true, true)] {
            let isolation = if isolated { flags::ISOLATED } else { 0 };
            host.change_flags(bridge, flags::ISOLATED, isolation)?;
            for container in [&A, &B] {
                let member = if icc { flags::INTER_CONTAINER } else { 0 };
                host.change_flags(container.device, flags::INTER_CONTAINER, member)?;
            }
            for run in 0..runs / 3 {
                let (sender, frame) = of_container(&mut random, &corpus);
                let frame = mutated(&mut random, &frame, &corpus.addresses);
                let origin =
                    *random.one_of(&[None, Some(A.device), Some(C.device), Some(UPLINK), Some(STRANGER)]);
                let run_of = host.programs.run(program::TO_CONTAINER, &frame, bridge)?;
                let outcome = match origin {
                    None => run_of.outcome()?,
                    Some(device) => run_of.came_in_by(device)?.outcome()?,
                };
                let expected = match origin {
                    _ if isolated => Err(DropReason::Isolated),
                    None => Ok(Path::Host),
                    Some(device) if device == A.device && !icc => Err(DropReason::InterContainerDisabled),
                    Some(device) if device == A.device => Ok(Path::SlowPath),
                    Some(device) if device == C.device => Err(DropReason::Isolated),
                    Some(_) => Err(DropReason::DirectRouting),
                };
                let (verdict, got) = match expected {
                    Ok(path) => (Verdict::Next, outcome.path == Some(path)),
                    Err(reason) => (Verdict::Drop, outcome.drop == Some(reason)),
                };
                assert!(
                    got && outcome.verdict == verdict && outcome.frame == outcome.input,
                    "run {run}, WEFT_PACKET_SEED={seed}, {} by {origin:?}, {expected:?}: {outcome:?}",
                    sender.device
                );
            }
        }
        Ok(())
    })
}

/// Whoever trusts the judge has seen it condemn: one byte of what came out is another, or one that must change is not.
#[test]
fn a_wrong_packet_is_condemned() -> Result {
    with_host(|host| {
        corpus::publish(host)?;
        let corpus = Corpus::played(host)?;
        let mut judged = 0;
        let all = corpus.containers.iter().map(|(sender, frame)| (program::FROM_CONTAINER, *sender, frame));
        let all = all.chain(corpus.world.iter().map(|frame| (program::FROM_UPLINK, &A, frame)));
        for (program, sender, frame) in all {
            let device = if program == program::FROM_CONTAINER { sender.device } else { UPLINK };
            let outcome = host.programs.run(program, frame, device)?.outcome()?;
            let verdict = judge(program, sender, Mode::Nat, &outcome);
            assert_eq!(verdict, Ok(()), "{outcome:?}");
            // A MAC address on the way to the uplink is the kernel's to write.
            let first = if CONTAINERS.iter().any(|it| it.mac == outcome.frame[..6]) { 0 } else { 14 };
            // Without a checksum nothing tells that a port is wrong.
            let sums = |wire: wire::Wire| wire.checksum().is_some_and(|at| frame[at] != [0, 0]);
            let is_covered = wire::read(frame).is_some_and(sums);
            if outcome.verdict != Verdict::Redirect || outcome.path == Some(Path::Encapsulate) || !is_covered
            {
                continue;
            }
            for at in first..outcome.frame.len() {
                let mut wrong = outcome.frame.clone();
                wrong[at] ^= 0x20;
                let wrong = Outcome { frame: wrong, input: outcome.input.clone(), ..outcome };
                let verdict = judge(program, sender, Mode::Nat, &wrong);
                assert!(verdict.is_err(), "byte {at} does not matter: {wrong:02x?}");
                judged += 1;
            }
        }
        assert!(judged > 10_000, "{judged} wrong packets");
        Ok(())
    })
}
