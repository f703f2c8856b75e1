//! The kernel settings that weft changes: each with its earlier value kept, for `status` and `teardown`.

use std::fs;

use super::leases::{Leases, SysctlScope};
use crate::netdev::{self, PortRanges, sysctl};

/// `net.ipv4.ip_forward`.
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";
/// `net.ipv4.ip_local_reserved_ports`.
pub const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This life of the namespace with this cookie.
pub fn scope(namespace_cookie: u64) -> SysctlScope {
    // Without it a reboot could not be told from a restart; then the switch is thrown at most once too often.
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    SysctlScope { boot, namespace_cookie }
}

/// Forgets earlier values that belong to another boot or namespace, and switches forwarding on if this is the first
/// start here. Afterwards `ip_forward` is the administrator's (S2).
pub fn first_start(leases: &mut Leases, namespace_cookie: u64) -> netdev::Result<()> {
    let here = scope(namespace_cookie);
    if leases.sysctls_of.as_ref() == Some(&here) {
        return Ok(());
    }
    leases.sysctls.clear();
    leases.reserved_ports.clear();
    if !sysctl::ip_forward()? {
        sysctl::set_ip_forward(true)?;
        leases.sysctls.insert(IP_FORWARD.to_owned(), "0".to_owned());
    }
    leases.sysctls_of = Some(here);
    Ok(())
}

/// What weft has added to the reserved ports.
pub fn added(leases: &Leases) -> PortRanges {
    // Written by `reserve`, so it is a list of ports.
    leases.reserved_ports.parse().unwrap_or_default()
}

/// Has the published ports among those that the kernel never picks by itself, beside the user's own.
pub fn reserve(leases: &mut Leases, current: &PortRanges, published: &PortRanges) -> netdev::Result<bool> {
    let before = added(leases);
    let user = current.difference(&before);
    let wanted = published.difference(&user);
    let whole = user.union(&wanted);
    if whole != *current {
        sysctl::set_ip_local_reserved_ports(&whole)?;
        leases.sysctls.entry(RESERVED_PORTS.to_owned()).or_insert_with(|| user.to_string());
    }
    leases.reserved_ports = wanted.to_string();
    Ok(whole != *current)
}

/// Puts the settings back. What somebody else has changed since stays, and so does everything where weft has changed
/// nothing: in another namespace, or after a restart of the machine.
pub fn restore(leases: &Leases, here: &SysctlScope) -> Vec<String> {
    let mut errors = Vec::new();
    if leases.sysctls_of.as_ref() != Some(here) {
        return errors;
    }
    let mut note = |result: netdev::Result<()>| {
        if let Err(error) = result {
            errors.push(error.to_string());
        }
    };
    if leases.sysctls.get(IP_FORWARD).is_some_and(|value| value == "0") {
        note(sysctl::set_ip_forward(false));
    }
    let ours = added(leases);
    if !ours.is_empty() {
        note(sysctl::ip_local_reserved_ports().and_then(|current| {
            let user = current.difference(&ours);
            if user == current { Ok(()) } else { sysctl::set_ip_local_reserved_ports(&user) }
        }));
    }
    errors
}

/// The settings with their present values, for `status`.
pub fn current(name: &str) -> netdev::Result<String> {
    Ok(match name {
        IP_FORWARD => if sysctl::ip_forward()? { "1" } else { "0" }.to_owned(),
        _ => sysctl::ip_local_reserved_ports()?.to_string(),
    })
}
