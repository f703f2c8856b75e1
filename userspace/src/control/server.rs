//! The daemon's side of the socket.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
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

/// Longest request: a list of files.
const LONGEST_REQUEST: u64 = 1 << 20;
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
        let _ = fs::remove_file(&self.path);
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
