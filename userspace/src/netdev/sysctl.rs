//! The settings of the kernel that weft looks at or changes, in the network namespace of the calling thread.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it (`net_ctl_header_lookup` uses `current`), unlike
//! `/proc/net`, which is a link to `/proc/self/net` and shows that of the process's first thread.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use super::{
    error::{Error, Result},
    port_ranges::PortRanges,
};
use crate::model::PortRange;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Forwarding of IPv6 on all devices.
pub const IPV6_FORWARDING: &str = "net.ipv6.conf.all.forwarding";
const IP_LOCAL_RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const IP_LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Every second port, six characters each, is the longest list there is: 192 KiB.
const LONGEST_LIST: usize = 256 << 10;
/// More than any other setting has.
const LONGEST_VALUE: usize = 4096;

/// Reads a file of at most `longest` bytes in one go: a list of ports cannot be read in parts, the second read of an
/// open file already gives the end (`proc_do_large_bitmap`), and `std::fs::read` starts with 32 bytes.
fn read(path: &str, longest: usize) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut buffer = vec![0; longest];
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
    Ok(read(IP_FORWARD, LONGEST_VALUE)?.trim() != "0")
}

/// Sets `net.ipv4.ip_forward`. The kernel then sets `forwarding` of every device alike.
pub fn set_ip_forward(on: bool) -> Result<()> {
    write(IP_FORWARD, if on { "1\n" } else { "0\n" })
}

/// Whether IPv6 packets are forwarded between devices (`net.ipv6.conf.all.forwarding`). Not where there is no IPv6.
pub fn ipv6_forwarding() -> Result<bool> {
    Ok(value(IPV6_FORWARDING)?.is_some_and(|value| value != "0"))
}

/// The value of a setting by its name, `None` if there is no such setting. As for sysctl(8), a dot in a device's name
/// is written as '/'.
pub fn value(name: &str) -> Result<Option<String>> {
    let path = path(name);
    match read(&path, LONGEST_VALUE) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) if !Path::new(&path).exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a setting by its name.
pub fn set_value(name: &str, value: &str) -> Result<()> {
    write(&path(name), &format!("{value}\n"))
}

fn path(name: &str) -> String {
    let swapped: String = name
        .chars()
        .map(|character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

/// The name of a device's IPv6 setting.
pub fn of_device(device: &str, setting: &str) -> String {
    of_device_in("ipv6", "conf", device, setting)
}

fn of_device_in(family: &str, group: &str, device: &str, setting: &str) -> String {
    format!("net.{family}.{group}.{}.{setting}", device.replace('.', "/"))
}

/// A container's interface has the addresses that weft gives it, and the link-local one that is made of its MAC address
/// (the programs know that one): no router is heard, and no address made up. Its network has each MAC address once, and so
/// nothing is to be detected. While it was, for up to two seconds, the container could not ask for a neighbour that came to
/// it by a published port of another network: it has no other address here to ask with (RFC 4861 section 7.2.2, RFC 4862
/// section 5.4).
pub fn ensure_ipv6_of_container(device: &str) -> Result<()> {
    ensure_ipv6(
        device,
        &[
            ("disable_ipv6", "0"),
            ("addr_gen_mode", "0"),
            ("accept_dad", "0"),
            ("accept_ra", "0"),
            ("autoconf", "0"),
        ],
    )
}

/// A bridge is the router. Its link-local address is made of its MAC address, which is the same on every host of an
/// overlay: duplicate address detection would find the others.
pub fn ensure_ipv6_of_bridge(device: &str) -> Result<()> {
    ensure_ipv6(device, &[("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("autoconf", "0")])
}

/// The host has no part in the IPv6 of a device. It has none anyway in a kernel without IPv6.
pub fn ensure_no_ipv6(device: &str) -> Result<()> {
    let name = of_device(device, "disable_ipv6");
    match value(&name)?.as_deref() {
        None | Some("1") => Ok(()),
        Some(_) => set_value(&name, "1"),
    }
}

fn ensure_ipv6(device: &str, settings: &[(&str, &str)]) -> Result<()> {
    for (setting, wanted) in settings {
        let name = of_device(device, setting);
        if value(&name)?.is_none_or(|found| found != *wanted) {
            set_value(&name, wanted)?;
        }
    }
    Ok(())
}

/// Has a device answer ARP requests for everybody in its own subnet with its own address, at once
/// (`proxy_arp_pvlan`, RFC 3069), or not.
pub fn ensure_private_vlan(device: &str, on: bool) -> Result<()> {
    answer_for_others("ipv4", "proxy_arp_pvlan", device, on)
}

/// The same for IPv6, where the addresses have to be named as well ([`super::Netlink::ensure_proxy`]).
pub fn ensure_proxy_ndp(device: &str, on: bool) -> Result<()> {
    answer_for_others("ipv6", "proxy_ndp", device, on)
}

fn answer_for_others(family: &str, setting: &str, device: &str, on: bool) -> Result<()> {
    let setting = of_device_in(family, "conf", device, setting);
    let wanted = if on { "1" } else { "0" };
    if value(&setting)?.as_deref() == Some(wanted) {
        return Ok(());
    }
    if on {
        // By default the kernel waits for up to 0.8 s, for whoever has the address may answer as well.
        set_value(&of_device_in(family, "neigh", device, "proxy_delay"), "0")?;
    }
    set_value(&setting, wanted)
}

/// Ports that the kernel never picks for a socket by itself (`net.ipv4.ip_local_reserved_ports`).
pub fn ip_local_reserved_ports() -> Result<PortRanges> {
    let text = read(IP_LOCAL_RESERVED_PORTS, LONGEST_LIST)?;
    text.parse().map_err(|_| unexpected(IP_LOCAL_RESERVED_PORTS, &text))
}

/// Sets `net.ipv4.ip_local_reserved_ports`. Others may have reserved ports as well: give the union.
pub fn set_ip_local_reserved_ports(ports: &PortRanges) -> Result<()> {
    write(IP_LOCAL_RESERVED_PORTS, &format!("{ports}\n"))
}

/// Ports that the kernel picks from for a socket that names none (`net.ipv4.ip_local_port_range`).
pub fn ip_local_port_range() -> Result<PortRange> {
    let text = read(IP_LOCAL_PORT_RANGE, LONGEST_VALUE)?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(PortRange { first, last }),
        _ => Err(unexpected(IP_LOCAL_PORT_RANGE, &text)),
    }
}
