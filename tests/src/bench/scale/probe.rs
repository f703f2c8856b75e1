//! When something answers, to the millisecond: a thread in the namespace that tries and tries.

use std::{
    fs::File,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::Namespace;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1);
/// A packet that met a half-made path is lost; the next try must not wait for its retransmission.
const TRY: Duration = Duration::from_millis(20);
/// After so long it never will.
const LIMIT: Duration = Duration::from_secs(60);

/// Tries that go on until a server answers.
#[derive(Debug)]
pub(super) struct Probe(JoinHandle<Result<Instant>>);

impl Probe {
    /// Starts to connect to `server` from this namespace; returns once the first try has failed.
    pub(super) fn start(from: &Namespace, server: SocketAddr) -> Result<Self> {
        let path = format!("/run/netns/{}", from.netns());
        let (sender, failed_once) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Of this thread alone, which ends with it.
            setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {path}"))?;
            let deadline = Instant::now() + LIMIT;
            let mut tries = 0;
            while Instant::now() < deadline {
                match TcpStream::connect_timeout(&server, TRY) {
                    Ok(_) if tries == 0 => bail!("{server} answers before the change"),
                    Ok(_) => return Ok(Instant::now()),
                    Err(error) if error.kind() == ErrorKind::TimedOut => {}
                    Err(_) => thread::sleep(PAUSE),
                }
                tries += 1;
                if tries == 1 {
                    // Nobody waits any more if the main thread has failed.
                    let _ = sender.send(());
                }
            }
            bail!("{server} did not answer within {LIMIT:?}")
        });
        match failed_once.recv() {
            Ok(()) => Ok(Self(thread)),
            Err(_) => Err(join(thread).err().unwrap_or_else(|| anyhow!("the probe of {server} ended early"))),
        }
    }

    /// When the first try succeeded.
    pub(super) fn wait(self) -> Result<Instant> {
        join(self.0)
    }
}

fn join(thread: JoinHandle<Result<Instant>>) -> Result<Instant> {
    thread.join().map_err(|_| anyhow!("the probe panicked"))?
}
