//! Sockets of other network namespaces.
//!
//! A socket belongs for ever to the namespace that its maker is in while it is made, so one thread can hold sockets of
//! all namespaces of a lab: an action costs two `setns` calls and no process.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, socket},
};
use tokio::{
    io::unix::AsyncFd,
    net::{TcpListener, TcpSocket, UdpSocket},
};

/// Makes sockets in one namespace.
#[derive(Debug)]
pub struct Sockets {
    namespace: File,
    own: File,
}

impl Sockets {
    /// Of the namespace `/run/netns/NAME`.
    pub fn of(netns: &str) -> Result<Self> {
        let open = |path: &str| File::open(path).with_context(|| format!("opening {path}"));
        Ok(Self { namespace: open(&format!("/run/netns/{netns}"))?, own: open("/proc/thread-self/ns/net")? })
    }

    fn make(&self, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<OwnedFd> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let made = socket(AddressFamily::Inet, kind, flags, protocol);
        // Else everything that this thread does next would happen in there.
        setns(&self.own, CloneFlags::CLONE_NEWNET)?;
        Ok(made?)
    }

    /// A TCP socket that is not connected.
    pub fn tcp(&self) -> io::Result<TcpSocket> {
        let made = self.make(SockType::Stream, None)?;
        // SAFETY: the descriptor is a socket that nobody else has.
        Ok(unsafe { TcpSocket::from_raw_fd(made.into_raw_fd()) })
    }

    /// A TCP server on every address.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let socket = self.tcp()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        socket.listen(1024)
    }

    /// A UDP socket on every address; port 0 is one that the kernel chooses.
    pub fn udp(&self, port: u16) -> io::Result<UdpSocket> {
        let made = self.make(SockType::Datagram, None)?;
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        bind(made.as_raw_fd(), &SockaddrIn::from(any))?;
        UdpSocket::from_std(made.into())
    }

    /// A raw socket that hears every ICMP message of the namespace.
    pub fn icmp(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let made = self.make(SockType::Raw, Some(SockProtocol::Icmp))?;
        // SAFETY: the descriptor is open, and an `OwnedFd` keeps it the same until it is dropped.
        Ok(unsafe { AsyncFd::register(made) }?)
    }
}
