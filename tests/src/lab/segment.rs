//! Wires: a switch that hosts plug into, and a cable between two namespaces.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;

use super::{Inner, namespace::Namespace, process};

/// An underlay: a namespace with a kernel bridge in it, whose ports are the hosts' uplinks.
#[derive(Clone, Debug)]
pub struct Segment {
    switch: Namespace,
    range: IpNetwork,
}

impl Segment {
    pub(super) fn create(lab: &Arc<Inner>, range: &str) -> Result<Self> {
        let range = range.parse().with_context(|| format!("address range of a segment: {range}"))?;
        let number = lab.next_number();
        let switch = Namespace::create(lab, "switch", &format!("switch{number}"))?;
        switch.ip("link add bridge0 type bridge stp_state 0")?;
        switch.ip("link set bridge0 up")?;
        Ok(Self { switch, range })
    }

    /// The namespace of the switch: `tcpdump` on `bridge0` there sees the broadcasts, on a port everything.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Joins `device` of a namespace to the switch, with an address such as `192.0.2.1/24`.
    pub(super) fn plug(&self, namespace: &Namespace, device: &str, address: &str) -> Result<IpAddr> {
        let cidr: IpNetwork = address.parse().with_context(|| format!("address of {}", namespace.name()))?;
        ensure!(
            self.range.contains(cidr.ip()) && self.range.prefix() == cidr.prefix(),
            "{address} of {} is not an address of the segment {}",
            namespace.name(),
            self.range
        );
        // Named after the host so that a capture on the switch is easy to read; 15 bytes are the kernel's limit.
        let name: String = namespace.name().chars().take(8).collect();
        let port = format!("{name}-{}", self.switch.lab.next_number());
        self.switch
            .ip(&format!("link add {port} type veth peer name {device} netns {}", namespace.netns()))?;
        self.switch.ip(&format!("link set {port} master bridge0 up"))?;
        add_address(namespace, device, address)?;
        Ok(cidr.ip())
    }
}

/// Joins two namespaces by one veth pair with nothing in between: the limit for every veth path.
pub(super) fn cable(a: (&Namespace, &str, &str), b: (&Namespace, &str, &str)) -> Result<()> {
    a.0.ip(&format!("link add {} type veth peer name {} netns {}", a.1, b.1, b.0.netns()))?;
    for (namespace, device, address) in [a, b] {
        add_address(namespace, device, address)?;
    }
    Ok(())
}

pub(super) fn add_address(namespace: &Namespace, device: &str, address: &str) -> Result<()> {
    // Duplicate address detection would make an IPv6 address unusable for its first second.
    let option = if address.contains(':') { " nodad" } else { "" };
    process::ip(&format!("-n {} address add {address} dev {device}{option}", namespace.netns()))?;
    process::ip(&format!("-n {} link set {device} up", namespace.netns())).map(drop)
}
