//! What the two ends of an action saw, as named facts: what the comparison compares.

use std::{collections::BTreeMap, io, net::SocketAddr};

/// Facts by name. A fact of a datagram begins with its number.
pub type Facts = BTreeMap<String, String>;

/// What a server saw of one connection, datagram or echo request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Who served it, and under which address.
    pub server: String,
    /// Where it came from.
    pub source: SocketAddr,
    /// Whether the bytes were those that were sent.
    pub intact: bool,
    /// How it ended, for a connection.
    pub end: Option<End>,
}

/// How a connection ended for one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side's FIN.
    Fin,
    /// The other side's RST.
    Reset,
    /// Neither came.
    Silence,
    /// Something else.
    Error(io::ErrorKind),
}

impl End {
    /// The fact.
    pub fn describe(self) -> String {
        match self {
            Self::Fin => "FIN".to_owned(),
            Self::Reset => "RST".to_owned(),
            Self::Silence => "silence".to_owned(),
            Self::Error(kind) => kind.to_string(),
        }
    }

    /// Of a failed read or write.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Error(kind),
        }
    }
}

/// Why a packet did not arrive, as its sender saw it.
pub fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        // No route at all is known before anything is sent.
        io::ErrorKind::NetworkUnreachable => "no route".to_owned(),
        _ => error.to_string(),
    }
}

/// Facts about what a server saw. `local` is the port as its sender knows it.
pub fn seen_facts(facts: &mut Facts, prefix: &str, seen: &Seen, local: Option<u16>) {
    let mut add = |name: &str, value: String| facts.insert(format!("{prefix}{name}"), value);
    add("server", seen.server.clone());
    add("source address", seen.source.ip().to_string());
    if let Some(local) = local {
        let port = if seen.source.port() == local { "kept" } else { "changed" };
        add("source port", port.to_owned());
    }
    add("request", if seen.intact { "intact" } else { "damaged" }.to_owned());
    if let Some(end) = seen.end {
        add("server's end", end.describe());
    }
}
