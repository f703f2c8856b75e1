//! `cargo xtask setup`: installs what is missing, and says what and why.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{find_program, output, privileged, run as run_command},
    toolchain::{self, Toolchain},
};

/// Options of `setup`: none, it looks for itself.
#[derive(Debug, clap::Args)]
pub struct Options {}

/// The linker's version that goes with the pinned aya.
const BPF_LINKER: &str = "0.13.0";
/// The oldest Debian compiler that builds the pinned aya-ebpf, as (major, minor).
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// Programs that building, labs and tests use: program, Debian package, reason.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("bpftool", "bpftool", "shows maps, programs and links; the lab checks with it that none is left"),
    ("ip", "iproute2", "makes the network namespaces of the lab"),
    ("nsenter", "util-linux", "runs programs in the namespaces of the lab"),
    ("ping", "iputils-ping", "test client: ICMP"),
    ("ethtool", "ethtool", "switches offloads in tests"),
    ("curl", "curl", "test client: HTTP"),
    ("iperf3", "iperf3", "test client and server: throughput"),
    ("socat", "socat", "test client: sockets of every kind"),
    ("nginx", "nginx-light", "test server: the published web server of the demonstration"),
    ("redis-server", "redis-server", "benchmark: a real application"),
    ("redis-benchmark", "redis-tools", "benchmark: its client"),
    ("wrk", "wrk", "benchmark: client of the web server"),
    ("tcpdump", "tcpdump", "shows what is on the wires of a lab"),
    ("nft", "nftables", "the kernel's way of address translation, to compare with; drops packets in tests"),
    ("iptables", "iptables", "the kernel's way of address translation, to compare with"),
    ("/usr/lib/usrsctp/client", "libusrsctp-examples", "test client and server: SCTP"),
    ("conntrack", "conntrack", "forgets the kernel's flows when a comparison changes its configuration"),
];

/// Packages of servers, and what their installation would start.
const SERVICES: &[(&str, &str)] =
    &[("nginx-light", "nginx.service"), ("redis-server", "redis-server.service")];

/// Installs what is missing.
pub fn run(_: &Options) -> Result<()> {
    let apt = find_program("apt-get").is_some() && is_debian();
    let mut apt = apt.then(Apt::default);
    programs(apt.as_mut())?;
    let toolchain = compiler(apt.as_mut())?;
    linker(apt.as_mut(), toolchain)?;
    clippy(apt.as_mut(), toolchain);
    eprintln!("setup: everything is there");
    Ok(())
}

/// Debian's package tool; its lists are brought up to date once, before the first installation.
#[derive(Default)]
struct Apt {
    updated: bool,
}

impl Apt {
    fn update(&mut self) -> Result<()> {
        if !self.updated {
            run_command(privileged("apt-get")?.args(["update", "--quiet"]))?;
            self.updated = true;
        }
        Ok(())
    }

    fn install(&mut self, packages: &[&str]) -> Result<()> {
        self.update()?;
        // `env` goes through sudo, too, which may not keep the variable.
        let mut command = privileged("env")?;
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"]);
        run_command(command.arg("--no-install-recommends").args(packages))
    }

    /// The compiler's version in the package lists, as (major, minor).
    fn rustc_candidate(&mut self) -> Result<Option<(u32, u32)>> {
        self.update()?;
        let policy = output(Command::new("apt-cache").args(["policy", "rustc-web"])).unwrap_or_default();
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(candidate.and_then(version))
    }
}

fn programs(apt: Option<&mut Apt>) -> Result<()> {
    let missing = PROGRAMS.iter().filter(|(program, ..)| find_program(program).is_none());
    let missing = missing.collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    for (program, package, reason) in &missing {
        eprintln!("setup: {program} (package {package}): {reason}");
    }
    let packages = missing.iter().map(|(_, package, _)| *package).collect::<Vec<_>>();
    let Some(apt) = apt else {
        let names = missing.iter().map(|(program, ..)| *program).collect::<Vec<_>>().join(", ");
        bail!("missing programs: {names}. Install them with your package manager and run this again");
    };
    // Debian starts a server when it is installed; weft wants the programs only.
    for (package, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        if Path::new("/run/systemd/system").is_dir() {
            eprintln!("setup: {service} is masked, so that {package} starts nothing on this machine");
            run_command(privileged("systemctl")?.args(["mask", service]))?;
        }
    }
    apt.install(&packages)
}

