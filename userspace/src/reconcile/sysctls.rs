//! The kernel settings that weft changes: each with its earlier value kept, for `status` and `teardown`.

use std::fs;

use super::leases::{ForwardingV6, Leases, SysctlScope};
use crate::netdev::{self, PortRanges, sysctl};

/// `net.ipv4.ip_forward`.
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";
/// `net.ipv4.ip_local_reserved_ports`.
pub const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// The setting that says whether a device hears routers.
const ACCEPT_RA: &str = "accept_ra";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This life of the namespace with this cookie.
pub fn scope(namespace_cookie: u64) -> SysctlScope {
    // Without it a reboot could not be told from a restart; then the switch is thrown at most once too often.
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    SysctlScope { boot, namespace_cookie }
}

/// Forgets earlier values that belong to another boot or namespace, and records in the leases that forwarding is to be
/// switched on if this is the first start here. Afterwards `ip_forward` is the administrator's.
///
/// Answers whether [`switch_forwarding_on`] is due, once the leases are kept.
pub fn first_start(leases: &mut Leases, namespace_cookie: u64) -> netdev::Result<bool> {
    let here = scope(namespace_cookie);
    if leases.sysctls_of.as_ref() != Some(&here) {
        leases.sysctls.clear();
        leases.reserved_ports.clear();
        leases.sysctls_of = Some(here);
        leases.forwarding_due = true;
        leases.forwarding_v6 = None;
    }
    if leases.forwarding_due {
        leases.forwarding_due = !sysctl::ip_forward()?;
        if leases.forwarding_due {
            leases.sysctls.insert(IP_FORWARD.to_owned(), "0".to_owned());
        }
    }
    Ok(leases.forwarding_due)
}

/// What [`first_start`] has announced.
pub fn switch_forwarding_on(leases: &mut Leases) -> netdev::Result<()> {
    sysctl::set_ip_forward(true)?;
    leases.forwarding_due = false;
    Ok(())
}

/// Records in the leases what is to be set so that this host forwards IPv6, which it does from the first network that
/// has IPv6. Afterwards `net.ipv6.conf.all.forwarding` is the administrator's.
///
/// A host that forwards does not hear routers (`accept_ra` 1), and the kernel takes away what it has learnt from them: the
/// default route. So the devices of others get `accept_ra` 2, which goes on hearing them. 0 stays 0. Not only uplinks:
/// what is to become the uplink may be known by nothing but the router that it has not heard yet.
///
/// Answers whether [`switch_ipv6_on`] is due, once the leases are kept.
pub fn ipv6_is_due(leases: &mut Leases, devices: &[&str]) -> netdev::Result<bool> {
    if leases.forwarding_v6 != Some(ForwardingV6::Settled) {
        leases.forwarding_v6 = match sysctl::value(sysctl::IPV6_FORWARDING)?.as_deref() {
            None => return Err(netdev::Error::NoIpv6),
            Some("0") => {
                leases.sysctls.insert(sysctl::IPV6_FORWARDING.to_owned(), "0".to_owned());
                Some(ForwardingV6::Due)
            }
            Some(_) => Some(ForwardingV6::Settled),
        };
    }
    let mut due = leases.forwarding_v6 == Some(ForwardingV6::Due);
    // Where forwarding was on before weft, routers are not heard, and that is the administrator's choice.
    if leases.sysctls.contains_key(sysctl::IPV6_FORWARDING) {
        // The setting of a device that has gone went with it.
        leases.sysctls.retain(|name, _| {
            !name.ends_with(ACCEPT_RA) || !sysctl::value(name).is_ok_and(|found| found.is_none())
        });
        for name in deaf(devices)? {
            leases.sysctls.insert(name, "1".to_owned());
            due = true;
        }
    }
    Ok(due)
}

/// What [`ipv6_is_due`] has announced.
pub fn switch_ipv6_on(leases: &mut Leases, devices: &[&str]) -> netdev::Result<()> {
    // First: the default routes go the moment that forwarding is switched on.
    if leases.sysctls.contains_key(sysctl::IPV6_FORWARDING) {
        for name in deaf(devices)? {
            sysctl::set_value(&name, "2")?;
        }
    }
    if leases.forwarding_v6 == Some(ForwardingV6::Due) {
        sysctl::set_value(sysctl::IPV6_FORWARDING, "1")?;
        leases.forwarding_v6 = Some(ForwardingV6::Settled);
    }
    Ok(())
}

/// Settings of devices that would not hear routers while the host forwards.
fn deaf(devices: &[&str]) -> netdev::Result<Vec<String>> {
    let mut found = Vec::new();
    for device in devices {
        let name = sysctl::of_device(device, ACCEPT_RA);
        if sysctl::value(&name)?.as_deref() == Some("1") {
            found.push(name);
        }
    }
    Ok(found)
}

/// What weft has added to the reserved ports.
pub fn added(leases: &Leases) -> PortRanges {
    // Written by `reserve`, so it is a list of ports.
    leases.reserved_ports.parse().unwrap_or_default()
}

/// A change of the reserved ports, in two steps, each recorded in the leases: what may have been written is always kept
/// beforehand, so that a daemon that is killed in between leaves nothing that looks like the user's.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    current: PortRanges,
    user: PortRanges,
    wanted: PortRanges,
}

