//! What everybody serves while a lab lives: TCP, UDP and the ear for echo requests. What a server sees is kept under the
//! number that the client sent.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Notify,
    task::spawn_local,
    time::{Instant, timeout, timeout_at},
};

use super::{
    description::{Close, OPEN_PORTS},
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
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

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

/// Starts everything that `name` serves, as tasks that end with the runtime. Gives the socket for echo requests.
pub fn start(name: &str, sockets: &Sockets, registry: &Rc<Registry>) -> Result<Rc<AsyncFd<OwnedFd>>> {
    for port in OPEN_PORTS {
        let context = || format!("port {port} of {name}");
        let listener = sockets.listen(port).with_context(context)?;
        spawn_local(accept(name.to_owned(), listener, registry.clone()));
        let socket = sockets.udp(port).with_context(context)?;
        spawn_local(datagrams(name.to_owned(), socket, registry.clone()));
    }
    let icmp = Rc::new(sockets.icmp().with_context(|| format!("ICMP of {name}"))?);
    spawn_local(echo_requests(name.to_owned(), icmp.clone(), registry.clone()));
    Ok(icmp)
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

async fn echo_requests(name: String, socket: Rc<AsyncFd<OwnedFd>>, registry: Rc<Registry>) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let Ok(received) = ready.try_io(|socket| {
            Ok(nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty())?)
        }) else {
            continue;
        };
        let Some(packet) = received.ok().and_then(|length| buffer.get(..length)) else { continue };
        // A raw socket gets the IP header too (raw(7)).
        let header_length = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
        let (Some(addresses), Some(message)) = (packet.get(12..20), packet.get(header_length..)) else {
            continue;
        };
        let address = |at: usize| {
            IpAddr::V4(Ipv4Addr::new(addresses[at], addresses[at + 1], addresses[at + 2], addresses[at + 3]))
        };
        let (Some(kind), Some((number, intact))) = (message.first(), message.get(8..).and_then(number_of))
        else {
            continue;
        };
        match *kind {
            ECHO_REQUEST => {
                let server = format!("{name} at {}", address(4));
                let source = SocketAddr::new(address(0), 0);
                registry.record(number, Seen { server, source, intact, end: None });
            }
            ECHO_REPLY => {
                registry.replies.borrow_mut().insert(number, (address(0), intact));
                registry.news.notify_waiters();
            }
            _ => {}
        }
    }
}
