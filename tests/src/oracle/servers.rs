//! What everybody serves while a lab lives: TCP, UDP and the ear for echo requests. What a server sees is kept under the
//! number that the client sent.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Notify,
    task::spawn_local,
    time::{Instant, timeout, timeout_at},
};

use super::{
    description::{Close, OPEN_PORTS},
    family::Family,
    observation::{End, Seen},
    sockets::Sockets,
};
use crate::traffic::payload::pseudo_random;

/// How long a server waits for the rest of a connection that has begun.
pub const CONNECTION_LIMIT: Duration = Duration::from_secs(3);
/// Sent by one side when it has read everything, before the other resets the connection: data that is still on its way may
/// be lost in a reset.
pub const RESET_NOW: u8 = 1;
/// Bytes that the client sends after the server's FIN.
pub const TAIL: usize = 1000;

impl Family {
    /// Type of an echo request.
    pub fn echo_request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    /// Type of its reply.
    fn echo_reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// What has been seen, by number.
#[derive(Debug, Default)]
pub struct Registry {
    seen: RefCell<HashMap<u64, Seen>>,
    replies: RefCell<HashMap<u64, (IpAddr, bool)>>,
    next: Cell<u64>,
    news: Notify,
}

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Of the connection.
    pub number: u64,
    /// Bytes that follow.
    pub request: u32,
    /// Bytes to answer with.
    pub reply: u32,
    /// How it ends.
    pub close: Close,
}

impl Registry {
    /// A number not used before.
    pub fn number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    fn record(&self, number: u64, seen: Seen) {
        self.seen.borrow_mut().insert(number, seen);
        self.news.notify_waiters();
    }

    /// What was seen of it, waiting until then.
    pub async fn seen(&self, number: u64, until: Instant) -> Option<Seen> {
        self.wait(until, || self.seen.borrow_mut().remove(&number)).await
    }

    /// Who answered an echo request, and whether with the same bytes.
    pub async fn reply(&self, number: u64, until: Instant) -> Option<(IpAddr, bool)> {
        self.wait(until, || self.replies.borrow_mut().remove(&number)).await
    }

    async fn wait<T>(&self, until: Instant, take: impl Fn() -> Option<T>) -> Option<T> {
        loop {
            let news = self.news.notified();
            if let Some(found) = take() {
                return Some(found);
            }
            if timeout_at(until, news).await.is_err() {
                return take();
            }
        }
    }

    /// Forgets what nobody asked for.
    pub fn clear(&self) {
        self.seen.borrow_mut().clear();
        self.replies.borrow_mut().clear();
    }
}

impl Header {
    const LENGTH: usize = 17;
    const CLOSES: [Close; 5] =
        [Close::Client, Close::HalfByClient, Close::HalfByServer, Close::ResetByClient, Close::ResetByServer];

    /// As sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.number.to_be_bytes().to_vec();
        bytes.extend(self.request.to_be_bytes());
        bytes.extend(self.reply.to_be_bytes());
        let close = Self::CLOSES.iter().position(|close| *close == self.close);
        bytes.push(close.unwrap_or_default() as u8);
        bytes
    }

    async fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = [0; Self::LENGTH];
        stream.read_exact(&mut bytes).await?;
        let mut rest = &bytes[..];
        Ok(Self {
            number: rest.read_u64().await?,
            request: rest.read_u32().await?,
            reply: rest.read_u32().await?,
            close: Self::CLOSES[usize::from(rest.read_u8().await?) % Self::CLOSES.len()],
        })
    }
}

/// Starts everything that `name` serves, as tasks that end with the runtime. Gives the sockets for echo requests.
pub fn start(name: &str, sockets: &Sockets, registry: &Rc<Registry>) -> Result<[Rc<AsyncFd<OwnedFd>>; 2]> {
    for family in Family::ALL {
        for port in OPEN_PORTS {
            let context = || format!("port {port} of {name}, {family:?}");
            let listener = sockets.listen(family, port).with_context(context)?;
            spawn_local(accept(name.to_owned(), listener, registry.clone()));
            let socket = sockets.serve_udp(family, port).with_context(context)?;
            spawn_local(datagrams(name.to_owned(), socket, registry.clone()));
        }
    }
    let icmp = |family: Family| -> Result<Rc<AsyncFd<OwnedFd>>> {
        let icmp = sockets.icmp(family).with_context(|| format!("ICMP of {name}, {family:?}"))?;
        let icmp = Rc::new(icmp);
        spawn_local(echo_requests(name.to_owned(), family, icmp.clone(), registry.clone()));
        Ok(icmp)
    };
    Ok([icmp(Family::V4)?, icmp(Family::V6)?])
}

