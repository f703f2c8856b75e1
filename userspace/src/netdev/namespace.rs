//! Network namespaces: finding, identifying and entering them.

use std::{
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};
use tokio::sync::oneshot;

use super::error::{Error, Result};

/// How a network namespace is named. Plain data: it keeps no namespace alive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceRef {
    /// `/run/netns/NAME`, as `ip netns add NAME` makes it.
    Named(String),
    /// The namespace of a process.
    Pid(u32),
    /// Any file of the nsfs file system, such as Docker's `SandboxKey`.
    Path(PathBuf),
}

/// What makes two namespaces the same: device and inode of the nsfs file.
///
/// The kernel may reuse an inode once the namespace is gone; [`Namespace::cookie`] is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceIdentity {
    /// Device number of nsfs.
    pub device: u64,
    /// Inode number, as `lsns` and `ls -L -i /run/netns` print it.
    pub inode: u64,
}

impl fmt::Display for NamespaceRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(out, "network namespace {name}"),
            Self::Pid(pid) => write!(out, "the network namespace of process {pid}"),
            Self::Path(path) => write!(out, "the network namespace {}", path.display()),
        }
    }
}

impl NamespaceRef {
    fn path(&self) -> Result<PathBuf> {
        match self {
            // A name with a slash would lead out of the directory; `ip netns` refuses the same ones.
            Self::Named(name)
                if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) =>
            {
                Err(self.unusable("a name is one file name in /run/netns"))
            }
            Self::Named(name) => Ok(PathBuf::from("/run/netns").join(name)),
            Self::Pid(pid) => Ok(PathBuf::from(format!("/proc/{pid}/ns/net"))),
            Self::Path(path) => Ok(path.clone()),
        }
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::Namespace { namespace: self.to_string(), reason: reason.into() }
    }

    fn open_file(&self) -> Result<Option<(File, NamespaceIdentity)>> {
        let path = self.path()?;
        let file = match File::open(&path) {
            Ok(file) => file,
            // ESRCH and a vanished directory both mean that the process has ended.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::system(format!("open {}", path.display()), error)),
        };
        let kind = fstatfs(&file)
            .map_err(|errno| Error::system(format!("examine {}", path.display()), errno))?
            .filesystem_type();
        if kind != NSFS_MAGIC {
            // What is left of `ip netns add` after a reboot, or when its mount was undone.
            return Err(self.unusable(format!(
                "{} is an ordinary file, nothing is mounted on it; remove it and create the namespace again",
                path.display()
            )));
        }
        let metadata =
            file.metadata().map_err(|error| Error::system(format!("examine {}", path.display()), error))?;
        Ok(Some((file, NamespaceIdentity { device: metadata.dev(), inode: metadata.ino() })))
    }

    /// Identity of the namespace that this names now, `None` if there is none.
    pub fn identity(&self) -> Result<Option<NamespaceIdentity>> {
        Ok(self.open_file()?.map(|(_, identity)| identity))
    }

    /// Opens the namespace; an error if there is none.
    pub fn open(&self) -> Result<Namespace> {
        match self.open_file()? {
            Some((file, identity)) => Ok(Namespace { file, identity, label: self.to_string() }),
            None => Err(self.unusable(match self {
                Self::Named(name) => format!("it does not exist; create it with: ip netns add {name}"),
                Self::Pid(pid) => format!("process {pid} does not exist; start it first"),
                Self::Path(path) => format!("{} does not exist", path.display()),
            })),
        }
    }
}

/// An open network namespace. It lives on as long as this is held, even when its name and processes are gone:
/// hold it for one operation only.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    identity: NamespaceIdentity,
    label: String,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.label)
    }
}

impl Namespace {
    /// The namespace of the calling thread, which in the daemon is that of the whole process.
    pub fn own() -> Result<Self> {
        let mut namespace = NamespaceRef::Path("/proc/thread-self/ns/net".into()).open()?;
        namespace.label = "the own network namespace".into();
        Ok(namespace)
    }

    /// Device and inode number.
    pub fn identity(&self) -> NamespaceIdentity {
        self.identity
    }

    /// The kernel's never reused number of this namespace (`SO_NETNS_COOKIE`, Linux 5.14), the same that eBPF
    /// programs get from `bpf_get_netns_cookie`.
    pub async fn cookie(&self) -> Result<u64> {
        self.run("read the namespace's cookie", || {
            let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            let mut cookie = 0_u64;
            let mut length = size_of_val(&cookie) as libc::socklen_t;
            // SAFETY: both pointers lead to live variables, and `length` is the size of `cookie`.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_NETNS_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut length,
                )
            };
            if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
        })
        .await
    }

    /// Runs `work` on a new thread inside this namespace; what sockets it makes stay in this namespace.
    ///
    /// A thread of its own, ended at once: a runtime's thread that entered a namespace would take later tasks with it.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let describe = || format!("{operation} of {}", self.label);
        let file = self.file.try_clone().map_err(|error| Error::system(describe(), error))?;
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("weft-namespace".into())
            .spawn(move || {
                let result =
                    setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| work());
                // The receiver is gone only if the caller was cancelled: nobody wants the result.
                let _ = sender.send(result);
            })
            .map_err(|error| Error::system(describe(), error))?;
        match receiver.await {
            Ok(result) => result.map_err(|error| Error::system(describe(), error)),
            Err(_) => {
                Err(Error::system(describe(), io::Error::other("the thread inside the namespace panicked")))
            }
        }
    }
}