fn compiler(apt: Option<&mut Apt>) -> Result<Toolchain> {
    if let Some(toolchain) = toolchain::detect() {
        return Ok(toolchain);
    }
    if let Some(apt) = apt
        && apt.rustc_candidate()?.is_some_and(|version| version >= OLDEST_RUSTC)
    {
        eprintln!("setup: rustc-web, libstd-rust-web-dev-bpf: a compiler with `core` for the BPF target");
        apt.install(&["rustc-web", "libstd-rust-web-dev-bpf"])?;
    } else if find_program("rustup").is_some() {
        eprintln!("setup: rustup's nightly with rust-src: `core` is compiled for the BPF target");
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        run_command(command.args(["--component", "rust-src", "--component", "clippy"]))?;
    } else {
        let (major, minor) = OLDEST_RUSTC;
        bail!(
            "no compiler for the BPF target: this system has no package rustc-web of version {major}.{minor} or \
             newer, and there is no rustup. Install rustup from https://rustup.rs, then run \
             `rustup toolchain install nightly --component rust-src`"
        );
    }
    toolchain::detect().context(
        "the compiler is installed but has no `core` for the BPF target: `rustup component add rust-src \
         --toolchain nightly` adds its source",
    )
}

fn linker(apt: Option<&mut Apt>, toolchain: Toolchain) -> Result<()> {
    let installed = output(Command::new("bpf-linker").arg("--version")).unwrap_or_default();
    if installed.split_whitespace().any(|word| word == BPF_LINKER) {
        return Ok(());
    }
    eprintln!("setup: bpf-linker {BPF_LINKER}: links the eBPF object and makes its BTF");
    let mut command = Command::new("cargo");
    command.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
    if toolchain == Toolchain::Debian {
        let llvm = toolchain::debian_llvm().context("Debian's rustc does not tell its LLVM version")?;
        let prefix = format!("/usr/lib/llvm-{llvm}");
        if !Path::new(&prefix).join("bin/llvm-config").is_file() {
            let package = format!("llvm-{llvm}-dev");
            let apt = apt.with_context(|| format!("{package} is missing, and there is no apt-get"))?;
            eprintln!("setup: {package}: the LLVM of Debian's rustc, which bpf-linker is linked with");
            apt.install(&[&package])?;
        }
        command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        command.env("LLVM_PREFIX", prefix);
    }
    run_command(&mut command)?;
    ensure!(
        find_program("bpf-linker").is_some(),
        "bpf-linker is installed in cargo's bin directory, which is not in PATH: add it"
    );
    Ok(())
}

/// Only `lint` needs it, which says so when it is not there.
fn clippy(apt: Option<&mut Apt>, toolchain: Toolchain) {
    let missing = toolchain == Toolchain::Debian && !Path::new("/usr/bin/clippy-driver").is_file();
    if let (true, Some(apt)) = (missing, apt) {
        eprintln!("setup: rust-web-clippy: clippy of Debian's compiler, for `cargo xtask lint`");
        if let Err(error) = apt.install(&["rust-web-clippy"]) {
            eprintln!("setup: no clippy for the BPF target: {error:#}");
        }
    }
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|id| id == "debian" || id == "ubuntu")
}

/// (1, 96) of `1.96.0+dfsg1-1~deb12u2`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_debian_packages() {
        assert_eq!(version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(version("(none)"), None);
        assert!(version("1.85.0").is_some_and(|old| old < OLDEST_RUSTC));
    }
}
