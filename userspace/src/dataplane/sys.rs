//! The parts of bpf(2) that aya 0.14 does not offer: batches of map elements, and links as the kernel sees them
//! (where they are attached, by number of the device, and what else is).
//!
//! Each function is one system call. `union bpf_attr` comes from aya-obj's bindings of the kernel's header; unused
//! fields must be zero, which is why every attribute starts zeroed.

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};
use bytemuck::Pod;

/// A link as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub id: u32,
    pub program_id: u32,
    pub target: LinkTarget,
}

/// Where a link is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// A network device; index 0 when the device has gone or the link was detached.
    Tcx { ifindex: u32, attach_type: u32 },
    /// A network device's driver; index 0 likewise.
    Xdp { ifindex: u32 },
    /// A cgroup; number 0 when it has gone or the link was detached.
    Cgroup { id: u64, attach_type: u32 },
    /// A kind of link that weft does not make.
    Other,
}

/// One program on a device, in the order in which the kernel runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcxEntry {
    pub program_id: u32,
    pub link_id: u32,
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers; all zero is what the kernel takes as "not given".
    unsafe { zeroed() }
}

/// # Safety
/// Every address in `attr` must be valid for what `command` does with it.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole bpf_attr; what it points to is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    // File descriptors and zero fit an int by the kernel's own definition.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// # Safety
/// As for [`bpf`], and `command` must be one that answers a new file descriptor.
unsafe fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the descriptor is new and ours.
    unsafe { bpf(command, attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A valid descriptor is never negative.
    fd.as_raw_fd() as u32
}

/// Opens a pinned object.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) }
}

/// Pins an object.
pub(super) fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(fd);
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What the kernel knows about a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: plain integers.
    let mut info: bpf_link_info = unsafe { zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw(link);
    attr.info.info = &raw mut info as u64;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    // SAFETY: the buffer is as long as said and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    // SAFETY: the type says which member of the union the kernel has filled.
    let target = unsafe {
        let detail = &info.__bindgen_anon_1;
        match info.type_ {
            kind if kind == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => {
                LinkTarget::Tcx { ifindex: detail.tcx.ifindex, attach_type: detail.tcx.attach_type }
            }
            kind if kind == bpf_link_type::BPF_LINK_TYPE_XDP as u32 => {
                LinkTarget::Xdp { ifindex: detail.xdp.ifindex }
            }
            kind if kind == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 => {
                LinkTarget::Cgroup { id: detail.cgroup.cgroup_id, attach_type: detail.cgroup.attach_type }
            }
            _ => LinkTarget::Other,
        }
    };
    Ok(LinkInfo { id: info.id, program_id: info.prog_id, target })
}

/// Opens a link by its number.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.link_id = id;
    // SAFETY: no addresses.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr) }
}

/// Attaches a program to a device, before all others on it.
pub(super) fn link_create_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = attach_type as u32;
    // Before nothing in particular: first.
    attr.link_create.flags = BPF_F_BEFORE;
    // SAFETY: no addresses.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Attaches a program to a device's driver. It is never run by the kernel in the driver's place.
pub(super) fn link_create_xdp(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    // XDP_FLAGS_DRV_MODE of linux/if_link.h.
    const DRIVER_MODE: u32 = 1 << 2;
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = DRIVER_MODE;
    // SAFETY: no addresses.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Attaches a program to a cgroup, beside those that are there (a cgroup link always allows several).
pub(super) fn link_create_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup);
    attr.link_create.attach_type = attach_type;
    // SAFETY: no addresses.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Replaces the program of a link: no packet sees neither or both.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    // SAFETY: no addresses.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link off its target at once, whoever else holds it open.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = raw(link);
    // SAFETY: no addresses.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// The programs of a device of the calling thread's network namespace.
pub(super) fn query_tcx(ifindex: u32, attach_type: bpf_attach_type) -> io::Result<Vec<TcxEntry>> {
    // BPF_MPROG_MAX in kernel/bpf/mprog.c: there cannot be more.
    const MOST: usize = 64;
    let mut programs = [0u32; MOST];
    let mut links = [0u32; MOST];
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = attach_type as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = MOST as u32;
    // SAFETY: both arrays have the length said and outlive the call.
    match unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => {}
        // A device that never had a program has no list.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    // SAFETY: the kernel has written the count.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    Ok(programs
        .iter()
        .zip(&links)
        .take(count)
        .map(|(&program_id, &link_id)| TcxEntry { program_id, link_id })
        .collect())
}

/// What a call of [`lookup_batch`] has found.
pub(super) struct Batch {
    /// Elements written.
    pub count: usize,
    /// Whether that was the last batch.
    pub end: bool,
}

/// Reads elements from where the last call stopped (`from`, `None`: the beginning), and where the next one goes on
/// into `next`. `ENOSPC`: a hash bucket has more elements than the slices have room.
///
/// # Safety
/// `K` and `V` must have the key and value size of the map, and `from` and `next` at least four bytes and the size of
/// a key.
pub(super) unsafe fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<&[u8]>,
    next: &mut [u8],
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let mut attr = zeroed_attr();
    attr.batch.map_fd = raw(map);
    attr.batch.in_batch = from.map_or(0, |from| from.as_ptr() as u64);
    attr.batch.out_batch = next.as_mut_ptr() as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = keys.len().min(values.len()) as u32;
    // SAFETY: sizes are the caller's promise, lengths are the slices'; `Pod` takes any bytes.
    let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // SAFETY: the kernel has written the count, or left ours.
    let count = unsafe { attr.batch.count } as usize;
    match result {
        Ok(_) => Ok(Batch { count, end: false }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Batch { count, end: true }),
        Err(error) => Err(error),
    }
}

/// Inserts or replaces elements; on an error, how many had been taken before it.
///
/// # Safety
/// `K` and `V` must have the key and value size of the map, and the slices one length.
pub(super) unsafe fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    let mut attr = zeroed_attr();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = keys.len().min(values.len()) as u32;
    // SAFETY: sizes are the caller's promise, lengths are the slices'; the kernel only reads.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }
        .map(drop)
        // SAFETY: the kernel has written the count.
        .map_err(|error| (unsafe { attr.batch.count } as usize, error))
}

/// Removes elements; on an error, how many had been removed before it.
///
/// # Safety
/// `K` must have the key size of the map.
pub(super) unsafe fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), (usize, io::Error)> {
    let mut attr = zeroed_attr();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.count = keys.len() as u32;
    // SAFETY: the size is the caller's promise, the length is the slice's; the kernel only reads.
    unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr) }
        .map(drop)
        // SAFETY: the kernel has written the count.
        .map_err(|error| (unsafe { attr.batch.count } as usize, error))
}
