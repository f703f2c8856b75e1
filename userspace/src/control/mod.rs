//! How the command line talks to the daemon: one JSON line each way over a unix socket.

pub mod client;
pub mod protocol;
pub mod server;
