//! Sockets of other network namespaces.
//!
//! A socket belongs for ever to the namespace that its maker is in while it is made, so one thread can hold sockets of
//! all namespaces of a lab: an action costs two `setns` calls and no process.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
    },
};
use tokio::{
    io::unix::AsyncFd,
    net::{TcpListener, TcpSocket, UdpSocket},
};

use super::family::Family;

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

    fn make(&self, family: Family, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<OwnedFd> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let domain = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made = socket(domain, kind, flags, protocol);
        // Else everything that this thread does next would happen in there.
        setns(&self.own, CloneFlags::CLONE_NEWNET)?;
        Ok(made?)
    }

    /// A TCP socket that is not connected. One of IPv6 may speak IPv4, too, as those of most programs.
    pub fn tcp(&self, family: Family) -> io::Result<TcpSocket> {
        Ok(as_tcp(self.make(family, SockType::Stream, None)?))
    }

    /// A TCP server on every address of a family.
    pub fn listen(&self, family: Family, port: u16) -> io::Result<TcpListener> {
        let socket = as_tcp(self.of_family_only(family, SockType::Stream)?);
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(family.any(), port))?;
        socket.listen(1024)
    }

    /// A UDP socket on every address; port 0 is one that the kernel chooses.
    pub fn udp(&self, family: Family, port: u16) -> io::Result<UdpSocket> {
        bound(self.make(family, SockType::Datagram, None)?, family, port)
    }

    /// A UDP server on every address of a family.
    pub fn serve_udp(&self, family: Family, port: u16) -> io::Result<UdpSocket> {
        bound(self.of_family_only(family, SockType::Datagram)?, family, port)
    }

    /// The other family has servers of its own.
    fn of_family_only(&self, family: Family, kind: SockType) -> io::Result<OwnedFd> {
        let made = self.make(family, kind, None)?;
        if family == Family::V6 {
            setsockopt(&made, sockopt::Ipv6V6Only, &true)?;
        }
        Ok(made)
    }

    /// A raw socket that hears every ICMP message of the namespace, and which address each was for.
    pub fn icmp(&self, family: Family) -> io::Result<AsyncFd<OwnedFd>> {
        let protocol = if family == Family::V4 { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
        let made = self.make(family, SockType::Raw, Some(protocol))?;
        if family == Family::V6 {
            setsockopt(&made, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        // SAFETY: the descriptor is open, and an `OwnedFd` keeps it the same until it is dropped.
        Ok(unsafe { AsyncFd::register(made) }?)
    }
}

fn as_tcp(made: OwnedFd) -> TcpSocket {
    // SAFETY: the descriptor is a socket that nobody else has.
    unsafe { TcpSocket::from_raw_fd(made.into_raw_fd()) }
}

fn bound(made: OwnedFd, family: Family, port: u16) -> io::Result<UdpSocket> {
    bind(made.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(family.any(), port)))?;
    UdpSocket::from_std(made.into())
}