async fn accept(name: String, listener: TcpListener, registry: Rc<Registry>) {
    loop {
        // A connection that was reset before it was accepted is reported here; the next is as good as any.
        let Ok((mut stream, source)) = listener.accept().await else { continue };
        let (name, registry) = (name.clone(), registry.clone());
        spawn_local(async move {
            let local = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
            let Ok(Ok(header)) = timeout(CONNECTION_LIMIT, Header::read(&mut stream)).await else { return };
            let mut intact = false;
            let end = timeout(CONNECTION_LIMIT, serve(&mut stream, header, &mut intact)).await;
            let end = end.map_or(End::Silence, |end| end.unwrap_or_else(|error| End::of(&error)));
            let server = format!("{name} at {local}");
            registry.record(header.number, Seen { server, source, intact, end: Some(end) });
        });
    }
}

/// The server's part of a connection. `intact`: the request was what it had to be.
async fn serve(stream: &mut TcpStream, header: Header, intact: &mut bool) -> io::Result<End> {
    let mut request = vec![0; header.request as usize];
    stream.read_exact(&mut request).await?;
    *intact = request == pseudo_random(header.number, request.len());
    let reply = pseudo_random(!header.number, header.reply as usize);
    match header.close {
        Close::HalfByClient => {
            let end = read_end(stream).await;
            stream.write_all(&reply).await?;
            stream.shutdown().await?;
            Ok(end)
        }
        Close::HalfByServer => {
            stream.write_all(&reply).await?;
            stream.shutdown().await?;
            let mut tail = vec![0; TAIL];
            stream.read_exact(&mut tail).await?;
            *intact &= tail == pseudo_random(header.number ^ 1, TAIL);
            Ok(read_end(stream).await)
        }
        Close::ResetByServer => {
            stream.write_all(&reply).await?;
            let go = stream.read_u8().await?;
            *intact &= go == RESET_NOW;
            reset_on_close(stream)?;
            Ok(End::Reset)
        }
        Close::ResetByClient => {
            stream.write_all(&reply).await?;
            stream.write_all(&[RESET_NOW]).await?;
            Ok(read_end(stream).await)
        }
        Close::Client => {
            stream.write_all(&reply).await?;
            Ok(read_end(stream).await)
        }
    }
}

/// How the other side ends it; more data is an error.
pub async fn read_end(stream: &mut TcpStream) -> End {
    match stream.read(&mut [0]).await {
        Ok(0) => End::Fin,
        Ok(_) => End::Error(io::ErrorKind::InvalidData),
        Err(error) => End::of(&error),
    }
}

/// Closing it will send RST instead of FIN.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)?)
}

/// The bytes of a datagram or echo request: its number, and what follows from it.
pub fn datagram(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(pseudo_random(number, size.saturating_sub(bytes.len())));
    bytes
}

/// The number of a datagram, and whether its bytes are right.
pub fn number_of(bytes: &[u8]) -> Option<(u64, bool)> {
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    Some((number, bytes == datagram(number, bytes.len())))
}

async fn datagrams(name: String, socket: UdpSocket, registry: Rc<Registry>) {
    let local = socket.local_addr().map_or(0, |address| address.port());
    let mut buffer = vec![0; 65536];
    loop {
        // An ICMP error about an earlier answer is reported here.
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some((number, intact)) = number_of(&buffer[..length]) {
            let server = format!("{name} at port {local}");
            registry.record(number, Seen { server, source, intact, end: None });
        }
        let _ = socket.send_to(&buffer[..length], source).await;
    }
}

async fn echo_requests(name: String, family: Family, socket: Rc<AsyncFd<OwnedFd>>, registry: Rc<Registry>) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let Ok(received) = ready.try_io(|socket| match family {
            Family::V4 => receive_v4(socket, &mut buffer),
            Family::V6 => receive_v6(socket, &mut buffer),
        }) else {
            continue;
        };
        let Ok(Some((source, destination, message))) = received else { continue };
        let message = &buffer[message];
        let (Some(kind), Some((number, intact))) = (message.first(), message.get(8..).and_then(number_of))
        else {
            continue;
        };
        if *kind == family.echo_request() {
            let server = format!("{name} at {destination}");
            let source = SocketAddr::new(source, 0);
            registry.record(number, Seen { server, source, intact, end: None });
        } else if *kind == family.echo_reply() {
            registry.replies.borrow_mut().insert(number, (source, intact));
            registry.news.notify_waiters();
        }
    }
}

/// Source and destination of an ICMP message, and where it is; `None`: it cannot be read.
type Received = Option<(IpAddr, IpAddr, Range<usize>)>;

/// A raw socket of IPv4 gets the IP header too (raw(7)).
fn receive_v4(socket: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<Received> {
    let length = nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?;
    let header_length = usize::from(buffer[0] & 0x0f) * 4;
    if length < header_length || header_length < 20 {
        return Ok(None);
    }
    let address =
        |at: usize| Ipv4Addr::new(buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]).into();
    Ok(Some((address(12), address(16), header_length..length)))
}

/// One of IPv6 does not, so the kernel tells the addresses beside the message (RFC 3542 section 6.1).
fn receive_v6(socket: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let received =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let Some(source) = received.address else { return Ok(None) };
    let destination = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    Ok(destination.map(|destination| (source.ip().into(), destination.into(), 0..received.bytes)))
}
