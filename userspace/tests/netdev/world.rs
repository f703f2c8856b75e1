//! A fresh host namespace for a test, with container namespaces that go away with it.

use std::{
    future::Future,
    panic::resume_unwind,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use weft::netdev::{Namespace, NamespaceRef, Netlink, Route};

/// Runs a test on a thread of its own that is in a network namespace of its own, which ends with the thread.
pub fn in_fresh_namespace<F: Future<Output = Result<()>>>(
    test: impl FnOnce() -> F + Send + 'static,
) -> Result<()> {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace; run the tests as root")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        run("ip link set lo up")?;
        runtime.block_on(test())
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a command in the calling thread's namespace and returns what it prints.
pub fn run(command: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().context("no command")?).args(words).output()?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        bail!("{command}: {out}{err}");
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs an `ip -j` or `bridge -j` command and returns its list.
pub fn json(command: &str) -> Result<Vec<Value>> {
    let text = run(command)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match serde_json::from_str(&text)? {
        Value::Array(list) => Ok(list),
        other => bail!("{command}: not a list: {other}"),
    }
}

/// The one device of an `ip -j -d link show` command.
pub fn device(command: &str) -> Result<Value> {
    json(command)?.into_iter().find(|entry| entry["ifname"].is_string()).with_context(|| command.to_owned())
}

/// Makes a route where it is missing; `true` if it was.
pub async fn ensure_route(netlink: &Netlink, route: &Route) -> weft::netdev::Result<bool> {
    netlink.ensure_route(route, &netlink.routes().await?).await
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A named namespace, removed when this is dropped, also by a panic.
pub struct Container {
    /// Its name for `ip -n`.
    pub name: String,
}

impl Container {
    pub fn new() -> Result<Self> {
        let name = format!("weft-netdev-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"))?;
        Ok(Self { name })
    }

    pub fn reference(&self) -> NamespaceRef {
        NamespaceRef::Named(self.name.clone())
    }

    pub async fn open(&self) -> Result<(Namespace, Netlink)> {
        let namespace = self.reference().open()?;
        let netlink = Netlink::in_namespace(&namespace).await?;
        Ok((namespace, netlink))
    }

    /// `ip -j -d link show dev NAME` inside.
    pub fn device(&self, name: &str) -> Result<Value> {
        device(&format!("ip -n {} -j -d link show dev {name}", self.name))
    }

    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(&format!("ip -n {} {arguments}", self.name))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = run(&format!("ip netns del {}", self.name)) {
            eprintln!("namespace {} is left behind: {error:#}", self.name);
        }
    }
}
