//! Where the cgroup2 hierarchy is.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{Error, Result};

/// The root of the cgroup2 hierarchy, open.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: File,
    path: PathBuf,
    /// The number that links report: the inode of the directory, since kernfs has 64-bit inodes (kernel commit
    /// 74321038a487).
    id: u64,
}

impl Cgroup {
    /// Opens the directory given, or finds the hierarchy's root.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_path_buf(),
            None => find()?,
        };
        let action = || format!("open cgroup {}", path.display());
        let kind = statfs(&path).map_err(|errno| Error::system(action())(errno.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(Error::BpfDirectory { path, problem: "is not in a cgroup2 hierarchy".to_owned() });
        }
        let directory = File::open(&path).map_err(Error::system(action()))?;
        let id = directory.metadata().map_err(Error::system(action()))?.ino();
        Ok(Self { directory, path, id })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The mount of the whole hierarchy: /sys/fs/cgroup on most machines, /sys/fs/cgroup/unified on hybrid ones.
fn find() -> Result<PathBuf> {
    const MOUNTS: &str = "/proc/thread-self/mountinfo";
    let mounts = fs::read_to_string(MOUNTS).map_err(Error::system(format!("read {MOUNTS}")))?;
    root_of_cgroup2(&mounts).ok_or_else(|| Error::BpfDirectory {
        path: PathBuf::from(MOUNTS),
        problem: "lists no mount of the cgroup2 hierarchy's root. `ip netns exec` hides it (it remounts /sys): use \
                  `nsenter --net=/run/netns/NAME` in its place; else `mount -t cgroup2 none DIRECTORY`"
            .to_owned(),
    })
}

/// proc_pid_mountinfo(5): id, parent, device, root, mount point, options, optional fields, "-", type, …
fn root_of_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let is_root = file_system.split(' ').next()? == "cgroup2" && root == "/";
        // An octal escape (a blank in the path) would need decoding; nobody mounts cgroups at such a place.
        (is_root && !mount_point.contains('\\')).then(|| PathBuf::from(mount_point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_on_unified_and_hybrid_machines() {
        let unified = "25 24 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(root_of_cgroup2(unified), Some(PathBuf::from("/sys/fs/cgroup")));
        let hybrid = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 30 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(root_of_cgroup2(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_part_of_the_hierarchy_is_not_its_root() {
        let part = "41 30 0:38 /system.slice /mnt/part rw - cgroup2 cgroup2 rw\n";
        assert_eq!(root_of_cgroup2(part), None);
        assert_eq!(root_of_cgroup2("nonsense"), None);
    }
}
