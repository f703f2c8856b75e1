//! An overlay without an overlay: what a container sends is redirected to the uplink as it is, and what the uplink gets to the
//! container, by eBPF programs that do nothing else. No VXLAN in eBPF can be faster.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::{INNER_MTU, OVERLAY, OVERLAY_MAC, Pair, Path, Variant};
use crate::{
    Host, Lab,
    bench::{
        bpf::{Hook, Program, Redirect},
        topology::Contender,
    },
};

/// Builds it, if the overlay is among these paths.
pub(super) fn build(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    if !paths.contains(&Path::Overlay) {
        return Ok(Vec::new());
    }
    let pair = Pair::build(lab, Variant::Redirect.name())?;
    let mut links = Vec::new();
    for (here, host) in pair.hosts.iter().enumerate() {
        let container = &pair.containers[here];
        let (netns, mac, there) = (container.netns(), OVERLAY_MAC[here], 1 - here);
        host.ip(&format!(
            "link add inside mtu {INNER_MTU} type veth peer name eth0 address {mac} mtu {INNER_MTU} netns {netns}"
        ))?;
        // The uplink has the container's MAC address, too: frames for it are this host's.
        host.ip(&format!("link set eth0 address {mac}"))?;
        host.ip("link set inside up")?;
        container.ip(&format!("address add {}/24 dev eth0", OVERLAY[here]))?;
        container.ip("link set eth0 up")?;
        container.ip(&format!("neigh add {} lladdr {} dev eth0", OVERLAY[there], OVERLAY_MAC[there]))?;
        links.push(redirect(host, "inside", "eth0", Redirect::Out)?);
        links.push(redirect(host, "eth0", "inside", Redirect::Peer)?);
    }
    let mut contender = pair.contender(lab, Variant::Redirect, Vec::new())?;
    contender.links = links;
    Ok(vec![contender])
}

/// Attaches a program to what comes in at one device of this host that redirects it to another, until the link is closed.
fn redirect(host: &Host, from: &str, to: &str, helper: Redirect) -> Result<OwnedFd> {
    host.inside(|| {
        let program = Program::redirecting(Hook::TcxIngress, helper, if_nametoindex(to)?);
        let program = program.context("loading a program that redirects")?;
        program.attach(if_nametoindex(from)?).context("attaching it")
    })
}
