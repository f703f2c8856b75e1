//! Programs on devices and on the cgroup hierarchy, as pinned links.
//!
//! A link lives as long as its pin: it survives the daemon, and a new daemon replaces its program in place
//! (`BPF_LINK_UPDATE`), so that at no moment a packet passes without program or with two. What is attached is always
//! asked of the kernel; nothing is remembered here. Links are made with bpf(2) itself and not with aya, because aya 0.14
//! can neither attach to a device by index, nor replace a cgroup link's program, nor say where a link is attached.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::programs::ProgramFd;
use aya_obj::generated::bpf_attach_type;
use dataplane_common::abi::program;

use super::{
    Error, Result,
    cgroup::Cgroup,
    sys::{self, LinkTarget},
    xdp,
};

/// A program for a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcProgram {
    /// Ingress of the host side of a container's veth.
    FromContainer,
    /// Egress of a network's bridge.
    ToContainer,
    /// Ingress of an isolated network's bridge.
    FromBridge,
    /// Ingress of an uplink.
    FromUplink,
    /// Egress of an uplink.
    ToUplink,
    /// Ingress of the waiting room's exit.
    FromWaitingRoom,
}

impl TcProgram {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FromContainer,
        Self::ToContainer,
        Self::FromBridge,
        Self::FromUplink,
        Self::ToUplink,
        Self::FromWaitingRoom,
    ];

    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => program::FROM_CONTAINER,
            Self::ToContainer => program::TO_CONTAINER,
            Self::FromBridge => program::FROM_BRIDGE,
            Self::FromUplink => program::FROM_UPLINK,
            Self::ToUplink => program::TO_UPLINK,
            Self::FromWaitingRoom => program::FROM_WAITING_ROOM,
        }
    }

    fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::FromContainer | Self::FromBridge | Self::FromUplink | Self::FromWaitingRoom => {
                bpf_attach_type::BPF_TCX_INGRESS
            }
            Self::ToContainer | Self::ToUplink => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }

    /// The BPF file system allows no dots in names.
    fn pin_name(self, ifindex: u32) -> String {
        format!("{}-{ifindex}", self.name())
    }

    fn from_pin_name(name: &str) -> Option<(Self, u32)> {
        let (program, ifindex) = name.rsplit_once('-')?;
        let program = Self::ALL.into_iter().find(|candidate| candidate.name() == program)?;
        Some((program, ifindex.parse().ok()?))
    }
}

/// What had to be done to have a program attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// Nothing.
    Unchanged,
    /// It was attached, there was no pin.
    Attached,
    /// Its program was replaced by this daemon's.
    Updated,
    /// There was a pin, but the link behind it was detached or the device it was on has gone: it was made anew.
    Repaired,
}

/// A pinned link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Name of the program.
    pub program: &'static str,
    /// The device it was made for; `None`: the cgroup hierarchy.
    pub ifindex: Option<u32>,
    /// Whether it is still attached there.
    pub live: bool,
    /// Whether it runs the program that this daemon has loaded.
    pub current: bool,
    /// The kernel's number of the link.
    pub link_id: u32,
    /// The kernel's number of the program.
    pub program_id: u32,
}

/// A loaded program.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) fd: ProgramFd,
    id: u32,
}

/// All links of one daemon.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) directory: PathBuf,
    programs: HashMap<&'static str, Loaded>,
}

