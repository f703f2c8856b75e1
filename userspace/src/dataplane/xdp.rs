//! The XDP program of an uplink: one link, run by the device's driver or not at all.

use std::{io, os::fd::AsFd};

use dataplane_common::abi::program;

use super::{
    Dataplane, Ensured, Error, Result,
    links::{open_pin, remove_link, update},
    sys::{self, LinkTarget},
};

/// Why a device does not run it.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// Only the kernel could, in the driver's place (generic mode), which is slower than tc.
    #[error("it has no native XDP")]
    NotSupported,
    /// Somebody else's program is there; a device has one.
    #[error("another XDP program runs on it")]
    Occupied,
    /// The driver refuses.
    #[error(
        "the driver refuses an XDP program ({0}); most want an MTU of at most some 3,500 bytes and no LRO"
    )]
    Refused(io::Error),
    /// Something else is wrong.
    #[error(transparent)]
    Failed(#[from] Error),
}

fn pin_name(ifindex: u32) -> String {
    format!("{}-{ifindex}", program::UPLINK_XDP)
}

/// The device whose link has this pin.
pub(super) fn from_pin_name(name: &str) -> Option<u32> {
    name.strip_prefix(program::UPLINK_XDP)?.strip_prefix('-')?.parse().ok()
}

impl Dataplane {
    /// Has the XDP program of uplinks on a device of the calling thread's network namespace, in its driver. Two system
    /// calls when nothing is to be done; repairs as [`Self::ensure_tc`] does.
    pub fn ensure_xdp(&self, ifindex: u32) -> std::result::Result<Ensured, XdpError> {
        let loaded = self.links.program(program::UPLINK_XDP)?;
        let pin = self.links.directory.join(pin_name(ifindex));
        let failed = |action: &str| Error::system(format!("{action} {}", program::UPLINK_XDP));
        let mut ensured = Ensured::Attached;
        if let Some(link) = open_pin(&pin)? {
            let info = sys::link_info(link.as_fd()).map_err(failed("ask for the link of"))?;
            if info.target == (LinkTarget::Xdp { ifindex }) {
                return Ok(update(link.as_fd(), info.program_id, loaded).map_err(failed("replace"))?);
            }
            remove_link(&pin, link.as_fd())?;
            ensured = Ensured::Repaired;
        }
        let link = sys::link_create_xdp(loaded.fd.as_fd(), ifindex).map_err(refusal)?;
        sys::object_pin(link.as_fd(), &pin).map_err(failed("pin"))?;
        Ok(ensured)
    }

    /// Takes it off; `false` if it was not there.
    pub fn detach_xdp(&self, ifindex: u32) -> Result<bool> {
        let pin = self.links.directory.join(pin_name(ifindex));
        match open_pin(&pin)? {
            Some(link) => remove_link(&pin, link.as_fd()).map(|()| true),
            None => Ok(false),
        }
    }
}

fn refusal(error: io::Error) -> XdpError {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => XdpError::NotSupported,
        Some(libc::EBUSY | libc::EEXIST) => XdpError::Occupied,
        _ => XdpError::Refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_says_what_it_is() {
        assert_eq!(from_pin_name(&pin_name(4711)), Some(4711));
        assert_eq!(from_pin_name("from_uplink-1"), None);
        assert_eq!(from_pin_name("uplink_xdp-"), None);
    }
}
