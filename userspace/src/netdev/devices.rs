//! The operations common to all kinds of devices.

use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage,
    },
};
use nix::errno::Errno;
use rtnetlink::LinkUnspec;

use super::{
    error::{Error, Result, tolerate},
    handle::Netlink,
    link::Link,
};

/// A device that was set up is read this often until it runs.
pub(super) const SETTLING_PAUSE: Duration = Duration::from_millis(2);

/// What an `ensure` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object was made, or made anew.
    Created,
    /// The object was there and something in it was put right.
    Changed,
    /// Everything was as it must be.
    Unchanged,
}

/// Result of an `ensure` of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ensured {
    /// The device's index.
    pub ifindex: u32,
    /// What was done.
    pub outcome: Outcome,
}

impl Netlink {
    /// All devices of the namespace, in one request.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        // Statistics are a third of every answer and nobody reads them here.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.dump("list devices", RouteNetlinkMessage::GetLink(message)).await?;
        Ok(answer.into_iter().filter_map(parse_answer).collect())
    }

    /// The device with this name, `None` if there is none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        self.get_link(name, LinkUnspec::new_with_name(name).build()).await
    }

    /// The device with this index, `None` if there is none.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<Link>> {
        self.get_link(&format!("with index {ifindex}"), LinkUnspec::new_with_index(ifindex).build()).await
    }

    async fn get_link(&self, label: &str, mut message: LinkMessage) -> Result<Option<Link>> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.get(&format!("look up device {label}"), RouteNetlinkMessage::GetLink(message)).await {
            Ok(answer) => Ok(answer.and_then(parse_answer)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The device with this name, which has to exist.
    pub(super) async fn expect_link(&self, name: &str) -> Result<Link> {
        self.link(name)
            .await?
            .ok_or_else(|| Error::NoDevice { device: name.into(), namespace: self.namespace().into() })
    }

    /// Makes a device; `false` if its name was taken meanwhile.
    pub(super) async fn create_link(&self, operation: &str, message: LinkMessage) -> Result<()> {
        self.change(operation, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Changes an existing device.
    pub(super) async fn change_link(&self, operation: &str, message: LinkMessage) -> Result<()> {
        self.change(operation, RouteNetlinkMessage::NewLink(message), 0).await
    }

    /// Sets a device up; `true` if it was down.
    pub async fn ensure_link_up(&self, name: &str) -> Result<bool> {
        let link = self.expect_link(name).await?;
        if link.up {
            return Ok(false);
        }
        self.change_link(
            &format!("set device {name} up"),
            LinkUnspec::new_with_index(link.ifindex).up().build(),
        )
        .await?;
        Ok(true)
    }

    /// Waits until packets pass a device that was set up, but no longer than until `end`: only the kernel's link watch, a
    /// moment later, gives it a queue and has the bridge forward to it. Since Linux 6.8 reading the device does that at
    /// once.
    pub async fn wait_until_running(&self, ifindex: u32, end: Instant) -> Result<()> {
        loop {
            let message = LinkUnspec::new_with_index(ifindex).build();
            let operation = format!("look up device with index {ifindex}");
            let answer = self.get(&operation, RouteNetlinkMessage::GetLink(message)).await?;
            let runs = matches!(&answer, Some(RouteNetlinkMessage::NewLink(link))
                if link.header.flags.contains(LinkFlags::Running));
            if runs || Instant::now() >= end {
                return Ok(());
            }
            tokio::time::sleep(SETTLING_PAUSE).await;
        }
    }

    /// Sets the loopback device up; `true` if it was down. The kernel gives it 127.0.0.1 and ::1 itself.
    pub async fn ensure_loopback_up(&self) -> Result<bool> {
        self.ensure_link_up("lo").await
    }

    /// Removes the device with this name and alias; `false` if there is none. A device with that name but another
    /// alias is an error and stays. Removing one end of a veth pair removes both.
    pub async fn remove_link(&self, name: &str, alias: &str) -> Result<bool> {
        let Some(link) = self.link(name).await? else { return Ok(false) };
        link.owned(self, link.kind.name(), alias)?;
        self.remove_link_by_index(link.ifindex, name).await
    }

    /// Removes a device that was left when its maker was killed before marking it: `false` if it is gone, or has been
    /// given an alias or taken up since it was read.
    pub async fn remove_unmarked_link(&self, link: &Link) -> Result<bool> {
        match self.link_by_index(link.ifindex).await? {
            Some(now)
                if now.name == link.name && now.kind.name() == link.kind.name() && now.is_unmarked() =>
            {
                self.remove_link_by_index(now.ifindex, &now.name).await
            }
            _ => Ok(false),
        }
    }

    pub(super) async fn remove_link_by_index(&self, ifindex: u32, name: &str) -> Result<bool> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        let operation = format!("remove device {name}");
        tolerate(self.change(&operation, RouteNetlinkMessage::DelLink(message), 0).await, &[Errno::ENODEV])
    }
}

/// A device that only passes frames on needs no address of its own, and a thousand ports that make one each, with
/// duplicate address detection, keep every listener on netlink busy. `None` where the kernel has no IPv6: it refuses the
/// attribute then.
pub(super) fn no_ipv6_address() -> Option<LinkAttribute> {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    std::path::Path::new("/proc/sys/net/ipv6")
        .exists()
        .then(|| LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
}

fn parse_answer(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::parse(message)),
        _ => None,
    }
}
