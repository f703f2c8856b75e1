//! The eBPF object in this binary: what it declares, whether the pinned maps fit it, and loading it.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapError, MapType},
    pin::PinError,
    programs::{Program, ProgramError},
    sys::SyscallError,
};
use aya_obj::generated::bpf_map_type;
use dataplane_common::abi::{map, program};

use super::{Error, Result, Sizes};

/// Built from dataplane-ebpf by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane-ebpf"));

/// The eBPF object of this build, for tests that load it with maps of their own.
pub fn object_bytes() -> &'static [u8] {
    OBJECT
}

/// Maps whose size is configuration. The size of every other map is part of the contract.
const SIZED: &[&str] = &[
    map::DEVICES,
    map::ENDPOINTS,
    map::REMOTES,
    map::PEERS,
    map::VXLAN,
    map::SUBNETS,
    map::ADDRESSES,
    map::PUBLISHED,
    map::FLOWS,
    map::UNCONFIRMED,
    map::PORTS,
    map::MAPPINGS,
    map::HOST_SOCKETS,
    map::FRAGMENTS,
];

/// A map that was pinned with another size than the one asked for. The pinned one is used: making the map anew would
/// lose its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSize {
    /// Name of the map.
    pub map: &'static str,
    /// Its size.
    pub kept: u32,
    /// The size asked for.
    pub wanted: u32,
}

/// The properties that must be equal, with their names.
type Properties = [(&'static str, String); 4];

struct Declared {
    properties: Properties,
    max_entries: u32,
}

/// Loads the object, reusing pinned maps and pinning new ones.
pub(super) fn load(maps: &Path, sizes: &Sizes) -> Result<(Ebpf, Vec<KeptSize>)> {
    let declared = declared()?;
    let mut kept = Vec::new();
    let mut new = Vec::new();
    let mut max_entries = BTreeMap::new();
    for &name in map::ALL {
        let wanted = &declared[name];
        let size = if SIZED.contains(&name) {
            sizes.max_entries(name, wanted.max_entries, declared[map::FLOWS].max_entries)
        } else {
            wanted.max_entries
        };
        max_entries.insert(name, size);
        let pin = maps.join(name);
        // aya opens a pin that exists without comparing it with the object, so that must have happened before.
        match pinned(&pin)? {
            None => new.push(pin),
            Some(found) => {
                compare(&pin, &found.properties, &wanted.properties)?;
                if found.max_entries != size && SIZED.contains(&name) {
                    kept.push(KeptSize { map: name, kept: found.max_entries, wanted: size });
                    max_entries.insert(name, found.max_entries);
                } else if found.max_entries != size {
                    return Err(Error::MapMismatch {
                        path: pin,
                        property: "max_entries",
                        found: found.max_entries.to_string(),
                        expected: size.to_string(),
                    });
                }
            }
        }
    }
    match load_object(maps, &max_entries) {
        Ok(ebpf) => Ok((ebpf, kept)),
        Err(error) => {
            // Maps of an object that did not load are of no use to the next one, which may declare them otherwise.
            for pin in new {
                let _ = fs::remove_file(pin);
            }
            Err(error)
        }
    }
}

fn load_object(maps: &Path, max_entries: &BTreeMap<&'static str, u32>) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (&name, &size) in max_entries {
        loader.map_max_entries(name, size).map_pin_path(name, maps.join(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::Object(with_causes(&error)))?;
    let mut names: HashSet<&str> = program::HOST_SOCKETS.iter().copied().collect();
    names.extend([
        program::FROM_CONTAINER,
        program::TO_CONTAINER,
        program::FROM_BRIDGE,
        program::FROM_UPLINK,
        program::TO_UPLINK,
        program::UPLINK_XDP,
        program::FROM_WAITING_ROOM,
        program::EXPIRE_FLOWS,
    ]);
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::Xdp(program) => program.load(),
            other => return Err(Error::Object(format!("{name} is an unexpected {:?}", other.prog_type()))),
        };
        loaded.map_err(|error| Error::Program { program: name.to_owned(), reason: refusal(&error) })?;
        names.remove(name);
    }
    match names.into_iter().next() {
        None => Ok(ebpf),
        Some(name) => Err(Error::Object(format!("it has no program {name}"))),
    }
}

/// The kernel's answer with the end of the verifier's log, which says where it stopped; the whole may be megabytes.
fn refusal(error: &ProgramError) -> String {
    const LINES: usize = 40;
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
            format!("{io_error}; the verifier's last lines:\n{}", end.join("\n"))
        }
        other => with_causes(other),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// What the object says about the maps of the contract.
fn declared() -> Result<BTreeMap<&'static str, Declared>> {
    let object = aya_obj::Object::parse(OBJECT).map_err(|error| Error::Object(with_causes(&error)))?;
    map::ALL
        .iter()
        .map(|&name| {
            let found =
                object.maps.get(name).ok_or_else(|| Error::Object(format!("it has no map {name}")))?;
            let kind = bpf_map_type::try_from(found.map_type())
                .map_err(|_| Error::Object(format!("map {name} is of unknown type {}", found.map_type())))?;
            let properties =
                properties(MapType::try_from(kind), found.key_size(), found.value_size(), found.map_flags());
            Ok((name, Declared { properties, max_entries: found.max_entries() }))
        })
        .collect()
}

/// What the kernel says about a pinned map; `None` if nothing is pinned there.
fn pinned(pin: &Path) -> Result<Option<Declared>> {
    let failed = |error: MapError| Error::Object(format!("map {}: {}", pin.display(), with_causes(&error)));
    let data = match MapData::from_pin(pin) {
        Ok(data) => data,
        Err(error) if is_not_found(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let info = data.info().map_err(failed)?;
    Ok(Some(Declared {
        properties: properties(info.map_type(), info.key_size(), info.value_size(), info.map_flags()),
        max_entries: info.max_entries(),
    }))
}

fn is_not_found(error: &MapError) -> bool {
    let syscall = match error {
        MapError::SyscallError(syscall) => syscall,
        MapError::PinError { error: PinError::SyscallError(syscall), .. } => syscall,
        _ => return false,
    };
    let SyscallError { io_error, .. } = syscall;
    io_error.kind() == io::ErrorKind::NotFound
}

fn properties(kind: Result<MapType, MapError>, key: u32, value: u32, flags: u32) -> Properties {
    let kind = kind.map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}"));
    [
        ("type", kind),
        ("key size", key.to_string()),
        ("value size", value.to_string()),
        ("flags", format!("{flags:#x}")),
    ]
}

fn compare(pin: &Path, found: &Properties, expected: &Properties) -> Result<()> {
    for ((property, found), (_, expected)) in found.iter().zip(expected) {
        if found != expected {
            return Err(Error::MapMismatch {
                path: PathBuf::from(pin),
                property,
                found: found.clone(),
                expected: expected.clone(),
            });
        }
    }
    Ok(())
}
