//! Host ports of publications that leave them open, and who may have a port.

use std::net::Ipv4Addr;

use super::LeaseFacts;
use crate::model::{PortRange, Protocol};

/// A claim on host ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Protocol.
    pub protocol: Protocol,
    /// Host address; `None`: all.
    pub host_address: Option<Ipv4Addr>,
    /// Ports.
    pub ports: PortRange,
    /// The container that has them.
    pub container: String,
}

/// All claims so far.
#[derive(Debug, Default)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// Who already has one of these ports on the very same address. A specific address beside the wildcard is no
    /// conflict: the more specific one wins there.
    pub fn conflict(
        &self,
        protocol: Protocol,
        address: Option<Ipv4Addr>,
        ports: PortRange,
    ) -> Option<&Claim> {
        self.0.iter().find(|claim| {
            claim.protocol == protocol && claim.host_address == address && claim.ports.overlaps(ports)
        })
    }

    /// Enters a claim.
    pub fn add(&mut self, claim: Claim) {
        self.0.push(claim);
    }

    /// One port of `range` that nobody has, with no claim on any address and no process of the host on it.
    /// `kept`, the port of an earlier round, is preferred; `spread` decides where the search begins.
    pub fn choose(
        &self,
        facts: &LeaseFacts,
        protocol: Protocol,
        range: PortRange,
        kept: Option<u16>,
        spread: u64,
    ) -> Option<u16> {
        let free = |port: &u16| {
            !facts.bound_ports.contains(&(protocol, *port))
                && !self
                    .0
                    .iter()
                    .any(|claim| claim.protocol == protocol && claim.ports.overlaps(PortRange::single(*port)))
        };
        let kept = kept.filter(|port| (range.first..=range.last).contains(port) && free(port));
        kept.or_else(|| {
            let offset = (spread % u64::from(range.count())) as u32;
            (0..range.count()).map(|step| range.first + ((offset + step) % range.count()) as u16).find(free)
        })
    }
}
