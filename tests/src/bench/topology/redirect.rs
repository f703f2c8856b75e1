//! An overlay without an overlay: what a container sends is redirected to the uplink as it is, and what the uplink gets to the
//! container, by eBPF programs that do nothing else. No VXLAN in eBPF can be faster.
//!
//! The programs are four instructions each, written out here: the tests are to depend on nothing that weft's own are made with.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::{INNER_MTU, OVERLAY, OVERLAY_MAC, Pair, Path, Variant};
use crate::{
    Host, Lab,
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
        links.push(redirect(host, "inside", "eth0", FUNC_REDIRECT)?);
        links.push(redirect(host, "eth0", "inside", FUNC_REDIRECT_PEER)?);
    }
    let mut contender = pair.contender(lab, Variant::Redirect, Vec::new())?;
    contender.links = links;
    Ok(vec![contender])
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
