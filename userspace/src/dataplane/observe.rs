//! What can be seen of the programs at work: counters, flows, memory.

use std::{borrow::Borrow, collections::HashMap, fs, os::fd::AsRawFd};

use aya::{
    maps::{MapData, MapError, PerCpuArray},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use dataplane_common::abi::{Counter, DropReason, Flow, Path, Tuple, map, program};

use super::{Dataplane, Error, Result};

/// All flow records, by inside tuple.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    /// Both ends have been heard.
    pub confirmed: HashMap<Tuple, Flow>,
    /// One end has been heard.
    pub unconfirmed: HashMap<Tuple, Flow>,
}

/// Size of one map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapMemory {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: String,
    /// Most entries it can hold.
    pub max_entries: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Bytes of kernel memory it takes now.
    pub bytes: u64,
}

/// One loaded program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedProgram {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub id: u32,
    /// Instructions that the verifier went through, of at most a million.
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code; 0 without the JIT compiler.
    pub jited_bytes: u32,
}

impl Dataplane {
    /// Packets by the way they took, all CPUs together.
    pub fn counters(&self) -> Result<Vec<(Path, Counter)>> {
        let cells = self.per_cpu(map::COUNTERS)?;
        Path::ALL.iter().map(|&path| Ok((path, sum(&cells, map::COUNTERS, path as u32)?))).collect()
    }

    /// Dropped packets by reason, all CPUs together.
    pub fn drops(&self) -> Result<Vec<(DropReason, Counter)>> {
        let cells = self.per_cpu(map::DROPS)?;
        DropReason::ALL.iter().map(|&reason| Ok((reason, sum(&cells, map::DROPS, reason as u32)?))).collect()
    }

    fn per_cpu(&self, name: &str) -> Result<PerCpuArray<&MapData, Counter>> {
        let map = self.ebpf.map(name).ok_or_else(|| Error::Object(format!("it has no map {name}")))?;
        map.try_into().map_err(|error: MapError| Error::Object(format!("map {name}: {error}")))
    }

    /// All flow records. Programs go on changing them: a record may be in both or neither half while it is confirmed.
    pub fn flows(&self) -> Result<Flows> {
        Ok(Flows { confirmed: self.tables.flows.dump()?, unconfirmed: self.tables.unconfirmed.dump()? })
    }

    /// New flows that were refused because a table was full.
    pub fn refused_for_room(&self) -> Result<u64> {
        let cells = self.per_cpu(map::DROPS)?;
        Ok(sum(&cells, map::DROPS, DropReason::FlowTableFull as u32)?.packets)
    }

    /// Runs the program that removes expired flow records, and `held` ports before their time; its answer is how many
    /// index entries it removed.
    pub fn expire_flows(&self, held: bool) -> Result<u32> {
        let failed = |reason: String| Error::Program { program: program::EXPIRE_FLOWS.to_owned(), reason };
        let program: &SchedClassifier = self
            .ebpf
            .program(program::EXPIRE_FLOWS)
            .ok_or_else(|| failed("missing".to_owned()))?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| failed(error.to_string()))?;
        // The program does not look at the packet, but the kernel wants an Ethernet header.
        let packet = [0; 14];
        // The beginning of `struct __sk_buff` (linux/bpf.h): length, type of the packet, mark.
        let mut context = [0; 12];
        context[8..].copy_from_slice(&(u32::from(held) * program::EXPIRE_HELD_PORTS).to_ne_bytes());
        let options =
            TestRunOptions { data_in: Some(&packet), ctx_in: Some(&context), ..TestRunOptions::default() };
        program.test_run(options).map(|result| result.return_value).map_err(|error| failed(error.to_string()))
    }

    /// Size of each pinned map.
    pub fn memory(&self) -> Result<Vec<MapMemory>> {
        self.maps().into_iter().map(|(name, map)| memory(name, map)).collect()
    }

    /// The loaded programs, by name.
    pub fn programs(&self) -> Result<Vec<LoadedProgram>> {
        let mut programs = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let info = program
                .info()
                .map_err(|error| Error::Program { program: name.to_owned(), reason: error.to_string() })?;
            programs.push(LoadedProgram {
                name: name.to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count(),
                jited_bytes: info.size_jitted(),
            });
        }
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(programs)
    }
}

pub(super) fn sum<M: Borrow<MapData>>(
    cells: &PerCpuArray<M, Counter>,
    name: &str,
    index: u32,
) -> Result<Counter> {
    let values =
        cells.get(&index, 0).map_err(|error| Error::Object(format!("map {name}, entry {index}: {error}")))?;
    Ok(values.iter().fold(Counter { packets: 0, bytes: 0 }, |sum, cell| Counter {
        packets: sum.packets.wrapping_add(cell.packets),
        bytes: sum.bytes.wrapping_add(cell.bytes),
    }))
}

fn memory(name: &'static str, map: &MapData) -> Result<MapMemory> {
    let info = map.info().map_err(|error| Error::Object(format!("map {name}: {error}")))?;
    let path = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd());
    let text = fs::read_to_string(&path).map_err(Error::system(format!("read {path}")))?;
    // Named after the limit it once counted against; bytes since kernel commit 90a5527d7686.
    let bytes = text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| Error::Object(format!("{path} has no line memlock")))?;
    Ok(MapMemory {
        name,
        kind: info.map_type().map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}")),
        max_entries: info.max_entries(),
        key_size: info.key_size(),
        value_size: info.value_size(),
        bytes,
    })
}
