//! What ethtool asks and sets, by its ioctl: name of the driver, and GRO.
//!
//! Not by ethtool's netlink family: it does not tell the driver's name at all, the crate for it (`ethtool` 0.3) only reads
//! features, and a connection to generic netlink for each container would cost more than these calls.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// linux/ethtool.h.
const GET_DRIVER: u32 = 0x0000_0003;
const GET_GRO: u32 = 0x0000_002b;
const SET_GRO: u32 = 0x0000_002c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// # Safety
/// `request` must be a request of ethtool, as its first field says.
unsafe fn ask<T>(socket: &OwnedFd, device: &str, request: &mut T) -> io::Result<()> {
    // SAFETY: plain integers and a pointer.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (into, octet) in ifreq.ifr_name.iter_mut().zip(device.bytes()) {
        *into = octet as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = (&raw mut *request).cast();
    // SAFETY: the name ends with a zero; the request is the caller's promise and outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut ifreq) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Name of the driver of a device of the calling thread's namespace.
pub fn driver(device: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
    // SAFETY: what the command asks for.
    unsafe { ask(&open()?, device, &mut info)? };
    let name = CStr::from_bytes_until_nul(&info.driver).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

/// Has a device of the calling thread's namespace do GRO. Answers whether it did not yet.
pub(super) fn ensure_gro(device: &str) -> io::Result<bool> {
    let socket = open()?;
    let mut value = Value { command: GET_GRO, data: 0 };
    // SAFETY: what the command asks for.
    unsafe { ask(&socket, device, &mut value)? };
    if value.data != 0 {
        return Ok(false);
    }
    let mut value = Value { command: SET_GRO, data: 1 };
    // SAFETY: as above.
    unsafe { ask(&socket, device, &mut value)? };
    Ok(true)
}
