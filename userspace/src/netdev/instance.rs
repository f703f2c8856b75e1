//! One weft in each network namespace.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use super::error::{Error, Result};

/// `ss -xl` shows it as `@weft`.
const NAME: &[u8] = b"weft";

/// The right to change the devices and settings of a network namespace, until dropped.
///
/// Two daemons in one namespace would take each other's devices for superfluous. Names of abstract sockets belong to a
/// network namespace (unix(7)) and are free again the moment their process ends, however it ends: no file to find, and
/// no stale one.
#[derive(Debug)]
pub struct NamespaceLock {
    _socket: UnixDatagram,
}

impl NamespaceLock {
    /// Takes the lock of the calling thread's namespace; `None` if another process has it.
    pub fn take() -> Result<Option<Self>> {
        match SocketAddr::from_abstract_name(NAME).and_then(|name| UnixDatagram::bind_addr(&name)) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(Error::system("bind the abstract unix socket @weft", error)),
        }
    }
}
