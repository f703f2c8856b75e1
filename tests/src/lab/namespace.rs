//! One network namespace and what is run in it.

use std::{fs::File, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::{
    Inner,
    process::{self, Output, Process},
};

/// Longest time that `run` waits.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Longest time that a server may take until it listens.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// A network namespace of the lab: a host's or a container's.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(super) lab: Arc<Inner>,
    name: String,
    netns: String,
}

impl Namespace {
    /// Makes the namespace `<prefix>-<path>`, with its loopback device up.
    pub(super) fn create(lab: &Arc<Inner>, name: &str, path: &str) -> Result<Self> {
        let netns = format!("{}-{path}", lab.prefix);
        lab.add_namespace(&netns)?;
        process::ip(&format!("-n {netns} link set lo up"))?;
        Ok(Self { lab: lab.clone(), name: name.to_owned(), netns })
    }

    /// As `create` for many (name, path): one process makes them all.
    pub(super) fn create_all(lab: &Arc<Inner>, named: &[(String, String)]) -> Result<Vec<Self>> {
        let all = named
            .iter()
            .map(|(name, path)| {
                let netns = format!("{}-{path}", lab.prefix);
                Self { lab: lab.clone(), name: name.clone(), netns }
            })
            .collect::<Vec<_>>();
        let names = all.iter().map(|namespace| namespace.netns.clone()).collect::<Vec<_>>();
        lab.add_namespaces(&names)?;
        let loopbacks = r#"for netns; do ip -n "$netns" link set lo up || exit; done"#;
        let arguments = ["-c", loopbacks, "sh"].into_iter().chain(names.iter().map(String::as_str));
        process::run("sh", &arguments.collect::<Vec<_>>())?.expect_ok()?;
        Ok(all)
    }

