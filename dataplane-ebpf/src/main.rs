//! weft's programs. This page lists the hooks; each hook is a page that reads like the packet's way.
//!
//! | hook | where |
//! |---|---|
//! | `from_container` | tc ingress, host side of a container's veth: what the container sends |
//! | `to_container` | tc egress of a network's bridge: what the host's stack sends to containers |
//! | `from_bridge` | tc ingress of an isolated network's bridge: what its host must not hear |
//! | `from_uplink` | tc ingress of an uplink: what the world sends |
//! | `uplink_xdp` | XDP of an uplink, before `from_uplink`: datagrams of flows that exist, and early drops |
//! | `to_uplink` | tc egress of an uplink: safety net |
//! | `from_waiting_room` | tc ingress of the waiting room: fragments that came too early |
//! | `connect4` … `bind6` | cgroup: sockets of the host itself |
//! | `expire_flows` | run by the controller once a second |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "atomics, see the module")]
#![expect(missing_docs, reason = "the hooks are documented in the table above, jobs in their modules")]

mod atomic;
mod bridge;
mod clock;
mod expire;
mod external_port;
mod flows;
mod fragments;
mod frame;
mod helpers;
mod hooks;
mod icmp_error;
mod maps;
mod masquerade;
mod neighbours;
mod overlay;
mod packet;
mod parse;
mod portmap;
mod redirect;
mod refuse;
mod route;
mod routed;
mod translate;
mod turn_back;
mod udp_checksum;
mod verdict;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};

use crate::{frame::Frame, packet::Packet, verdict::Verdict};

// Else it becomes a function that the program does nothing but call.
#[classifier]
#[inline(always)]
pub fn from_container(ctx: TcContext) -> i32 {
    let packet = Packet::new(&ctx);
    let size = packet.size();
    Verdict::from(hooks::from_container::run(&packet)).finish(size)
}

#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    let packet = Packet::new(&ctx);
    let size = packet.size();
    Verdict::from(hooks::to_container::run(&packet)).finish(size)
}

#[classifier]
pub fn from_bridge(ctx: TcContext) -> i32 {
    let size = Packet::new(&ctx).size();
    Verdict::from(hooks::from_bridge::run()).finish(size)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let packet = Packet::new(&ctx);
    let size = packet.size();
    Verdict::from(hooks::from_uplink::run(&packet)).finish(size)
}

#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    hooks::uplink_xdp::run(&Frame::new(&ctx))
}

#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    let packet = Packet::new(&ctx);
    let size = packet.size();
    Verdict::from(hooks::to_uplink::run(&packet)).finish(size)
}

#[classifier]
pub fn from_waiting_room(ctx: TcContext) -> i32 {
    let packet = Packet::new(&ctx);
    let size = packet.size();
    Verdict::from(hooks::from_waiting_room::run(&packet)).finish(size)
}

#[classifier]
pub fn expire_flows(ctx: TcContext) -> i32 {
    expire::run(&Packet::new(&ctx))
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::connect4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::connect6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::sendmsg4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::sendmsg6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::received4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::received6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::received4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::received6(&ctx)
}

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::bind4(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    hooks::host_sockets::bind6(&ctx)
}

/// The kernel offers GPL-only helpers to a program whose licence string it knows as compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing can panic in code that verifies; the handler must exist for no_std.
    // SAFETY: unreachable, see above.
    unsafe { core::hint::unreachable_unchecked() }
}