impl Links {
    pub(super) fn new(directory: PathBuf, ebpf: &aya::Ebpf) -> Result<Self> {
        let mut programs = HashMap::new();
        let of_devices = TcProgram::ALL.map(TcProgram::name);
        for &name in of_devices.iter().chain(program::HOST_SOCKETS).chain(&[program::UPLINK_XDP]) {
            let failed = |error: &dyn std::fmt::Display| Error::Object(format!("program {name}: {error}"));
            let loaded = ebpf.program(name).ok_or_else(|| failed(&"missing"))?;
            let fd = loaded.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|error| failed(&error))?;
            let id = loaded.info().map_err(|error| failed(&error))?.id();
            programs.insert(name, Loaded { fd, id });
        }
        Ok(Self { directory, programs })
    }

    pub(super) fn program(&self, name: &str) -> Result<&Loaded> {
        self.programs.get(name).ok_or_else(|| Error::Object(format!("it has no program {name}")))
    }

    /// Has a program on a device of the calling thread's network namespace.
    ///
    /// Five system calls when nothing is to be done. The program is put before all others, in both directions: one that
    /// accepts a packet ends the list, and weft's decision must not depend on it. Programs of others stay.
    pub(super) fn ensure_tc(&self, device: &str, ifindex: u32, program: TcProgram) -> Result<Ensured> {
        let loaded = self.program(program.name())?;
        let pin = self.directory.join(program.pin_name(ifindex));
        let failed = |action: &str| Error::system(format!("{action} {} on {device}", program.name()));
        let no_device = || Error::NoDevice { device: device.to_owned(), ifindex };
        let on_device = match sys::query_tcx(ifindex, program.attach_type()) {
            Ok(entries) => entries,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(no_device()),
            Err(error) => return Err(failed("ask for")(error)),
        };
        let mut ensured = Ensured::Attached;
        if let Some(link) = open_pin(&pin)? {
            let info = sys::link_info(link.as_fd()).map_err(failed("ask for the link of"))?;
            // The number of a device means nothing without its namespace, so the device must know the link, too.
            if on_device.iter().any(|entry| entry.link_id == info.id) {
                return update(link.as_fd(), info.program_id, loaded).map_err(failed("replace"));
            }
            remove_link(&pin, link.as_fd())?;
            ensured = Ensured::Repaired;
        }
        // Without its pin a link may live on because somebody has it open: it gets its pin back.
        for entry in on_device.iter().filter(|entry| entry.program_id == loaded.id) {
            ensured = Ensured::Repaired;
            match sys::link_by_id(entry.link_id) {
                Ok(link) => {
                    sys::object_pin(link.as_fd(), &pin).map_err(failed("pin"))?;
                    return Ok(ensured);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("adopt the link of")(error)),
            }
        }
        match attach(loaded, ifindex, program.attach_type()) {
            Ok(link) => sys::object_pin(link.as_fd(), &pin).map_err(failed("pin"))?,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(no_device()),
            Err(error) => return Err(failed("attach")(error)),
        }
        Ok(ensured)
    }

    /// Has one of the host socket programs on the cgroup hierarchy.
    pub(super) fn ensure_cgroup(&self, cgroup: &Cgroup, name: &'static str) -> Result<Ensured> {
        let loaded = self.program(name)?;
        let pin = self.directory.join(name);
        let failed =
            |action: &str| Error::system(format!("{action} {name} on cgroup {}", cgroup.path().display()));
        let attach_type = cgroup_attach_type(name)
            .ok_or_else(|| Error::Object(format!("{name} is not the name of a hook on sockets")))?
            as u32;
        let mut ensured = Ensured::Attached;
        if let Some(link) = open_pin(&pin)? {
            let info = sys::link_info(link.as_fd()).map_err(failed("ask for the link of"))?;
            if info.target == (LinkTarget::Cgroup { id: cgroup.id(), attach_type }) {
                return update(link.as_fd(), info.program_id, loaded).map_err(failed("replace"));
            }
            remove_link(&pin, link.as_fd())?;
            ensured = Ensured::Repaired;
        }
        let link = sys::link_create_cgroup(loaded.fd.as_fd(), cgroup.as_fd(), attach_type)
            .map_err(failed("attach"))?;
        sys::object_pin(link.as_fd(), &pin).map_err(failed("pin"))?;
        Ok(ensured)
    }

    /// All pinned links: three system calls for each.
    pub(super) fn attached(&self, cgroup_id: Option<u64>) -> Result<Vec<AttachedProgram>> {
        let mut attached = Vec::new();
        let failed = || format!("list {}", self.directory.display());
        for entry in fs::read_dir(&self.directory).map_err(Error::system(failed()))? {
            let entry = entry.map_err(Error::system(failed()))?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else { continue };
            let (program, ifindex) = match TcProgram::from_pin_name(name) {
                Some((program, ifindex)) => (program.name(), Some(ifindex)),
                None if let Some(ifindex) = xdp::from_pin_name(name) => (program::UPLINK_XDP, Some(ifindex)),
                None => match program::HOST_SOCKETS.iter().find(|&&known| known == name) {
                    Some(&program) => (program, None),
                    None => continue,
                },
            };
            let pin = entry.path();
            let Some(link) = open_pin(&pin)? else { continue };
            let info = sys::link_info(link.as_fd())
                .map_err(Error::system(format!("ask for the link {}", pin.display())))?;
            let live = match info.target {
                LinkTarget::Tcx { ifindex: actual, .. } | LinkTarget::Xdp { ifindex: actual } => {
                    Some(actual) == ifindex
                }
                LinkTarget::Cgroup { id, .. } => id != 0 && cgroup_id.is_none_or(|wanted| wanted == id),
                LinkTarget::Other => false,
            };
            attached.push(AttachedProgram {
                program,
                ifindex,
                live,
                current: self.programs.get(program).is_some_and(|loaded| loaded.id == info.program_id),
                link_id: info.id,
                program_id: info.program_id,
            });
        }
        Ok(attached)
    }

    /// Takes one program off a device; `false` if there was none.
    pub(super) fn detach(&self, ifindex: u32, program: TcProgram) -> Result<bool> {
        let pin = self.directory.join(program.pin_name(ifindex));
        match open_pin(&pin)? {
            Some(link) => remove_link(&pin, link.as_fd()).map(|()| true),
            None => Ok(false),
        }
    }
}

