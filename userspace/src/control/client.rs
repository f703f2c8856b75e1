//! The command line's side of the socket.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::protocol::{Reply, Request};

/// A round with a thousand new containers takes seconds; a daemon that is stuck should not hang the shell for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no weft daemon is running ({} is not served); start one with: weft daemon -f FILE", .0.display())]
    NotRunning(PathBuf),
    /// The socket failed.
    #[error("cannot talk to the daemon at {}: {source}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the daemon at {} answered something else than this weft understands ({source}); are both of one version?", socket.display())]
    Unintelligible {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks the daemon.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, Error> {
    let failed = |source| Error::Io { socket: socket.to_owned(), source };
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(Error::NotRunning(socket.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    // A daemon that is killed between the connection and its answer.
    let died = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Error::NotRunning(socket.to_owned()),
        _ => failed(error),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let unintelligible = |source| Error::Unintelligible { socket: socket.to_owned(), source };
    let mut line = serde_json::to_vec(request).map_err(unintelligible)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(died)?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer).map_err(died)? == 0 {
        return Err(Error::NotRunning(socket.to_owned()));
    }
    serde_json::from_str(&answer).map_err(unintelligible)
}
