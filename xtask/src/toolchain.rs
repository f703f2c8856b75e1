//! The compiler for the BPF target: Debian's rustc with its prebuilt `core`, else rustup's nightly with rust-src.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::command::output;

/// BPF in this machine's byte order.
pub const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Debian's compiler; rustup's may come first in `PATH`.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// How the BPF target is compiled here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// Debian's rustc-web and libstd-rust-web-dev-bpf.
    Debian,
    /// `cargo +nightly -Z build-std=core`.
    Nightly,
}

/// The one that is complete, Debian's first: it need not compile `core`.
pub fn detect() -> Option<Toolchain> {
    let debian = output(Command::new(DEBIAN_RUSTC).args(["--print", "target-libdir", "--target", TARGET]));
    if debian.is_some_and(|directory| has_core(Path::new(&directory))) {
        return Some(Toolchain::Debian);
    }
    let nightly = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    let source = Path::new(&nightly).join("lib/rustlib/src/rust/library/core");
    source.is_dir().then_some(Toolchain::Nightly)
}

/// As `detect`, with an error that tells what to do.
pub fn require() -> Result<Toolchain> {
    let Some(toolchain) = detect() else {
        bail!("no compiler for the BPF target {TARGET}: run `cargo xtask setup`");
    };
    Ok(toolchain)
}

/// Major version of the LLVM in Debian's rustc: bpf-linker must be linked with the same.
pub fn debian_llvm() -> Option<u32> {
    let version = output(Command::new(DEBIAN_RUSTC).arg("-vV"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

fn has_core(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}
