//! The place of the pins: a BPF file system, one directory for each daemon, one process at a time.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use dataplane_common::abi::ABI_VERSION;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{Error, Result};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// `<bpf_dir>/v<ABI>/{maps,links}`.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub maps: PathBuf,
    pub links: PathBuf,
}

impl Layout {
    pub(super) fn new(bpf_dir: &Path) -> Self {
        let version = bpf_dir.join(format!("v{ABI_VERSION}"));
        Self { maps: version.join("maps"), links: version.join("links") }
    }

    pub(super) fn create(&self) -> Result<()> {
        create_directories(&self.maps)?;
        create_directories(&self.links)
    }
}

fn create_directories(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::system(format!("create directory {}", path.display())))
}

/// The exclusive use of a directory of pins, until dropped.
///
/// The lock is on the directory itself: flock(2) works on a directory of any file system, so there is no file to find,
/// and no stale one after a crash.
#[derive(Debug)]
pub(super) struct Lock {
    _directory: Flock<File>,
}

/// Makes sure that `bpf_dir` is in a BPF file system, mounting one at /sys/fs/bpf where there is none, and locks it.
pub(super) fn prepare(bpf_dir: &Path) -> Result<Lock> {
    let problem = |problem: String| Error::BpfDirectory { path: bpf_dir.to_path_buf(), problem };
    if !bpf_dir.is_absolute() {
        return Err(problem("must be an absolute path".to_owned()));
    }
    // bpf_lookup() in kernel/bpf/inode.c.
    if bpf_dir.components().any(|part| part.as_os_str().to_string_lossy().contains('.')) {
        return Err(problem("the BPF file system allows no dots in names".to_owned()));
    }
    if !is_bpffs(bpf_dir)? {
        if !bpf_dir.starts_with(MOUNT_POINT) {
            return Err(problem(format!(
                "is not in a BPF file system: choose a directory below {MOUNT_POINT}, or mount one there \
                 (`mount -t bpf bpf DIRECTORY`)"
            )));
        }
        mount_bpffs().map_err(problem)?;
        if !is_bpffs(bpf_dir)? {
            return Err(problem(
                "is on another file system, although a BPF file system is mounted above".to_owned(),
            ));
        }
    }
    create_directories(bpf_dir)?;
    lock(bpf_dir)
}

/// Locks an existing directory of pins.
pub(super) fn lock(bpf_dir: &Path) -> Result<Lock> {
    let action = || format!("lock {}", bpf_dir.display());
    let directory = File::open(bpf_dir).map_err(Error::system(action()))?;
    let directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(directory) => directory,
        Err((_, Errno::EWOULDBLOCK)) => return Err(Error::InUse { path: bpf_dir.to_path_buf() }),
        Err((_, errno)) => return Err(Error::system(action())(errno.into())),
    };
    // A teardown may have removed the directory between open and flock: then this lock protects nothing.
    let locked = directory.metadata().map_err(Error::system(action()))?;
    match fs::metadata(bpf_dir) {
        Ok(present) if present.ino() == locked.ino() && present.dev() == locked.dev() => {
            Ok(Lock { _directory: directory })
        }
        Ok(_) => Err(Error::InUse { path: bpf_dir.to_path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::InUse { path: bpf_dir.to_path_buf() })
        }
        Err(error) => Err(Error::system(action())(error)),
    }
}

/// Whether the path, or the nearest directory above it that exists, is in a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> Result<bool> {
    for path in path.ancestors() {
        match statfs(path) {
            Ok(found) => return Ok(found.filesystem_type() == BPF_FS_MAGIC),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Error::system(format!("inspect {}", path.display()))(errno.into())),
        }
    }
    Ok(false)
}

/// Mounts the BPF file system at its usual place. Each mount is a file system of its own, so this must happen in the
/// mount namespace that lasts: pins made in another vanish with it, and with them the programs.
fn mount_bpffs() -> Result<(), String> {
    if is_lasting_mount_namespace() == Some(false) {
        return Err(format!(
            "no BPF file system is mounted at {MOUNT_POINT} in this mount namespace, which is not the machine's own, so \
             that pins would be lost with it. `ip netns exec` makes such a namespace (it remounts /sys): use `nsenter \
             --net=/run/netns/NAME` in its place, or mount a BPF file system at {MOUNT_POINT} first"
        ));
    }
    // Two processes that start at once must not mount one over the other: the first one's pins would be hidden.
    let parent = Path::new(MOUNT_POINT).parent().unwrap_or(Path::new("/"));
    let guard = File::open(parent).map_err(|error| format!("cannot open {}: {error}", parent.display()))?;
    let _guard = Flock::lock(guard, FlockArg::LockExclusive)
        .map_err(|(_, errno)| format!("cannot lock {}: {errno}", parent.display()))?;
    if is_bpffs(Path::new(MOUNT_POINT)).map_err(|error| error.to_string())? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), flags, Some("mode=700")).map_err(|errno| {
        format!("no BPF file system is mounted at {MOUNT_POINT}, and mounting one fails: {errno}")
    })
}

/// Whether this is the mount namespace of the machine's first process; `None` if that cannot be said.
///
/// Numbers of mounts are unique among all namespaces, so two processes in one namespace see common ones. The link
/// /proc/1/ns/mnt would say it directly, but reading it needs the right to trace that process.
fn is_lasting_mount_namespace() -> Option<bool> {
    let mounts = |process: &str| -> Option<HashSet<String>> {
        let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
        Some(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    };
    Some(!mounts("thread-self")?.is_disjoint(&mounts("1")?))
}
