//! The limit of eBPF at these devices: programs that redirect whatever comes to the one place where it can be for, and do nothing
//! else. Containers of one network have each other at the other end. Those that talk to the world have the uplink's own
//! address, so that nothing has to be translated, and those of an overlay talk across the uplinks without a tunnel.
//!
//! The programs are four instructions each, written out here: the tests are to depend on nothing that weft's own are made with.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::{
    CLIENT, Ends, HOST, INNER_MTU, OVERLAY, OVERLAY_MAC, Pair, Path, SHOP, Site, Variant, WEB, servers,
};
use crate::{
    Host, Lab, Namespace,
    bench::{bpf, topology::Contender},
};

/// Numbers of include/uapi/linux/bpf.h.
const PROG_TYPE_SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const FUNC_REDIRECT: i32 = 23;
const FUNC_REDIRECT_PEER: i32 = 155;
/// BPF_ALU | BPF_MOV | BPF_K, BPF_JMP | BPF_CALL, BPF_JMP | BPF_EXIT.
const MOVE: u8 = 0xb4;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD; what is not given is 0.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: RawFd,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

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
        redirect(&site.host, "shop", "web", FUNC_REDIRECT_PEER)?,
        redirect(&site.host, "web", "shop", FUNC_REDIRECT_PEER)?,
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
    Ok([
        redirect(host, "inside", "eth0", FUNC_REDIRECT)?,
        redirect(host, "eth0", "inside", FUNC_REDIRECT_PEER)?,
    ])
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
fn redirect(host: &Host, from: &str, to: &str, function: i32) -> Result<OwnedFd> {
    host.inside(|| {
        let (from, to) = (if_nametoindex(from)?, if_nametoindex(to)?);
        let instruction = |code, registers, immediate| Instruction { code, registers, offset: 0, immediate };
        let program = [
            instruction(MOVE, 1, to.try_into()?),
            instruction(MOVE, 2, 0),
            instruction(CALL, 0, function),
            instruction(EXIT, 0, 0),
        ];
        let load = ProgLoad {
            prog_type: PROG_TYPE_SCHED_CLS,
            insn_cnt: program.len().try_into()?,
            insns: program.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        let program = bpf::command(bpf::PROG_LOAD, &load).context("loading a program that redirects")?;
        let link = LinkCreate {
            prog_fd: program.as_raw_fd(),
            target_ifindex: from,
            attach_type: TCX_INGRESS,
            flags: 0,
        };
        bpf::command(bpf::LINK_CREATE, &link).context("attaching it")
    })
}
