//! How external ports are found when few are left.

use std::time::Duration;

use dataplane_common::abi::{
    Address, DropReason, Flow, Index, Mapping, MappingKey, Path, PortSet, Tuple, map,
};

use crate::{
    Result,
    frames::Frame,
    host::{Host, UDP, address, with_sizes},
    topology::{A, B, FIRST_PORT, HOST, LAST_PORT, REMOTE},
};

const POOL: usize = (LAST_PORT - FIRST_PORT) as usize + 1;
/// New sockets tried at each fill.
const TRIES: u16 = 1000;
const DNS: u16 = 53;

/// Both index entries of a socket of `B`'s that has this external port and a flow to the one remote end.
fn entries(port: u16) -> [(Tuple, Index); 2] {
    let outside = |remote: Address, remote_port| Tuple {
        local: address(HOST),
        remote,
        local_port: port,
        remote_port,
        protocol: UDP,
        reserved: [0; 3],
    };
    let inside = |outside: Tuple| Index::of(Tuple { local: address(B.address), ..outside });
    [outside(Address::UNSPECIFIED, 0), outside(address(REMOTE), DNS)].map(|tuple| (tuple, inside(tuple)))
}

/// Opens a flow of a socket that has none, takes everything back, and answers whether it got a port, and the time.
fn open(host: &mut Host, own: u16) -> Result<(bool, Duration)> {
    let frame = Frame::udp((A.address, own), (REMOTE, DNS)).sent_by(&A);
    let outcome = host.container_sends(&A, &frame)?;
    if outcome.drop == Some(DropReason::PortsExhausted) {
        return Ok((false, outcome.duration));
    }
    let time = outcome.on_path(Path::MasqueradeOut).duration;
    let inside = Tuple {
        local: address(A.address),
        remote: address(REMOTE),
        local_port: own,
        remote_port: DNS,
        protocol: UDP,
        reserved: [0; 3],
    };
    let mut unconfirmed = host.programs.hash::<Tuple, Flow>(map::UNCONFIRMED)?;
    let flow = unconfirmed.get(&inside, 0)?;
    unconfirmed.remove(&inside)?;
    let mut index = host.programs.hash::<Tuple, Index>(map::PORTS)?;
    index.remove(&flow.outside)?;
    // A socket that shares a port has no claim of its own.
    let key = MappingKey {
        internal: address(A.address),
        external: address(HOST),
        port: own,
        protocol: UDP,
        reserved: 0,
    };
    if host.programs.hash::<MappingKey, Mapping>(map::MAPPINGS)?.remove(&key).is_ok() {
        let claim = Tuple { remote: Address::UNSPECIFIED, remote_port: 0, ..flow.outside };
        host.programs.hash::<Tuple, Index>(map::PORTS)?.remove(&claim)?;
    }
    Ok((true, time))
}

/// To one remote end, which knows no sharing of ports: at 95 per cent 99 of 100 new flows must get one.
#[test]
fn ports_are_found_when_few_are_left() -> Result {
    with_sizes(&[(map::PORTS, 40_000)], |host| {
        // 7919 is prime: any number of steps is spread over the pool.
        let order = (0..POOL).map(|step| FIRST_PORT + (step * 7919 % POOL) as u16);
        let mut order = order.enumerate().peekable();
        // A port that stays free, which it keeps.
        let last = FIRST_PORT + ((POOL - 1) * 7919 % POOL) as u16;
        let known = Frame::udp((A.address, last), (REMOTE, DNS)).sent_by(&A);
        let _ = host.container_sends(&A, &known)?.on_path(Path::MasqueradeOut);
        let mut again = || Ok(host.container_sends(&A, &known)?.on_path(Path::MasqueradeOut).duration);
        let mut times: Vec<_> = (0..TRIES).map(|_| again()).collect::<Result<_>>()?;
        times.sort_unstable();
        println!("a packet of a flow that is there: p50 {:?}", times[times.len() / 2]);
        println!("{:>5}  {:>8}  {:>8}  {:>8}", "taken", "got one", "p50 ns", "p99 ns");
        for (percent, least) in [(0, 1000), (50, 1000), (90, 999), (95, 990), (99, 950)] {
            while let Some((_, port)) = order.next_if(|(taken, _)| *taken < POOL * percent / 100) {
                for (tuple, index) in entries(port) {
                    host.programs.hash(map::PORTS)?.insert(tuple, index, 0)?;
                }
            }
            let mut got = 0;
            let mut times = Vec::new();
            for own in 40_000..40_000 + TRIES {
                let (opened, time) = open(host, own)?;
                got += u32::from(opened);
                times.push(time.as_nanos());
            }
            times.sort_unstable();
            let at = |part: usize| times[times.len() * part / 100];
            println!("{percent:>4}%  {got:>8}  {:>8}  {:>8}", at(50), at(99));
            assert!(got >= least, "{got} of {TRIES} at {percent} per cent");
        }
        // None is left, and none is taken from anybody.
        for (_, port) in order {
            host.reserve(PortSet::RESERVED_UDP, [port])?;
        }
        assert!(!open(host, 50_000)?.0);
        assert_eq!(host.ports()?.len(), 2 * POOL * 99 / 100 + 2);
        Ok(())
    })
}
