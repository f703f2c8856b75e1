//! A web server with one page.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::Result;

use super::{announce_ready, canonical};

/// Answers each request with the same body.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The body.
    #[arg(long, default_value = "hello")]
    pub body: String,
}

/// Serves until killed.
pub fn serve(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    announce_ready()?;
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            // A client that goes away early is no concern of the others.
            scope.spawn(|| answer(stream, &options.body));
        }
    });
    Ok(())
}

/// One request for each connection (RFC 9112 section 9.6: `Connection: close`).
fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    let client = canonical(stream.peer_addr()?);
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\
         X-Client: {client}\r\n\r\n{body}",
        body.len()
    )
}
