//! What can go wrong between the controller and the kernel's BPF, in words a person can act on.

use std::{io, path::PathBuf};

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory for pins is not where pins can be.
    #[error("{path}: {problem}")]
    BpfDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Another process works on the same pins.
    #[error("{path} is in use by another weft process; stop it, or give this one another --bpf-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation or system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, on what.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pinned map is not what the programs expect; using it would corrupt memory.
    #[error(
        "pinned map {path} has {property} {found}, the programs expect {expected}: it was made by another build \
         of weft. `weft teardown` removes it, and every flow with it"
    )]
    MapMismatch {
        /// The pin.
        path: PathBuf,
        /// Which property differs.
        property: &'static str,
        /// Its value in the kernel.
        found: String,
        /// Its value in the object.
        expected: String,
    },
    /// The embedded object is not what the contract in `dataplane_common::abi` says.
    #[error("the eBPF object of this build is not usable: {0}")]
    Object(String),
    /// The kernel refused a program.
    #[error("the kernel does not load eBPF program {program}: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// The kernel's answer and the end of the verifier's log.
        reason: String,
    },
    /// A map has no room left.
    #[error("map {map} is full ({max_entries} entries): ask for a larger size and run `weft teardown` once")]
    MapFull {
        /// Its name.
        map: &'static str,
        /// Its size.
        max_entries: u32,
    },
    /// The network device does not exist in the calling thread's network namespace.
    #[error("device {device} (index {ifindex}) does not exist")]
    NoDevice {
        /// Its name, as the caller knows it.
        device: String,
        /// Its index.
        ifindex: u32,
    },
    /// Removing failed in part; everything else has been removed.
    #[error("not everything was removed:\n{}", .0.join("\n"))]
    Teardown(Vec<String>),
}

impl Error {
    /// For `map_err` on system calls.
    pub(super) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
