//! Where a test works: directory of pins, cgroup, network namespace.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dataplane_common::abi::{ABI_VERSION, Address, Device, DeviceRole, EndpointKey};
use nix::sched::{CloneFlags, unshare};
use weft::dataplane::{Dataplane, Error, Options, Sizes};

/// Directory of pins and cgroup of one test, removed at its end, however it ends.
pub struct Place {
    pub options: Options,
    pub cgroup: PathBuf,
}

impl Place {
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weft-test-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .context("no cgroup2 mount")?;
        let cgroup = Path::new(root).join(&name);
        fs::create_dir(&cgroup)?;
        let bpf_dir = Path::new("/sys/fs/bpf").join(name);
        let options = Options { bpf_dir, cgroup: Some(cgroup.clone()), sizes: Sizes::default() };
        Ok(Self { options, cgroup })
    }

    pub fn open(&self) -> Result<Dataplane, Error> {
        Dataplane::open(&self.options)
    }

    pub fn maps(&self) -> PathBuf {
        self.options.bpf_dir.join(format!("v{ABI_VERSION}/maps"))
    }

    pub fn links(&self) -> PathBuf {
        self.options.bpf_dir.join(format!("v{ABI_VERSION}/links"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not by teardown(), which is under test.
        let _ = fs::remove_dir_all(&self.options.bpf_dir);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Runs a test in a thread of its own in a network namespace of its own, which ends with the thread.
pub fn in_namespace(test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        test()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

pub fn run(command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let output =
        Command::new(words.next().unwrap_or_default()).args(words).output().context(command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A veth pair in the current namespace; the first device's index.
pub fn veth(name: &str, peer: &str) -> Result<u32> {
    run(&format!("ip link add name {name} type veth peer name {peer}"))?;
    Ok(nix::net::if_::if_nametoindex(name)?)
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// An ABI struct with every field zero.
pub fn zeroed<T: bytemuck::Zeroable>() -> T {
    T::zeroed()
}

pub fn v4(last: u32) -> Address {
    Address::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + last)))
}

pub fn device(mtu: u32) -> Device {
    Device { role: DeviceRole::CONTAINER, mtu, ..zeroed() }
}

pub fn endpoint_key(number: u32) -> EndpointKey {
    EndpointKey { network: 1, address: v4(number) }
}
