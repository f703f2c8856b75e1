//! One thread that starts every process of the lab.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not its process (prctl(2)). A test may start
//! a server from a helper thread and let that thread go, so the forking is done by a thread that lives as
//! long as the process does.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{Mutex, OnceLock, mpsc},
    thread,
};

use nix::{sys::signal::Signal, unistd};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command` in a process group of its own, to be killed when this process ends, however it ends.
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let parent = unistd::getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above.
            if unistd::getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
    let (answer, child) = mpsc::channel();
    let spawner = SPAWNER.get_or_init(|| Mutex::new(start()));
    let gone = || io::Error::other("the lab's spawner thread has ended");
    spawner.lock().map_err(|_| gone())?.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn start() -> mpsc::Sender<Request> {
    let (sender, requests) = mpsc::channel::<Request>();
    thread::spawn(move || {
        for (mut command, answer) in requests {
            // A requester that is gone does not need its answer; the child is then killed by its group.
            if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    });
    sender
}
