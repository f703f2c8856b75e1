//! Datagrams as many as can be, one way: many with one system call, or in large buffers that the kernel cuts (UDP_SEGMENT) and
//! joins (UDP_GRO). The receiver counts; what is inside is the business of `udp-send` and `udp-receive`.

use std::{
    io, mem,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    ptr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

use super::{announce_ready, echo};

/// Buffers with one system call.
const BATCH: usize = 64;
/// The largest buffer that the kernel gives at once.
const LARGEST: usize = 65535;
/// When nothing has come for so long, that was all.
const SILENCE: Duration = Duration::from_millis(200);
/// Longest time until the first datagram.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends.
#[derive(Debug, clap::Args)]
pub struct SendOptions {
    /// Where the sink listens.
    pub server: SocketAddr,
    /// Payload bytes of each datagram.
    #[arg(long, default_value_t = 18)]
    pub size: usize,
    /// For how long.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Datagrams in one buffer, to be cut by UDP_SEGMENT.
    #[arg(long, default_value_t = 1)]
    pub segments: usize,
}

/// Receives.
#[derive(Debug, clap::Args)]
pub struct SinkOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Payload bytes of each datagram; what comes must be a multiple of it.
    #[arg(long, default_value_t = 18)]
    pub size: usize,
}

/// What was sent or received.
#[derive(Debug, Serialize)]
pub struct Count {
    /// Datagrams.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
    /// From the first to the last.
    pub seconds: f64,
}

/// Buffers, and what the kernel is told of them. The pointers stay valid because neither vector is ever touched again.
struct Batch {
    _buffers: Vec<Vec<u8>>,
    _vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new(length: usize) -> Self {
        let mut buffers = vec![vec![0x5a; length]; BATCH];
        let mut vectors = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: length })
            .collect::<Vec<_>>();
        let messages = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: All zeros is a message without an address, buffers and control data.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        Self { _buffers: buffers, _vectors: vectors, messages }
    }

    /// How many were sent.
    fn send(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let count = self.messages.len() as u32;
        // SAFETY: The messages and the buffers that they point to are ours and live as long as `self`.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// The lengths of those that came: at least one, as many as wait.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<impl Iterator<Item = usize>> {
        let count = self.messages.len() as u32;
        let messages = self.messages.as_mut_ptr();
        // SAFETY: As for sending; nobody else looks into the buffers that are written.
        let came = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), messages, count, libc::MSG_WAITFORONE, ptr::null_mut())
        };
        let came = usize::try_from(came).map_err(|_| io::Error::last_os_error())?;
        Ok(self.messages.iter().take(came).map(|message| message.msg_len as usize))
    }
}

/// The sender. What the kernel refuses (an ICMP error, a full queue) does not count and does not stop it.
pub fn send(options: &SendOptions) -> Result<Count> {
    let SendOptions { size, segments, .. } = *options;
    ensure!(size > 0 && segments > 0 && size * segments <= 65507, "--size times --segments is 1 to 65507");
    let socket = echo::connected(options.server)?;
    if segments > 1 {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(size)?).context("UDP_SEGMENT")?;
    }
    let mut batch = Batch::new(size * segments);
    let start = Instant::now();
    let limit = Duration::from_secs_f64(options.seconds);
    let mut sent = 0;
    while start.elapsed() < limit {
        sent += batch.send(&socket).unwrap_or(0) as u64;
    }
    let datagrams = sent * segments as u64;
    Ok(Count { datagrams, bytes: datagrams * size as u64, seconds: start.elapsed().as_secs_f64() })
}

/// The receiver: ends when nothing comes any more.
pub fn sink(options: &SinkOptions) -> Result<Count> {
    let socket = UdpSocket::bind(options.listen)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).context("SO_RCVBUFFORCE")?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true).context("UDP_GRO")?;
    socket.set_read_timeout(Some(SILENCE))?;
    announce_ready()?;
    let mut batch = Batch::new(LARGEST);
    let begin = Instant::now();
    let (mut bytes, mut first, mut last) = (0, None, begin);
    loop {
        let Ok(lengths) = batch.receive(&socket) else {
            ensure!(first.is_some() || begin.elapsed() < PATIENCE, "nothing came");
            if first.is_some() && last.elapsed() >= SILENCE {
                break;
            }
            continue;
        };
        bytes += lengths.map(|length| length as u64).sum::<u64>();
        last = Instant::now();
        first.get_or_insert(last);
    }
    let size = options.size as u64;
    ensure!(bytes % size == 0, "{bytes} bytes are no datagrams of {size}");
    let seconds = (last - first.unwrap_or(last)).as_secs_f64();
    Ok(Count { datagrams: bytes / size, bytes, seconds })
}
