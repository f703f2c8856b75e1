//! Who holds a port: the sockets of the own namespace and their processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use procfs::process::{FDTarget, all_processes};
use tokio::task::spawn_blocking;

use super::{
    error::{Error, Result},
    port_ranges::PortRanges,
};
use crate::model::{PerProtocol, PortRange, Protocol};

/// TCP sockets that are bound but neither listen nor connect. Not a state of its own but asked for like one
/// (`TCP_BOUND_INACTIVE`, Linux 6.8; older kernels do not show these sockets at all).
const TCP_BOUND_INACTIVE: u8 = 13;

/// A socket of this host with a local port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalSocket {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local address and port. IPv4-mapped addresses are given as IPv4.
    pub local: SocketAddr,
    /// An IPv6 wildcard socket that takes IPv4 packets as well.
    pub dual_stack: bool,
    /// What it does.
    pub state: SocketState,
    /// Inode of the socket, 0 for those that belong to no process any more.
    pub inode: u32,
}

/// What a socket does with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Waits for connections, or associations.
    Listening,
    /// Bound, but to no peer: UDP, or the others before `listen` or `connect`.
    Bound,
    /// Has a peer, or had one until a moment ago.
    Connected,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Name (`/proc/PID/comm`).
    pub name: String,
}

/// A socket and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The socket.
    pub socket: LocalSocket,
    /// Its processes; empty when they are in a process namespace that cannot be seen from here, or when the kernel
    /// itself holds it, such as a vxlan device.
    pub processes: Vec<Process>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} is held by ", self.socket.protocol, self.socket.local)?;
        match self.processes.as_slice() {
            [] => out.write_str("the kernel or a process that is not visible here"),
            [first, rest @ ..] => {
                write!(out, "{} (process {})", first.name, first.pid)?;
                if rest.is_empty() { Ok(()) } else { write!(out, " and {} more", rest.len()) }
            }
        }
    }
}

impl LocalSocket {
    fn parse(protocol: Protocol, response: &InetResponse) -> Self {
        let id = &response.header.socket_id;
        let ipv6_only = response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
        let wildcard_ipv6 = id.source_address.is_ipv6() && id.source_address.is_unspecified();
        Self {
            protocol,
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            dual_stack: wildcard_ipv6 && !ipv6_only,
            // SCTP has the numbers of TCP (net/sctp/constants.h).
            state: match (protocol, response.header.state) {
                (Protocol::Tcp | Protocol::Sctp, libc_tcp::LISTEN) => SocketState::Listening,
                // sk_state of an unconnected socket is TCP_CLOSE.
                (_, libc_tcp::CLOSE | TCP_BOUND_INACTIVE) => SocketState::Bound,
                _ => SocketState::Connected,
            },
            inode: response.header.inode,
        }
    }

    /// Whether the socket takes packets to an address; to any one of its family if that is unspecified.
    pub fn receives(&self, address: IpAddr) -> bool {
        let own = self.local.ip();
        let same_family = own.is_ipv4() == address.is_ipv4() || self.dual_stack;
        same_family && (address.is_unspecified() || own.is_unspecified() || own == address)
    }
}

/// States of `enum` in linux/tcp_states.h.
mod libc_tcp {
    pub(super) const CLOSE: u8 = 7;
    pub(super) const LISTEN: u8 = 10;
}

/// The sockets of a protocol in the namespace of the calling thread, both families, all states.
pub async fn sockets(protocol: Protocol) -> Result<Vec<LocalSocket>> {
    let failed = move |error| Error::system(format!("list the {protocol} sockets of this host"), error);
    // Made here, where the caller's namespace is; a blocking thread may be anywhere.
    let socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed)?;
    blocking(move || dump(&socket, protocol)).await.map_err(failed)
}

/// The local ports that any socket of this host uses, connections included: ports that nothing else may be given.
pub async fn bound_ports() -> Result<PerProtocol<PortRanges>> {
    let ports = |sockets: Vec<LocalSocket>| {
        sockets.iter().map(|socket| socket.local.port()).collect::<BTreeSet<_>>().into_iter().collect()
    };
    Ok(PerProtocol {
        tcp: ports(sockets(Protocol::Tcp).await?),
        udp: ports(sockets(Protocol::Udp).await?),
        sctp: ports(sockets(Protocol::Sctp).await?),
    })
}

/// Who would take packets to these ports of an address (`None`: any of this host's), with their processes. Established
/// TCP connections do not count.
pub async fn holders(
    protocol: Protocol,
    address: Option<IpAddr>,
    ports: PortRange,
) -> Result<Vec<PortHolder>> {
    let mut found = sockets(protocol).await?;
    found.retain(|socket| {
        (ports.first..=ports.last).contains(&socket.local.port())
            && address.is_none_or(|address| socket.receives(address))
            && (protocol == Protocol::Udp || socket.state != SocketState::Connected)
    });
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let inodes: BTreeSet<u64> =
        found.iter().map(|socket| u64::from(socket.inode)).filter(|&inode| inode != 0).collect();
    let mut processes = blocking(move || processes(&inodes))
        .await
        .map_err(|error| Error::system("find the processes of sockets in /proc", error))?;
    Ok(found
        .into_iter()
        .map(|socket| PortHolder {
            socket,
            processes: processes.remove(&socket.inode.into()).unwrap_or_default(),
        })
        .collect())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn dump(socket: &Socket, protocol: Protocol) -> io::Result<Vec<LocalSocket>> {
    let mut sockets = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let mut request = NetlinkMessage::from(SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: protocol.number(),
            extensions: ExtensionFlags::empty(),
            states: StateFlags::from_bits_retain(StateFlags::all().bits() | 1 << TCP_BOUND_INACTIVE),
            socket_id,
        }));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        match receive(socket, protocol, &mut sockets) {
            // A kernel without SCTP, or that has not loaded it: asking does not (sock_load_diag_module). It has no sockets.
            Err(error) if protocol == Protocol::Sctp && error.kind() == io::ErrorKind::NotFound => {}
            received => received?,
        }
    }
    // Port 0: a raw or closed socket that holds none.
    sockets.retain(|socket: &LocalSocket| socket.local.port() != 0);
    Ok(sockets)
}

fn receive(socket: &Socket, protocol: Protocol, sockets: &mut Vec<LocalSocket>) -> io::Result<()> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    sockets.push(LocalSocket::parse(protocol, &response));
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                // A kernel without IPv6, or without CONFIG_INET_UDP_DIAG, which has to be told.
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = (message.header.length as usize).next_multiple_of(4).max(1);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn processes(inodes: &BTreeSet<u64>) -> io::Result<BTreeMap<u64, Vec<Process>>> {
    let mut found: BTreeMap<u64, Vec<Process>> = BTreeMap::new();
    // Processes end while they are looked at: what cannot be read any more holds nothing any more.
    for process in all_processes().map_err(io::Error::other)?.flatten() {
        let Ok(files) = process.fd() else { continue };
        let held: BTreeSet<u64> = files
            .flatten()
            .filter_map(|file| match file.target {
                FDTarget::Socket(inode) if inodes.contains(&inode) => Some(inode),
                _ => None,
            })
            .collect();
        for inode in held {
            let name = process.stat().map_or_else(|_| "?".into(), |stat| stat.comm);
            found.entry(inode).or_default().push(Process { pid: process.pid, name });
        }
    }
    for processes in found.values_mut() {
        processes.sort_unstable();
    }
    Ok(found)
}