pub(super) fn update(link: BorrowedFd<'_>, program_id: u32, loaded: &Loaded) -> io::Result<Ensured> {
    if program_id == loaded.id {
        return Ok(Ensured::Unchanged);
    }
    sys::link_update(link, loaded.fd.as_fd())?;
    Ok(Ensured::Updated)
}

pub(super) fn open_pin(pin: &Path) -> Result<Option<OwnedFd>> {
    match sys::object_get(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::system(format!("open link {}", pin.display()))(error)),
    }
}

/// Detaches a link and removes its pin. Detached explicitly, it is off at once even if another process holds it open.
pub(super) fn remove_link(pin: &Path, link: BorrowedFd<'_>) -> Result<()> {
    // A link whose device has gone answers ENOLINK or the like: that is what is wanted.
    let _ = sys::link_detach(link);
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("remove {}", pin.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Attaches, waiting for a link of the same program that has lost its last reference: the kernel takes it off the device
/// in the background and meanwhile refuses the program a second time.
fn attach(loaded: &Loaded, ifindex: u32, attach_type: bpf_attach_type) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match sys::link_create_tcx(loaded.fd.as_fd(), ifindex, attach_type) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn cgroup_attach_type(name: &str) -> Option<bpf_attach_type> {
    Some(match name {
        "connect4" => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
        "connect6" => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        "sendmsg4" => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
        "sendmsg6" => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
        "recvmsg4" => bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
        "recvmsg6" => bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
        "getpeername4" => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
        "getpeername6" => bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
        "bind4" => bpf_attach_type::BPF_CGROUP_INET4_BIND,
        "bind6" => bpf_attach_type::BPF_CGROUP_INET6_BIND,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_say_what_they_are() {
        for program in TcProgram::ALL {
            assert_eq!(TcProgram::from_pin_name(&program.pin_name(4711)), Some((program, 4711)));
            assert!(!program.pin_name(1).contains('.'));
        }
        assert_eq!(TcProgram::from_pin_name("connect4"), None);
        assert_eq!(TcProgram::from_pin_name("from_container-x"), None);
    }

    #[test]
    fn every_socket_hook_has_an_attach_type() {
        for name in program::HOST_SOCKETS {
            assert!(cgroup_attach_type(name).is_some(), "{name}");
        }
    }
}
