//! Processes in namespaces: started in a group of their own, killed when their handle goes.

use std::{
    fs::File,
    io::{Read, Seek},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use super::spawner;

/// How often a running process is looked at.
const POLL: Duration = Duration::from_millis(5);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code was 0.
    pub fn ok(&self) -> bool {
        self.status.success()
    }

    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Itself if the exit code was 0, else an error with everything the command said.
    pub fn expect_ok(self) -> Result<Self> {
        ensure!(
            self.ok(),
            "`{}` ended with {}\nstdout: {}\nstderr: {}",
            self.command,
            self.status,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        );
        Ok(self)
    }
}

/// A running process and its process group.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program args…` in the network namespace `netns`, as the machine's own mounts and cgroups see it
    /// (`ip netns exec` would remount /sys and hide bpffs and the cgroups).
    pub(super) fn start(netns: &str, program: &str, arguments: &[&str]) -> Result<Self> {
        let output = || -> Result<File> { Ok(tempfile::tempfile()?) };
        Self::start_into(netns, program, arguments, output()?, output()?)
    }

    /// As `start`, with stderr kept in a named file.
    pub(super) fn start_with_log(netns: &str, program: &str, arguments: &[&str], log: &Path) -> Result<Self> {
        let stderr = File::options().create(true).append(true).read(true).open(log)?;
        Self::start_into(netns, program, arguments, tempfile::tempfile()?, stderr)
    }

    fn start_into(netns: &str, program: &str, args: &[&str], stdout: File, stderr: File) -> Result<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(program).args(args);
        // Files, not pipes: a process that says much must not stop because nobody reads.
        command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let words = std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
        let child = spawner::spawn(command).with_context(|| format!("starting `{words}` in {netns}"))?;
        Ok(Self { command: words, child, stdout, stderr, status: None })
    }

    /// The process id, also the id of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Standard output so far.
    pub fn stdout(&self) -> Result<String> {
        contents(&self.stdout)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> Result<String> {
        contents(&self.stderr)
    }

    /// Waits until the process has printed this line on standard output.
    pub fn wait_line(&mut self, line: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if self.stdout()?.lines().any(|printed| printed == line) {
                return Ok(());
            }
            if let Some(status) = status {
                bail!(
                    "`{}` ended with {status} before it printed `{line}`\nstderr: {}",
                    self.command,
                    self.stderr()?
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "`{}` did not print `{line}` within {limit:?}\nstderr: {}",
                    self.command,
                    self.stderr()?
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.status()?.is_none(), "`{}` has ended already", self.command);
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Waits for the end; kills the process and fails when it takes longer.
    pub fn wait(&mut self, limit: Duration) -> Result<Output> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.status()? {
                break status;
            }
            if Instant::now() > deadline {
                self.kill();
                bail!(
                    "`{}` did not end within {limit:?}\nstdout: {}\nstderr: {}",
                    self.command,
                    self.stdout()?,
                    self.stderr()?
                );
            }
            thread::sleep(POLL);
        };
        Ok(Output { command: self.command.clone(), status, stdout: self.stdout()?, stderr: self.stderr()? })
    }

    /// Kills the whole process group and waits for the process.
    pub fn kill(&mut self) {
        // The group's id stays ours as long as the process has not been waited for; after that it may belong
        // to someone else, so what an ended leader left behind is found by its namespace instead.
        if matches!(self.status(), Ok(None)) {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            self.status = self.child.wait().ok().or_else(|| Some(ExitStatus::from_raw(9)));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a file from its start by position, for the processes that write share its offset.
fn contents(file: &File) -> Result<String> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a program outside of the lab's namespaces (`ip`, `bpftool`).
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<Output> {
    let mut stdout = tempfile::tempfile()?;
    let mut stderr = tempfile::tempfile()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let status = spawner::spawn(command)
        .and_then(|mut child| child.wait())
        .with_context(|| format!("running {program}; `cargo xtask setup` installs what the lab needs"))?;
    let read = |file: &mut File| -> Result<String> {
        let mut text = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let command = format!("{program} {}", arguments.join(" "));
    Ok(Output { command, status, stdout: read(&mut stdout)?, stderr: read(&mut stderr)? })
}

/// Runs `ip` with these words and fails if it fails.
pub(super) fn ip(words: &str) -> Result<String> {
    let arguments = words.split_whitespace().collect::<Vec<_>>();
    Ok(run("ip", &arguments)?.expect_ok()?.stdout)
}
