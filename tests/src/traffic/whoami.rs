//! Tells a client the address it is seen with: what address translation did.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{PATIENCE, announce_ready, canonical, echo, latency::Protocol};

/// Answers with the client's address.
#[derive(Debug, clap::Args)]
pub struct ServeOptions {
    /// Where to listen, with both protocols.
    pub listen: SocketAddr,
}

/// Asks such a server.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Where the server listens.
    pub server: SocketAddr,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The client's address as the server sees it.
    pub seen: SocketAddr,
    /// The client's address as the client sees it.
    pub local: SocketAddr,
}

/// Serves until killed.
pub fn serve(options: &ServeOptions) -> Result<()> {
    let listener = TcpListener::bind(options.listen).context("TCP")?;
    let socket = UdpSocket::bind(options.listen).context("UDP")?;
    announce_ready()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if let Ok(client) = stream.peer_addr() {
                // One write, so one segment.
                let _ = stream.write_all(canonical(client).to_string().as_bytes());
            }
        }
    });
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error of an earlier answer is reported here.
        let Ok((_, client)) = socket.recv_from(&mut buffer) else { continue };
        let _ = socket.send_to(canonical(client).to_string().as_bytes(), client);
    }
}

/// Asks once.
pub fn ask(options: &Options) -> Result<Report> {
    let (answer, local) = match options.protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&options.server, PATIENCE).context("connecting")?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).context("reading the answer")?;
            (answer, stream.local_addr()?)
        }
        Protocol::Udp => {
            let socket = echo::connected(options.server)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(b"whoami")?;
            let mut buffer = [0; 128];
            let length = socket.recv(&mut buffer).context("waiting for the answer")?;
            (String::from_utf8_lossy(&buffer[..length]).into_owned(), socket.local_addr()?)
        }
    };
    let seen = answer.parse().with_context(|| format!("the answer `{answer}` is not an address"))?;
    Ok(Report { seen, local })
}
