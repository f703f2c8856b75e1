//! The daemon's side of the socket.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::protocol::{Reply, Request};

/// Longest request: a list of files, or their texts, which may be some of the largest that are read.
const LONGEST_REQUEST: u64 = 32 << 20;
/// A client that sends nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that wait for the owner of the state; more clients wait at the socket.
const WAITING: usize = 16;

/// A request and where its answer goes.
pub type Call = (Request, oneshot::Sender<Reply>);

/// The socket. It is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    calls: mpsc::Receiver<Call>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens. A socket that a dead daemon left is replaced; a living daemon is an error.
    pub fn listen(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        if is_something_else(path)? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it exists and is not a socket; move it away, or give another --socket",
            ));
        }
        match BlockingStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another weft daemon serves it; stop that one, or give this one another --socket",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let (sender, calls) = mpsc::channel(WAITING);
        let task = tokio::spawn(accept(listener, sender));
        Ok(Self { path: path.to_owned(), calls, task })
    }

    /// The next request.
    pub async fn next(&mut self) -> Option<Call> {
        self.calls.recv().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Nothing could be done about it here; the next daemon replaces a stale socket.
        if matches!(is_something_else(&self.path), Ok(false)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether there is something at this path that is no socket, and so not weft's to remove. A link to a socket is none.
pub fn is_something_else(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(!metadata.file_type().is_socket()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, calls.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: trying at once again would only spin.
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) {
    if let Err(error) = answer(stream, calls).await {
        tracing::debug!(%error, "control connection ended");
    }
}

async fn answer(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST_REQUEST));
    timeout(PATIENCE, reader.read_line(&mut line)).await.map_err(io::Error::other)??;
    let reply = match serde_json::from_str(&line) {
        Err(error) => Reply::Failed(format!("not a request: {error}")),
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            let sent = calls.send((request, sender)).await.is_ok();
            match if sent { receiver.await.ok() } else { None } {
                Some(reply) => reply,
                None => Reply::Failed("the daemon is ending".to_owned()),
            }
        }
    };
    let mut text = serde_json::to_vec(&reply).map_err(io::Error::other)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_stale_socket_is_replaced() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("socket");
        fs::write(&path, "precious")?;
        let refused = Server::listen(&path).map(drop).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|reason| reason.contains("is not a socket")));
        assert_eq!(fs::read_to_string(&path)?, "precious");
        fs::remove_file(&path)?;
        // Closing a listener leaves its name.
        drop(std::os::unix::net::UnixListener::bind(&path)?);
        let server = Server::listen(&path)?;
        assert!(BlockingStream::connect(&path).is_ok());
        assert_eq!(
            Server::listen(&path).map(drop).map_err(|error| error.kind()),
            Err(io::ErrorKind::AddrInUse)
        );
        drop(server);
        assert!(!path.exists());
        Ok(())
    }
}
