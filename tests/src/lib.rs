//! weft's lab of network namespaces, and the suites that use it.
//!
//! A test reads like the topology it builds:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = tests::Lab::new("masquerade")?;
//! let wire = lab.segment("192.0.2.0/24")?;
//! let host = lab.host("a")?.on(&wire, "192.0.2.1/24")?;
//! let client = lab.host("client")?.on(&wire, "192.0.2.100/24")?;
//! let web = host.container("web")?;
//! let daemon = host.weft("…the file, in which `netns: web` is this host's container…")?;
//! let _server = web.serve_http(80, "hello")?;
//! assert_eq!(client.curl("http://192.0.2.1:8080")?.stdout, "hello");
//! println!("{}", daemon.json(&["flow", "ls"])?);
//! lab.finish()
//! # }
//! ```
//!
//! No packet leaves the namespaces that a lab makes, and nothing of the machine outside them is changed.

pub mod bench;
pub mod lab;
pub mod oracle;
pub mod traffic;

pub use lab::{
    Lab,
    daemon::Daemon,
    host::{Bridge, Container, Host},
    namespace::Namespace,
    process::{Output, Process},
    segment::Segment,
    tools::Tools,
};