    /// The name it was given in the test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of `/run/netns/NAME`, unique on this machine.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Runs a shell command to its end (60 s at most).
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_for(command, RUN_LIMIT)
    }

    /// Runs a shell command to its end, with a limit of its own.
    pub fn run_for(&self, command: &str, limit: Duration) -> Result<Output> {
        self.spawn(command)?.wait(limit).with_context(|| format!("in {}", self.name))
    }

    /// Runs a shell command that must succeed; its standard output.
    pub fn check(&self, command: &str) -> Result<String> {
        let output = self.run(command)?.expect_ok().with_context(|| format!("in {}", self.name))?;
        Ok(output.stdout)
    }

    /// Runs `weft WORDS…` here to its end, for commands that are not addressed to a [`Daemon`](super::daemon::Daemon)
    /// as it was started.
    pub fn weft_command(&self, words: &[&str]) -> Result<Output> {
        let weft = self.lab.tools.weft()?;
        Process::start(&self.netns, weft, words)?.wait(RUN_LIMIT).with_context(|| format!("in {}", self.name))
    }

    /// The path of the `weft` program, for shell commands.
    pub fn weft_program(&self) -> Result<&str> {
        self.lab.tools.weft()
    }

    /// Does something on a thread that is in this namespace: sockets made there stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.netns);
        let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
        let work = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        match thread::scope(|scope| scope.spawn(work).join()) {
            Ok(done) => done.with_context(|| format!("in {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a shell command; it is killed when the handle is dropped.
    pub fn spawn(&self, command: &str) -> Result<Process> {
        Process::start(&self.netns, "sh", &["-c", command])
    }

    /// `ip -n NAME …`, which must succeed.
    pub fn ip(&self, words: &str) -> Result<String> {
        process::ip(&format!("-n {} {words}", self.netns))
    }

    /// `ip -n NAME -json …`, which must succeed.
    pub fn ip_json(&self, words: &str) -> Result<Value> {
        let text = self.ip(&format!("-json {words}"))?;
        // Older iproute2 prints nothing at all for an empty list.
        if text.trim().is_empty() { Ok(Value::Array(Vec::new())) } else { Ok(serde_json::from_str(&text)?) }
    }

    /// Sets a sysctl of this namespace, named with dots as sysctl(8) does.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = name.replace('.', "/");
        self.check(&format!("echo '{value}' > /proc/sys/{path}")).map(drop)
    }

    /// Runs the lab's traffic tool to its end; its JSON result.
    pub fn labtool(&self, words: &str) -> Result<Value> {
        let output = self.start_labtool(words)?.wait(RUN_LIMIT)?.expect_ok()?;
        result(&output.stdout).with_context(|| format!("output of `{}`", output.command))
    }

    /// Starts a traffic client; read its result with [`labtool_result`].
    pub fn start_labtool(&self, words: &str) -> Result<Process> {
        let words = words.split_whitespace().collect::<Vec<_>>();
        Process::start(&self.netns, self.lab.tools.labtool()?, &words)
            .with_context(|| format!("in {}", self.name))
    }

    /// Starts a traffic server and waits until it listens.
    pub fn serve(&self, words: &str) -> Result<Process> {
        let mut server = self.start_labtool(words)?;
        server.wait_line("ready", READY_LIMIT).with_context(|| format!("in {}", self.name))?;
        Ok(server)
    }

    /// An HTTP server on every address that answers each request with `body`, and with the client's address
    /// in the header `X-Client`.
    pub fn serve_http(&self, port: u16, body: &str) -> Result<Process> {
        let arguments = ["http-serve", &format!("[::]:{port}"), "--body", body];
        let mut server = Process::start(&self.netns, self.lab.tools.labtool()?, &arguments)?;
        server.wait_line("ready", READY_LIMIT).with_context(|| format!("in {}", self.name))?;
        Ok(server)
    }

    /// TCP and UDP echo on every address.
    pub fn serve_echo(&self, port: u16) -> Result<Process> {
        self.serve(&format!("echo-serve [::]:{port}"))
    }

    /// TCP and UDP server on every address that answers with the client's address as it sees it.
    pub fn serve_whoami(&self, port: u16) -> Result<Process> {
        self.serve(&format!("whoami-serve [::]:{port}"))
    }

    /// Asks a `serve_whoami` over `tcp` or `udp`: this side's address and port as the server sees them.
    pub fn whoami(&self, protocol: &str, server: &str) -> Result<std::net::SocketAddr> {
        let answer = self.labtool(&format!("whoami {protocol} {server}"))?;
        answer["seen"].as_str().context("no address in the answer")?.parse().context("address in the answer")
    }

    /// `curl` with a limit of 5 s, silent but for errors.
    pub fn curl(&self, url: &str) -> Result<Output> {
        Process::start(&self.netns, "curl", &["--silent", "--show-error", "--max-time", "5", url])?
            .wait(RUN_LIMIT)
    }

    /// Whether a `serve_whoami` answers; an error where it is not the network that keeps it from that.
    pub fn reaches(&self, protocol: &str, server: &str) -> Result<bool> {
        let Err(error) = self.whoami(protocol, server) else { return Ok(true) };
        let text = format!("{error:#}");
        let of_the_network = ["os error 11)", "os error 101)", "os error 111)", "os error 113)", "timed out"];
        if of_the_network.iter().any(|reason| text.contains(reason)) { Ok(false) } else { Err(error) }
    }

    /// Whether `address` answers one of two pings within a second each.
    pub fn pings(&self, address: &str) -> Result<bool> {
        let output =
            self.run(&format!("ping -n -q -c 1 -W 1 {address} || ping -n -q -c 1 -W 1 {address}"))?;
        match output.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            // What is no ping at all is no answer either.
            _ if output.stderr.contains("unreachable") => Ok(false),
            _ => Err(output.expect_ok().err().context("ping succeeded")?),
        }
    }

    /// Whether there is a device of this name.
    pub fn has_device(&self, name: &str) -> Result<bool> {
        let links = self.ip_json("link show")?;
        Ok(links.as_array().context("no list")?.iter().any(|link| link["ifname"] == name))
    }
}

/// The JSON result of a traffic tool: the last line it prints.
pub fn labtool_result(process: &mut Process, limit: Duration) -> Result<Value> {
    result(&process.wait(limit)?.expect_ok()?.stdout)
}

fn result(stdout: &str) -> Result<Value> {
    let line = stdout.lines().last().context("the tool printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))
}
