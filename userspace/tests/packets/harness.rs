//! The programs in the kernel, with maps of their own, and running one on a packet.

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use dataplane_common::abi::{Counter, DropReason, Path, map};
use nix::net::if_::if_nametoindex;
use weft::dataplane::object_bytes;

use crate::{
    Result,
    outcome::{Outcome, Verdict},
    topology::{PEER_MAC, ROUTER_MAC, UPLINK_MAC},
};

/// Room for what a program may add to a packet.
pub const GROWTH: usize = 128;

/// Where the fields that a test run may set lie in `struct __sk_buff` (linux/bpf.h, UAPI).
mod sk_buff {
    pub const SIZE: usize = 192;
    pub const MARK: usize = 8;
    pub const INGRESS_IFINDEX: usize = 36;
    pub const IFINDEX: usize = 40;
    pub const GSO_SEGS: usize = 164;
    pub const GSO_SIZE: usize = 176;
}

/// The shortest beginning of this frame that the kernel runs a program on: an Ethernet header, and a whole IP header
/// where the EtherType says that there is one.
pub fn shortest(frame: &[u8]) -> usize {
    match frame[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 14,
    }
}

/// Sizes of maps, by name; what is not named is small.
pub type Sizes<'a> = &'a [(&'static str, u32)];

/// The loaded object, unpinned: it goes with the test.
pub struct Programs {
    ebpf: Ebpf,
    counters: Vec<Counter>,
}

impl Programs {
    /// Makes the maps. Programs are loaded when they are first run.
    pub fn new(sizes: Sizes<'_>) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in [map::FLOWS, map::UNCONFIRMED, map::MAPPINGS, map::PUBLISHED, map::REMOTES] {
            loader.map_max_entries(name, 4096);
        }
        loader.map_max_entries(map::PORTS, 16384);
        for &(name, size) in sizes {
            loader.map_max_entries(name, size);
        }
        let ebpf = loader.load(object_bytes())?;
        let mut programs = Self { ebpf, counters: Vec::new() };
        programs.counters = programs.read_counters()?;
        Ok(programs)
    }

    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(self.ebpf.map_mut(name).ok_or_else(|| format!("no map {name}"))?)?)
    }

    pub fn trie<K: Pod, V: Pod>(&mut self, name: &str) -> Result<LpmTrie<&mut MapData, K, V>> {
        Ok(LpmTrie::try_from(self.ebpf.map_mut(name).ok_or_else(|| format!("no map {name}"))?)?)
    }

    pub fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(Array::try_from(self.ebpf.map_mut(name).ok_or_else(|| format!("no map {name}"))?)?)
    }

    /// Paths, then drop reasons, each the sum over all CPUs.
    fn read_counters(&self) -> Result<Vec<Counter>> {
        let mut counters = Vec::new();
        for (name, count) in [(map::COUNTERS, Path::COUNT), (map::DROPS, DropReason::COUNT)] {
            let cells: PerCpuArray<_, Counter> =
                PerCpuArray::try_from(self.ebpf.map(name).ok_or_else(|| format!("no map {name}"))?)?;
            for index in 0..count {
                let sum = cells.get(&index, 0)?.iter().fold(Counter { packets: 0, bytes: 0 }, |sum, cell| {
                    Counter { packets: sum.packets + cell.packets, bytes: sum.bytes + cell.bytes }
                });
                counters.push(sum);
            }
        }
        Ok(counters)
    }

    fn program(&mut self, name: &str) -> Result<&SchedClassifier> {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }

    /// A program for XDP.
    pub fn xdp(&mut self, name: &str) -> Result<&Xdp> {
        let program: &mut Xdp =
            self.ebpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }

    /// What has moved since the last time it was asked, by index: paths, then drop reasons.
    pub fn moved(&mut self) -> Result<Vec<(u32, Counter)>> {
        let counters = self.read_counters()?;
        let before = std::mem::replace(&mut self.counters, counters);
        let moved = (0..)
            .zip(self.counters.iter().zip(before))
            .filter(|(_, (now, before))| *now != before)
            .map(|(index, (now, before))| {
                let (packets, bytes) = (now.packets - before.packets, now.bytes - before.bytes);
                (index, Counter { packets, bytes })
            });
        Ok(moved.collect())
    }

    /// Prepares a run of a tc program on a frame, at a device of this thread's namespace.
    pub fn run<'a>(&'a mut self, program: &'a str, frame: &'a [u8], device: &str) -> Result<Run<'a>> {
        let run = Run { programs: self, program, frame, context: [0; sk_buff::SIZE] };
        Ok(run.with(sk_buff::IFINDEX, if_nametoindex(device)?))
    }
}

