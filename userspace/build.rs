//! Builds the eBPF object from source, so that the binary always carries the programs of its own commit.
//!
//! The object is built for `bpfel-unknown-none`, always optimised (unoptimised code does not pass the verifier), by
//! an inner cargo with a target directory of its own: the outer cargo holds the lock of the outer one.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "dataplane-ebpf";

/// Debian's compiler (package rustc-web) comes with a `core` for the BPF targets (libstd-rust-web-dev-bpf).
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// What compiles the programs.
enum Toolchain {
    /// A compiler with a prebuilt `core` for the target.
    Prebuilt,
    /// rustup's nightly with the rust-src component, from which cargo builds `core`.
    BuildStd,
}

fn main() {
    if let Err(message) = run() {
        // Each `cargo::error` line is shown to the user and fails the build.
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<(), String> {
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the manifest's directory has no parent")?
        .to_path_buf();
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    for path in [
        "dataplane-ebpf/src",
        "dataplane-ebpf/Cargo.toml",
        "dataplane-common/src",
        "dataplane-common/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }

    let linker = find_linker()?;
    let toolchain = find_toolchain()?;
    // OUT_DIR is <target>/<profile>/build/<package>-<hash>/out. Its hash differs between build, check, clippy and
    // test; what is built here does not, so it lives beside the profiles and is built once.
    let target_dir =
        out_dir.ancestors().nth(4).ok_or("OUT_DIR is not inside a target directory")?.join("ebpf");

    let mut cargo = match toolchain {
        Toolchain::Prebuilt => {
            let mut cargo = clean(Command::new(variable("CARGO")?));
            // RUSTC_BOOTSTRAP: aya-ebpf uses inline assembly of the BPF target, which is not stable.
            cargo.env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("build");
            cargo
        }
        Toolchain::BuildStd => {
            let mut cargo = clean(Command::new("rustup"));
            cargo.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            cargo
        }
    };
    // A panic path cannot be verified and helpers must inline, whatever the profile of the outer build says.
    // bpf-linker itself does the link time optimisation, on the bitcode of all crates.
    cargo
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_STRIP", "false");
    // --btf: the maps' definitions are BTF, and bpf-linker writes it only when asked. target-cpu v3: 32-bit
    // arithmetic and atomics that return a value; rustc's default is the instruction set of 2014.
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // Else each `memset` of three bytes is a call of a byte loop, and nearly a third of what a packet costs
        // (docs/cost.md). The order of the stores, which is kept instead, matters to no kernel that weft runs on.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
    ];
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["--release", "--target", TARGET, "--package", PACKAGE, "--bin", PACKAGE])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&workspace);

    let output = cargo.output().map_err(|error| format!("cannot run {cargo:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "the eBPF programs do not build ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    for line in String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.starts_with("warning: ")) {
        println!("cargo::warning=dataplane-ebpf: {line}");
    }
    let object = target_dir.join(TARGET).join("release").join(PACKAGE);
    fs::copy(&object, out_dir.join(PACKAGE))
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(())
}

/// Takes what the outer cargo, rustup and clippy have put into the environment out of a command's: their compiler
/// (`RUSTC_WORKSPACE_WRAPPER` is clippy's), flags, profiles and targets are for the host. What says where things
/// are and how to reach the network stays, and the jobserver, so that both share one number of jobs.
fn clean(mut command: Command) -> Command {
    const KEPT: &[&str] = &["CARGO_HOME", "CARGO_MAKEFLAGS", "RUSTUP_HOME", "RUSTUP_DIST_SERVER"];
    const KEPT_PREFIXES: &[&str] =
        &["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    // The toolchain in use is named by RUSTUP_TOOLCHAIN; a call of cargo by its full path does not need it.
    const FOREIGN: &[&str] = &["CARGO", "RUST", "DEP_", "CLIPPY_"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let foreign = FOREIGN.iter().any(|prefix| text.starts_with(prefix))
            || ["TARGET", "HOST", "PROFILE", "OPT_LEVEL", "DEBUG", "OUT_DIR", "NUM_JOBS"].contains(&text);
        let kept = KEPT.contains(&text) || KEPT_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        if foreign && !kept {
            command.env_remove(&name);
        }
    }
    command
}

/// The compiler to use. The prebuilt `core` comes first: its LLVM is of the version that bpf-linker is linked with.
fn find_toolchain() -> Result<Toolchain, String> {
    let prebuilt =
        sysroot(Command::new(SYSTEM_RUSTC)).map(|root| root.join("lib/rustlib").join(TARGET).join("lib"));
    if prebuilt.is_some_and(|path| path.is_dir()) {
        return Ok(Toolchain::Prebuilt);
    }
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    if sysroot(nightly).is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir()) {
        return Ok(Toolchain::BuildStd);
    }
    Err(format!(
        "no compiler for {TARGET}: neither {SYSTEM_RUSTC} with a core library for it nor a nightly toolchain with \
         rust-src.\nRun `cargo xtask setup`, which installs one."
    ))
}

fn sysroot(rustc: Command) -> Option<PathBuf> {
    let output = clean(rustc).args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim_end()))
}

/// bpf-linker by its full path: it is often in cargo's bin directory without that being in PATH.
fn find_linker() -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=PATH");
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::home_dir().map(|home| home.join(".cargo"));
    env::split_paths(&path)
        .chain(cargo_home.or(home).map(|directory| directory.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| "bpf-linker is not installed.\nRun `cargo xtask setup`, which installs it.".to_owned())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"))
}
