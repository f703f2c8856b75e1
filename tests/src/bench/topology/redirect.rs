//! The limit of eBPF at these devices: programs that redirect whatever comes to the one place where it can be for, and do nothing
//! else. Containers of one network have each other at the other end. Those that talk to the world have the uplink's own
//! address, so that nothing has to be translated, and those of an overlay talk across the uplinks without a tunnel.

use std::{os::fd::OwnedFd, rc::Rc};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::{
    CLIENT, Ends, HOST, INNER_MTU, OVERLAY, OVERLAY_MAC, Pair, Path, SHOP, Site, Variant, WEB, servers,
};
use crate::{
    Host, Lab, Namespace,
    bench::{
        bpf::{Hook, Program, Redirect},
        topology::Contender,
    },
};

/// Builds it for these paths.
pub(super) fn build(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    if paths.contains(&Path::Bridge) {
        all.push(neighbours(lab)?);
    }
    for path in [Path::Masquerade, Path::PublishedPort] {
        if paths.contains(&path) {
            all.push(uplink(lab, path)?);
        }
    }
    if paths.contains(&Path::Overlay) {
        all.push(across_hosts(lab)?);
    }
    Ok(all)
}

/// Two containers of one host.
fn neighbours(lab: &Lab) -> Result<Contender> {
    let site = Site::build(lab, "redirect")?;
    let [ours, theirs] = OVERLAY_MAC;
    // The host's end has the address of the container that it leads to: what comes to it is this host's.
    plug(&site.host, &site.shop, "shop", (&format!("{SHOP}/24"), ours), theirs, 1500)?;
    plug(&site.host, &site.web, "web", (&format!("{WEB}/24"), theirs), ours, 1500)?;
    let links = vec![
        redirect(&site.host, "shop", "web", Redirect::Peer)?,
        redirect(&site.host, "web", "shop", Redirect::Peer)?,
    ];
    let ends = Ends { client: &site.shop, server: &site.web, target: WEB, seen: SHOP };
    let servers = Rc::new(servers::start(lab, &site.web)?);
    Ok(Contender {
        _links: links,
        ..Contender::new(Path::Bridge, Variant::Redirect, &ends, Vec::new(), &servers)?
    })
}

/// A container that is its host to the world.
fn uplink(lab: &Lab, path: Path) -> Result<Contender> {
    let site = Site::build(lab, &format!("redirect-{}", path.name().replace(' ', "-")))?;
    let links = behind_uplink(&site.host, &site.web, &format!("{HOST}/24"), OVERLAY_MAC[0], 1500)?;
    let (web, client) = (&site.web, &site.client);
    let (server, ends) = match path {
        Path::Masquerade => (client, Ends { client: web, server: client, target: CLIENT, seen: HOST }),
        _ => (web, Ends { client, server: web, target: HOST, seen: CLIENT }),
    };
    let servers = Rc::new(servers::start(lab, server)?);
    Ok(Contender {
        _links: links.into(),
        ..Contender::new(path, Variant::Redirect, &ends, Vec::new(), &servers)?
    })
}

/// Two containers of two hosts, with the frames that the tunnel would carry.
fn across_hosts(lab: &Lab) -> Result<Contender> {
    let pair = Pair::build(lab, Variant::Redirect.name())?;
    let mut links = Vec::new();
    for (here, host) in pair.hosts.iter().enumerate() {
        let address = format!("{}/24", OVERLAY[here]);
        links.extend(behind_uplink(host, &pair.containers[here], &address, OVERLAY_MAC[here], INNER_MTU)?);
    }
    Ok(Contender { _links: links, ..pair.contender(lab, Variant::Redirect, Vec::new())? })
}

/// Plugs a container in that gets all that the uplink gets, and whose frames leave by it.
fn behind_uplink(
    host: &Host,
    container: &Namespace,
    address: &str,
    mac: &str,
    mtu: u32,
) -> Result<[OwnedFd; 2]> {
    // The uplink has the container's MAC address: frames for it are this host's.
    host.ip(&format!("link set eth0 address {mac}"))?;
    plug(host, container, "inside", (address, mac), mac, mtu)?;
    Ok([redirect(host, "inside", "eth0", Redirect::Out)?, redirect(host, "eth0", "inside", Redirect::Peer)?])
}

/// A veth pair: `name` with MAC address `outer` in the host, and the container's eth0.
fn plug(
    host: &Host,
    container: &Namespace,
    name: &str,
    (address, mac): (&str, &str),
    outer: &str,
    mtu: u32,
) -> Result<()> {
    let netns = container.netns();
    host.ip(&format!(
        "link add {name} address {outer} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {netns}"
    ))?;
    host.ip(&format!("link set {name} up"))?;
    container.ip(&format!("address add {address} dev eth0"))?;
    container.ip("link set eth0 up").map(drop)
}

/// Attaches a program to what comes in at one device of this host that redirects it to another, until the link is closed.
fn redirect(host: &Host, from: &str, to: &str, helper: Redirect) -> Result<OwnedFd> {
    host.inside(|| {
        let program = Program::redirecting(Hook::TcxIngress, helper, if_nametoindex(to)?);
        let program = program.context("loading a program that redirects")?;
        program.attach(if_nametoindex(from)?).context("attaching it")
    })
}