/// One run of a program.
#[must_use]
pub struct Run<'a> {
    programs: &'a mut Programs,
    program: &'a str,
    frame: &'a [u8],
    context: [u8; sk_buff::SIZE],
}

impl Run<'_> {
    fn with(mut self, at: usize, value: u32) -> Self {
        self.context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// The device that the packet came in by, where the hook is at egress.
    pub fn came_in_by(self, device: &str) -> Result<Self> {
        Ok(self.with(sk_buff::INGRESS_IFINDEX, if_nametoindex(device)?))
    }

    /// `skb->mark`.
    pub fn mark(self, mark: u32) -> Self {
        self.with(sk_buff::MARK, mark)
    }

    /// The packet stands for segments.
    pub fn gso(self, size: u32, segments: u32) -> Self {
        self.with(sk_buff::GSO_SIZE, size).with(sk_buff::GSO_SEGS, segments)
    }

    /// Runs the program and answers its return value.
    pub fn value(self) -> Result<u32> {
        let options =
            TestRunOptions { data_in: Some(self.frame), ctx_in: Some(&self.context), ..Default::default() };
        Ok(self.programs.program(self.program)?.test_run(options)?.return_value)
    }

    /// Runs the program once. Fails where more than one counter has moved, or one that does not fit the verdict.
    pub fn outcome(self) -> Result<Outcome> {
        let mut frame = vec![0; self.frame.len() + GROWTH];
        let options = TestRunOptions {
            data_in: Some(self.frame),
            data_out: Some(&mut frame),
            ctx_in: Some(&self.context),
            ..Default::default()
        };
        let result = self.programs.program(self.program)?.test_run(options)?;
        frame.truncate(result.data_size_out as usize);
        let verdict = match result.return_value as i32 {
            -1 => Verdict::Next,
            2 => Verdict::Drop,
            7 => Verdict::Redirect,
            other => panic!("{} answered {other}", self.program),
        };

        let moved = self.programs.moved()?;
        let (path, drop, counted) = match *moved.as_slice() {
            [] => (None, None, Counter { packets: 0, bytes: 0 }),
            [(index, counted)] if index < Path::COUNT => (Path::from_index(index), None, counted),
            [(index, counted)] => (None, DropReason::from_index(index - Path::COUNT), counted),
            _ => panic!("{} moved more than one counter: {moved:?}", self.program),
        };
        let fits = match verdict {
            Verdict::Next => drop.is_none(),
            Verdict::Drop => drop.is_some(),
            // A packet that is refused goes back to its sender as an ICMP error.
            Verdict::Redirect => path.is_some() || drop.is_some(),
        };
        assert!(fits, "{} answered {verdict:?} and counted {path:?} {drop:?}", self.program);
        let (input, duration) = (self.frame.to_vec(), result.duration);
        let leaves = matches!(
            path,
            Some(Path::MasqueradeOut | Path::PortmapOut | Path::RoutedOut | Path::Encapsulate)
        );
        let next_hop = [ROUTER_MAC, PEER_MAC]
            .into_iter()
            .find(|mac| leaves && frame.get(..12).is_some_and(|macs| *macs == [*mac, UPLINK_MAC].concat()));
        if next_hop.is_some() {
            frame[..12].copy_from_slice(&input[..12]);
        }
        Ok(Outcome { verdict, path, drop, counted, duration, input, frame, next_hop })
    }
}
