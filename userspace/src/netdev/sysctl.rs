//! The settings of IPv4 that weft looks at or changes, in the network namespace of the calling thread.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it (`net_ctl_header_lookup` uses `current`), unlike
//! `/proc/net`, which is a link to `/proc/self/net` and shows that of the process's first thread.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use super::{
    error::{Error, Result},
    port_ranges::PortRanges,
};
use crate::model::PortRange;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IP_LOCAL_RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const IP_LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Every second port, six characters each, is the longest list there is: 192 KiB.
const LONGEST: usize = 256 << 10;

/// Reads a whole file in one go: a list of ports cannot be read in parts, the second read of an open file already
/// gives the end (`proc_do_large_bitmap`), and `std::fs::read` starts with 32 bytes.
fn read(path: &str) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut buffer = vec![0; LONGEST];
        let length = File::open(path)?.read(&mut buffer)?;
        buffer.truncate(length);
        String::from_utf8(buffer).map_err(io::Error::other)
    };
    read().map_err(|error| Error::system(format!("read {path}"), error))
}

/// Writes a value. What is longer than a page goes in parts, and the kernel adds the later ones to the first.
fn write(path: &str, value: &str) -> Result<()> {
    let write = || File::options().write(true).open(path)?.write_all(value.as_bytes());
    write().map_err(|error| Error::system(format!("write {} bytes to {path}", value.len()), error))
}

fn unexpected(path: &str, answer: &str) -> Error {
    Error::Unexpected { operation: format!("read {path}"), answer: answer.trim().to_owned() }
}

/// Whether IPv4 packets are forwarded between devices (`net.ipv4.ip_forward`).
pub fn ip_forward() -> Result<bool> {
    Ok(read(IP_FORWARD)?.trim() != "0")
}

/// Sets `net.ipv4.ip_forward`. The kernel then sets `forwarding` of every device alike.
pub fn set_ip_forward(on: bool) -> Result<()> {
    write(IP_FORWARD, if on { "1\n" } else { "0\n" })
}

/// Has a device answer ARP requests for everybody in its own subnet with its own address, at once
/// (`proxy_arp_pvlan`, RFC 3069), or not. Answers whether that had to be changed.
pub fn ensure_private_vlan(device: &str, on: bool) -> Result<bool> {
    let answers = format!("/proc/sys/net/ipv4/conf/{device}/proxy_arp_pvlan");
    let wanted = if on { "1" } else { "0" };
    if read(&answers)?.trim() == wanted {
        return Ok(false);
    }
    if on {
        // By default the kernel waits for up to 0.8 s, for whoever has the address may answer as well.
        write(&format!("/proc/sys/net/ipv4/neigh/{device}/proxy_delay"), "0")?;
    }
    write(&answers, wanted)?;
    Ok(true)
}

/// Ports that the kernel never picks for a socket by itself (`net.ipv4.ip_local_reserved_ports`).
pub fn ip_local_reserved_ports() -> Result<PortRanges> {
    let text = read(IP_LOCAL_RESERVED_PORTS)?;
    text.parse().map_err(|_| unexpected(IP_LOCAL_RESERVED_PORTS, &text))
}

/// Sets `net.ipv4.ip_local_reserved_ports`. Others may have reserved ports as well: give the union.
pub fn set_ip_local_reserved_ports(ports: &PortRanges) -> Result<()> {
    write(IP_LOCAL_RESERVED_PORTS, &format!("{ports}\n"))
}

/// Ports that the kernel picks from for a socket that names none (`net.ipv4.ip_local_port_range`).
pub fn ip_local_port_range() -> Result<PortRange> {
    let text = read(IP_LOCAL_PORT_RANGE)?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(PortRange { first, last }),
        _ => Err(unexpected(IP_LOCAL_PORT_RANGE, &text)),
    }
}
