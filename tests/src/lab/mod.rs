//! The lab: makes namespaces, and leaves nothing behind.

pub mod counters;
pub mod daemon;
pub mod host;
pub mod namespace;
pub mod process;
pub mod segment;
pub mod tools;

mod cleanup;
mod leftover;
mod spawner;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::unistd;

use daemon::Installation;
use host::{Container, Host};
use segment::Segment;
use tools::Tools;

/// A set of namespaces with a common, unique name prefix.
///
/// [`Lab::finish`] cleans up and fails if anything is left. A lab that is dropped otherwise is cleaned up too;
/// when that happens on the way of a test that succeeds, the test program ends with exit code 101, for such a
/// test has not checked what it left.
#[derive(Debug)]
pub struct Lab {
    inner: Arc<Inner>,
    finished: bool,
}

/// What the handles of a lab share.
#[derive(Debug)]
pub(crate) struct Inner {
    title: String,
    prefix: String,
    directory: PathBuf,
    tools: Tools,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    namespaces: Vec<String>,
    installations: Vec<Arc<Installation>>,
    number: u32,
}

impl Lab {
    /// Makes an empty lab. `title` is for messages; labs of one title may run side by side.
    pub fn new(title: &str) -> Result<Self> {
        Self::with_tools(title, Tools::find()?)
    }

    /// As `new`, with these programs.
    pub fn with_tools(title: &str, tools: Tools) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        ensure!(
            unistd::geteuid().is_root(),
            "a lab of network namespaces needs root: run `cargo xtask test`"
        );
        cleanup::sweep_dead_labs();
        let prefix = format!("lab{}x{}", unistd::getpid(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let directory = env::temp_dir().join(format!("weft-{prefix}"));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let inner = Inner { title: title.to_owned(), prefix, directory, tools, state: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), finished: false })
    }

    /// What all of its namespaces' names begin with.
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// Its directory for files, removed at the end.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Makes a switch that hosts plug into, for addresses of this range.
    pub fn segment(&self, range: &str) -> Result<Segment> {
        Segment::create(&self.inner, range)
    }

    /// Makes a host.
    pub fn host(&self, name: &str) -> Result<Host> {
        Host::create(&self.inner, name)
    }

    /// Joins two hosts that are on no segment by one cable: `eth0` to `eth0`, with these addresses.
    pub fn cable(&self, a: (&Host, &str), b: (&Host, &str)) -> Result<()> {
        segment::cable((a.0, "eth0", a.1), (b.0, "eth0", b.1))
    }

    /// Joins two containers by one cable.
    pub fn container_cable(&self, a: (&Container, &str), b: (&Container, &str)) -> Result<()> {
        segment::cable((a.0, "eth0", a.1), (b.0, "eth0", b.1))
    }

    /// Prints what the daemons logged, for the reader of a failure.
    pub fn print_logs(&self) {
        self.inner.print_logs();
    }

    /// Kills every process in its namespaces, tears every daemon down, removes everything, and fails if
    /// something had been left.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        let left = cleanup::clean(&self.inner);
        if !left.is_empty() {
            self.inner.print_logs();
        }
        ensure!(left.is_empty(), "the lab `{}` left behind:\n  {}", self.inner.title, left.join("\n  "));
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.inner.print_logs();
        for left in cleanup::clean(&self.inner) {
            eprintln!("the lab `{}` left behind {left}", self.inner.title);
        }
        if !thread::panicking() {
            cleanup::fail_at_exit(&self.inner.title);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number not used before in this lab.
    fn next_number(&self) -> u32 {
        let mut state = self.state();
        state.number += 1;
        state.number
    }

    fn add_namespace(&self, netns: &str) -> Result<()> {
        process::ip(&format!("netns add {netns}"))?;
        self.state().namespaces.push(netns.to_owned());
        Ok(())
    }

    fn add_namespaces(&self, names: &[String]) -> Result<()> {
        let batch = self.directory.join("namespaces.ip");
        fs::write(&batch, names.iter().map(|netns| format!("netns add {netns}\n")).collect::<String>())?;
        // Before they are made: if one cannot be, those before it must be removed.
        self.state().namespaces.extend(names.iter().cloned());
        process::ip(&format!("-batch {}", batch.display())).map(drop)
    }

    fn add_installation(&self, installation: &Arc<Installation>) {
        self.state().installations.push(installation.clone());
    }

    fn bpf_dir(&self, host: &str) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("weft-{}-{host}", self.prefix))
    }

    /// What the daemons logged, for the reader of a failed test.
    fn print_logs(&self) {
        for installation in &self.state().installations {
            if let Ok(log) = fs::read_to_string(&installation.log) {
                eprintln!("--- weft in host {} of lab `{}`:\n{log}---", installation.host, self.title);
            }
        }
    }
}
