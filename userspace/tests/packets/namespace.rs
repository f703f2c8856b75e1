//! A network namespace that lives as long as a thread.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};

use crate::Result;

/// Runs `body` on a thread of its own in a network namespace of its own. Both end with it.
pub fn in_namespace<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("a network namespace (the tests need root): {error}"))?;
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs lines of `ip` in this thread's namespace, which child processes inherit.
pub fn ip(lines: &str) -> Result {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("ip: {error}"))?;
    child.stdin.take().ok_or("ip has no stdin")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip -batch: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// Sets `net.ipv4.ip_forward` of this thread's namespace.
pub fn set_forwarding(on: bool) -> Result {
    Ok(fs::write("/proc/sys/net/ipv4/ip_forward", if on { "1" } else { "0" })?)
}
