//! A `weft daemon` in a host.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    host::Host,
    leftover,
    process::{Output, Process},
};

/// Longest time until `ready`.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longest time of one command of the CLI.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Longest time of `weft teardown`, which removes every device of a host with a thousand containers.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(300);

/// Where one daemon lives; kept by the lab for the clean-up after the handle is gone.
#[derive(Debug)]
pub(super) struct Installation {
    pub(super) host: String,
    pub(super) netns: String,
    pub(super) weft: String,
    pub(super) file: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) bpf_dir: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) log: PathBuf,
    /// The devices of the host before weft came.
    pub(super) devices: BTreeSet<String>,
}

/// A running `weft daemon`; dropping it kills it, the lab tears its dataplane down at the end.
#[derive(Debug)]
pub struct Daemon {
    installation: Arc<Installation>,
    host: Host,
    process: Process,
}

impl Daemon {
    pub(super) fn start(host: &Host, text: &str, limit: Duration) -> Result<Self> {
        let lab = &host.lab;
        let directory = &lab.directory;
        let installation = Arc::new(Installation {
            host: host.name().to_owned(),
            netns: host.netns().to_owned(),
            weft: lab.tools.weft()?.to_owned(),
            file: directory.join(format!("{}.yaml", host.name())),
            state_dir: directory.join(format!("{}.state", host.name())),
            bpf_dir: lab.bpf_dir(host.name()),
            socket: directory.join(format!("{}.sock", host.name())),
            log: directory.join(format!("{}.log", host.name())),
            devices: leftover::devices(host.netns())?,
        });
        write_atomically(&installation.file, &host.localized(text))?;
        lab.add_installation(&installation);
        let process = installation.run_daemon(limit)?;
        Ok(Self { installation, host: host.clone(), process })
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The file it watches.
    pub fn file(&self) -> &Path {
        &self.installation.file
    }

    /// Its directory of pins.
    pub fn bpf_dir(&self) -> &Path {
        &self.installation.bpf_dir
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.installation.socket
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.installation.state_dir
    }

    /// Everything it has logged, over restarts.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.installation.log)?)
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and waits until it has ended with exit code 0. The dataplane stays.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(COMMAND_LIMIT)?.expect_ok().map(drop)
    }

    /// Starts it again after `kill9` or `terminate`, or kills it first, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = self.installation.run_daemon(READY_LIMIT)?;
        Ok(())
    }

    /// Replaces the watched file in one step. Does not wait until the daemon has applied it.
    pub fn rewrite(&self, text: &str) -> Result<()> {
        write_atomically(&self.installation.file, &self.host.localized(text))
    }

    /// Writes files into a directory of this daemon's own, each in one step, and says where that is. The daemon reads it
    /// once it has been told to.
    pub fn write_directory(&self, files: &[(String, String)]) -> Result<PathBuf> {
        let directory = self.installation.file.with_extension("d");
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        for (name, text) in files {
            write_atomically(&directory.join(name), &self.host.localized(text))?;
        }
        Ok(directory)
    }

    /// Runs `weft WORDS…` against this daemon.
    pub fn command(&self, words: &[&str]) -> Result<Output> {
        self.installation.command(words)
    }

    /// Runs `weft WORDS… -o json`, which must succeed.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let output = self.command(&[words, &["-o", "json"]].concat())?.expect_ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("output of `{}`", output.command))
    }

    /// Kills the daemon and runs `weft teardown`, which must succeed.
    pub fn teardown(&mut self) -> Result<()> {
        self.process.kill();
        self.installation.teardown()?.expect_ok().map(drop)
    }
}

impl Installation {
    fn run_daemon(&self, limit: Duration) -> Result<Process> {
        let [file, state, bpf, socket] = self.paths();
        let arguments =
            ["daemon", "-f", &file, "--state-dir", &state, "--bpf-dir", &bpf, "--socket", &socket];
        let mut process = Process::start_with_log(&self.netns, &self.weft, &arguments, &self.log)?;
        process.wait_line("ready", limit).with_context(|| format!("host {}", self.host))?;
        Ok(process)
    }

    fn command(&self, words: &[&str]) -> Result<Output> {
        let [_, _, bpf, socket] = self.paths();
        let options: &[&str] = match words.first() {
            // Looks at files only.
            Some(&"config") => &[],
            _ => &["--socket", &socket, "--bpf-dir", &bpf],
        };
        Process::start(&self.netns, &self.weft, &[words, options].concat())?
            .wait(COMMAND_LIMIT)
            .with_context(|| format!("host {}", self.host))
    }

    pub(super) fn teardown(&self) -> Result<Output> {
        let [_, state, bpf, socket] = self.paths();
        let arguments = ["teardown", "--state-dir", &state, "--bpf-dir", &bpf, "--socket", &socket];
        Process::start(&self.netns, &self.weft, &arguments)?
            .wait(TEARDOWN_LIMIT)
            .with_context(|| format!("host {}", self.host))
    }

    fn paths(&self) -> [String; 4] {
        [&self.file, &self.state_dir, &self.bpf_dir, &self.socket].map(|path| path.display().to_string())
    }
}

/// Writes beside the file and renames, as editors and configuration tools do.
fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("yaml.new");
    fs::write(&beside, text).with_context(|| format!("writing {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("renaming to {}", path.display()))
}
