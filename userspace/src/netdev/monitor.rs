//! Hearing from the kernel that something changed.
//!
//! The kernel's own socket buffer is the bounded queue: when it runs over, the kernel says so and the listener reads
//! everything anew. There is no task and no second queue that could grow.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt},
};
use rtnetlink::MulticastGroup;
use tokio::io::unix::AsyncFd;

use super::error::{Error, Result};

/// Room for some thousand notifications; the kernel counts about 1 KiB for each.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Larger than any one notification (the kernel builds them in one page or, with many attributes, a few).
const DATAGRAM: usize = 64 << 10;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// Which namespaces a monitor hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The own one.
    Own,
    /// The own one and all that it has a number for (see [`super::Netlink::namespace_id`]), as `ip monitor all-nsid`:
    /// every container with a veth pair into this one. Needs `CAP_NET_BROADCAST`.
    OwnAndNumbered,
}

/// Something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    /// What.
    pub change: Change,
    /// The number of the namespace it changed in; `None`: the own one.
    pub namespace_id: Option<i32>,
}

/// What changed. Read the state itself to know how: between the event and the reading more may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// A device was made, changed or removed.
    Link {
        /// Its index.
        ifindex: u32,
        /// It is gone.
        removed: bool,
    },
    /// An address was added or removed.
    Address {
        /// Index of its device.
        ifindex: u32,
    },
    /// A route was added or removed.
    Route,
    /// A neighbour entry changed. These come often, as the kernel resolves and forgets addresses by itself.
    Neighbour {
        /// Index of its device.
        ifindex: u32,
        /// It is or was a permanent one, or it is gone.
        notable: bool,
    },
    /// A forwarding entry of a bridge or vxlan device changed.
    Forwarding {
        /// Index of the port or vxlan device.
        ifindex: u32,
        /// It is a static one, or it is gone.
        notable: bool,
    },
    /// A setting such as `ip_forward` changed (`ip netconf`).
    Configuration,
    /// Events were lost, or one could not be understood: everything may have changed.
    Resync,
}

/// A listener to the kernel's notifications.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    pending: VecDeque<Event>,
}

impl Monitor {
    /// Listens in the namespace of the calling thread. Must be called within a tokio runtime. Start listening before
    /// reading the state: then nothing is missed in between.
    pub fn new(scope: Scope) -> Result<Self> {
        let operation = "listen to the kernel's notifications";
        let socket = Self::open(scope).map_err(|error| Error::system(operation, error))?;
        // SAFETY: the socket owns its descriptor, never replaces it, and closes it only when it is dropped.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|error| Error::system(operation, error))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM], pending: VecDeque::new() })
    }

    fn open(scope: Scope) -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Beyond rmem_max needs CAP_NET_ADMIN, without which weft can do nothing anyway.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        if scope == Scope::OwnAndNumbered {
            socket.set_listen_all_namespaces(true)?;
        }
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group as u32)?;
        }
        Ok(socket)
    }

    /// Waits for the next event. An error means that the socket itself is broken; lost events are
    /// [`Change::Resync`]. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let failed = |error| Error::system("read the kernel's notifications", error);
            let mut guard = self.socket.readable().await.map_err(failed)?;
            let buffer = &mut self.buffer;
            match guard.try_io(|socket| receive(socket.get_ref(), buffer)) {
                // Woken for nothing.
                Err(_) => {}
                Ok(Ok((length, namespace_id))) => {
                    parse(&self.buffer[..length], namespace_id, &mut self.pending)
                }
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    // What is still queued is older than the reading that this event leads to.
                    return Ok(Event { change: Change::Resync, namespace_id: None });
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(failed(error)),
            }
        }
    }
}

/// Reads one datagram: its length, and the number of the namespace it comes from.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    let mut control = cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::ENOBUFS.into());
    }
    // Only messages from other namespaces carry their number.
    let namespace_id = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Unknown(control)
            if control.cmsg_header.cmsg_level == libc::SOL_NETLINK
                && control.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID =>
        {
            control.data_bytes.get(..4)?.try_into().ok().map(i32::from_ne_bytes)
        }
        _ => None,
    });
    Ok((message.bytes, namespace_id))
}

fn parse(mut datagram: &[u8], namespace_id: Option<i32>, events: &mut VecDeque<Event>) {
    while !datagram.is_empty() {
        let (change, length) = match NetlinkBuffer::new_checked(datagram) {
            Ok(message) => (
                classify(message.message_type(), message.payload()),
                message.length().next_multiple_of(4) as usize,
            ),
            Err(_) => (Some(Change::Resync), datagram.len()),
        };
        if let Some(change) = change {
            let event = Event { change, namespace_id };
            // One flag set on a device gives several notifications that say the same.
            if events.back() != Some(&event) {
                events.push_back(event);
            }
        }
        datagram = datagram.get(length..).unwrap_or_default();
    }
}

/// Only the fixed headers are read (rtnetlink(7)): an attribute that is newer than this code cannot hide an event.
fn classify(message_type: u16, payload: &[u8]) -> Option<Change> {
    // ifinfomsg, ifaddrmsg and ndmsg all have the device's index in bytes 4 to 7.
    let ifindex = || payload.get(4..8)?.try_into().ok().map(u32::from_ne_bytes);
    let change = match message_type {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            // The bridge tells of its ports with messages of its own family, removal from it being RTM_DELLINK.
            let bridge = payload.first() == Some(&(libc::AF_BRIDGE as u8));
            ifindex().map(|ifindex| Change::Link {
                ifindex,
                removed: message_type == libc::RTM_DELLINK && !bridge,
            })
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => ifindex().map(|ifindex| Change::Address { ifindex }),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Change::Route),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            let state =
                payload.get(8..10).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
            let notable =
                message_type == libc::RTM_DELNEIGH || state & (libc::NUD_PERMANENT | libc::NUD_NOARP) != 0;
            let bridge = payload.first() == Some(&(libc::AF_BRIDGE as u8));
            ifindex().map(|ifindex| match bridge {
                true => Change::Forwarding { ifindex, notable },
                false => Change::Neighbour { ifindex, notable },
            })
        }
        RTM_NEWNETCONF | RTM_DELNETCONF => Some(Change::Configuration),
        _ => return None,
    };
    Some(change.unwrap_or(Change::Resync))
}

/// linux/rtnetlink.h; libc does not have them.
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;