impl Reservation {
    /// Begins to have the published ports among those that the kernel never picks by itself, beside the user's own,
    /// which are read now. The leases are to be kept before [`Self::write`].
    pub fn begin(leases: &mut Leases, published: &PortRanges) -> netdev::Result<Self> {
        let current = sysctl::ip_local_reserved_ports()?;
        let before = added(leases);
        let user = current.difference(&before);
        let wanted = published.difference(&user);
        if user.union(&wanted) != current {
            leases.sysctls.entry(RESERVED_PORTS.to_owned()).or_insert_with(|| user.to_string());
            leases.reserved_ports = before.union(&wanted).to_string();
        }
        Ok(Self { current, user, wanted })
    }

    /// Writes the setting if it differs, and what of it is weft's to the leases. Answers all that is reserved now.
    pub fn write(self, leases: &mut Leases) -> netdev::Result<PortRanges> {
        let whole = self.user.union(&self.wanted);
        if whole != self.current {
            sysctl::set_ip_local_reserved_ports(&whole)?;
        }
        leases.reserved_ports = self.wanted.to_string();
        Ok(whole)
    }
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
    if leases.sysctls.get(sysctl::IPV6_FORWARDING).is_some_and(|value| value == "0") {
        note(sysctl::value(sysctl::IPV6_FORWARDING).and_then(|found| match found.as_deref() {
            None | Some("0") => Ok(()),
            Some(_) => sysctl::set_value(sysctl::IPV6_FORWARDING, "0"),
        }));
    }
    // After it: a host that does not forward hears routers with 1.
    for (name, before) in leases.sysctls.iter().filter(|(name, _)| name.ends_with(ACCEPT_RA)) {
        note(sysctl::value(name).and_then(|found| match found.as_deref() {
            Some("2") => sysctl::set_value(name, before),
            _ => Ok(()),
        }));
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
        RESERVED_PORTS => sysctl::ip_local_reserved_ports()?.to_string(),
        name => sysctl::value(name)?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// `/proc/sys/net` shows the namespace of the thread that opens it.
    fn in_fresh_namespace(test: fn() -> TestResult) -> TestResult {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            test()
        });
        thread.join().map_err(|_| "the test has panicked")?
    }

    fn set(ports: &str) -> TestResult {
        Ok(sysctl::set_ip_local_reserved_ports(&ports.parse()?)?)
    }

    fn reserve(
        leases: &mut Leases,
        published: &str,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let whole = Reservation::begin(leases, &published.parse()?)?.write(leases)?;
        assert_eq!(sysctl::ip_local_reserved_ports()?, whole);
        Ok(whole.to_string())
    }

    #[test]
    fn ports_come_and_go_beside_the_users_own() -> TestResult {
        in_fresh_namespace(|| {
            let mut leases = Leases::new(1);
            set("22,80")?;
            assert_eq!(reserve(&mut leases, "80,8080")?, "22,80,8080");
            // Written meanwhile by the user.
            set("22,80,8080,9000")?;
            assert_eq!(reserve(&mut leases, "")?, "22,80,9000");
            assert_eq!(leases.reserved_ports, "");
            assert_eq!(leases.sysctls.get(RESERVED_PORTS).map(String::as_str), Some("22,80"));
            Ok(())
        })
    }

    #[test]
    fn a_daemon_killed_around_the_write_leaves_nothing() -> TestResult {
        in_fresh_namespace(|| {
            set("22")?;
            let mut leases = Leases::new(1);
            assert!(first_start(&mut leases, 7)? != sysctl::ip_forward()?);
            assert_eq!(reserve(&mut leases, "8080")?, "22,8080");
            // Kept, but not written: another one goes on from there.
            let _ = Reservation::begin(&mut leases, &"8081".parse()?)?;
            assert_eq!(leases.reserved_ports, "8080-8081");
            let mut second = leases.clone();
            assert_eq!(reserve(&mut second, "8081")?, "22,8081");
            // Written, but what was kept is older.
            assert!(restore(&leases, &scope(8)).is_empty());
            assert_eq!(
                sysctl::ip_local_reserved_ports()?.to_string(),
                "22,8081",
                "elsewhere nothing is restored"
            );
            assert!(restore(&leases, &scope(7)).is_empty());
            assert_eq!(sysctl::ip_local_reserved_ports()?.to_string(), "22");
            Ok(())
        })
    }

    #[test]
    fn without_ipv6_nothing_of_it_is_recorded_or_restored() -> TestResult {
        in_fresh_namespace(|| {
            let mut leases = Leases::new(1);
            first_start(&mut leases, 7)?;
            let before = leases.clone();
            // As with `ipv6.disable=1`, for this thread.
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("none"), "/proc/sys/net/ipv6", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            assert!(matches!(ipv6_is_due(&mut leases, &["lo"]), Err(netdev::Error::NoIpv6)));
            assert_eq!(leases, before);
            // Recorded by an earlier version.
            leases.sysctls.insert(sysctl::IPV6_FORWARDING.to_owned(), "0".to_owned());
            leases.sysctls.insert(sysctl::of_device("lo", ACCEPT_RA), "1".to_owned());
            assert_eq!(restore(&leases, &scope(7)), [""; 0]);
            Ok(())
        })
    }

    #[test]
    fn forwarding_is_switched_on_once() -> TestResult {
        in_fresh_namespace(|| {
            sysctl::set_ip_forward(false)?;
            let mut leases = Leases::new(1);
            assert!(first_start(&mut leases, 7)?);
            // Killed before it was switched on.
            assert!(first_start(&mut leases, 7)?);
            switch_forwarding_on(&mut leases)?;
            sysctl::set_ip_forward(false)?;
            assert!(!first_start(&mut leases, 7)?, "now it is the administrator's");
            assert!(!sysctl::ip_forward()?);
            assert_eq!(leases.sysctls.get(IP_FORWARD).map(String::as_str), Some("0"));
            Ok(())
        })
    }
}
