//! Kernel helpers as functions of this project: one unsafe line each.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        __sk_buff, bpf_fib_lookup, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2, xdp_md,
    },
    helpers::generated,
};
use dataplane_common::{abi::Tuple, packet::protocol};

/// `BPF_F_PSEUDO_HDR`: the difference is in addresses, which a partial checksum covers already.
pub const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: an absent UDP checksum stays absent.
pub const UDP: u64 = 1 << 5;
/// `BPF_F_IPV6`: no IP header checksum makes up for new addresses (kernel commit ead7f9b8de65, 6.16).
pub const IPV6: u64 = 1 << 7;
/// `BPF_F_INGRESS`.
pub const REDIRECT_INGRESS: u64 = 1;
/// `PACKET_HOST` and `PACKET_MULTICAST` of linux/if_packet.h.
const PACKET_HOST: u32 = 0;
const PACKET_MULTICAST: u32 = 2;
/// `BPF_ADJ_ROOM_MAC`: room is made or taken after the Ethernet header (not in the bindings).
pub const ADJUST_ROOM_AFTER_ETHERNET: u32 = 1;

/// Nanoseconds of CLOCK_MONOTONIC, in steps of a tick: enough for timeouts of seconds, and the cheapest clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_ktime_get_coarse_ns() }
}

/// The kernel's ticks, 100 to 1,000 in a second. On 64-bit machines with a JIT it becomes one load, while the clock is a call.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_jiffies64() }
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_get_prandom_u32() }
}

/// Makes the stack of the receiving namespace take the packet as its own.
#[inline(always)]
pub fn to_host(skb: *mut __sk_buff) {
    // SAFETY: skb is the program's context.
    unsafe { generated::bpf_skb_change_type(skb, PACKET_HOST) };
}

/// The same where a frame for one has become one for a group.
#[inline(always)]
pub fn to_group(skb: *mut __sk_buff) {
    // SAFETY: skb is the program's context.
    unsafe { generated::bpf_skb_change_type(skb, PACKET_MULTICAST) };
}

#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: no pointers.
    unsafe { generated::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out through a device as the packet is, or in through it with [`REDIRECT_INGRESS`].
#[inline(always)]
pub fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: no pointers.
    unsafe { generated::bpf_redirect(ifindex, flags) as i32 }
}

/// As [`redirect`], from an XDP hook: the device's driver sends the packet as it is.
#[inline(always)]
pub fn redirect_xdp(ifindex: u32) -> u32 {
    // SAFETY: no pointers.
    unsafe { generated::bpf_redirect(ifindex, 0) as u32 }
}

/// Takes bytes off the front of a packet at an XDP hook.
#[inline(always)]
pub fn cut_front(xdp: *mut xdp_md, bytes: i32) -> bool {
    // SAFETY: xdp is the program's context.
    unsafe { generated::bpf_xdp_adjust_head(xdp, bytes) == 0 }
}

/// The one's complement sum of bytes, a multiple of four.
#[inline(always)]
pub fn sum<const BYTES: usize>(bytes: *const [u8; BYTES]) -> u32 {
    // SAFETY: the first part is empty, the second as long as it says.
    unsafe {
        generated::bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast_mut().cast(), BYTES as u32, 0) as u32
    }
}

/// Cuts a packet, or makes it longer.
#[inline(always)]
pub fn set_length(skb: *mut __sk_buff, length: u32) -> bool {
    // SAFETY: skb is the program's context.
    unsafe { generated::bpf_skb_change_tail(skb, length, 0) == 0 }
}

/// Out through a device; the kernel finds route and neighbour and writes the Ethernet header.
#[inline(always)]
pub fn redirect_neighbour(ifindex: u32) -> i32 {
    // SAFETY: no parameters given, so the kernel looks the route up.
    unsafe { generated::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

#[inline(always)]
pub fn fib_lookup(skb: *mut __sk_buff, parameters: &mut bpf_fib_lookup, flags: u32) -> i64 {
    // SAFETY: the size given is that of the struct.
    unsafe {
        generated::bpf_fib_lookup(skb.cast::<c_void>(), parameters, size_of::<bpf_fib_lookup>() as i32, flags)
    }
}

/// What [`repeat`] calls.
pub type Step = unsafe extern "C" fn(u32, *const *mut __sk_buff) -> u64;

/// Calls a function with 0, 1, 2 and so on, and the context, until it answers 1 (`bpf_loop`). The verifier looks at it once.
#[inline(always)]
pub fn repeat(times: u32, mut skb: *mut __sk_buff, step: Step) {
    // SAFETY: the function has the signature the kernel asks for, and what it is given outlives the call.
    unsafe { generated::bpf_loop(times, step as *mut c_void, (&raw mut skb).cast(), 0) };
}

#[inline(always)]
pub fn pull(skb: *mut __sk_buff, length: u32) -> bool {
    // SAFETY: skb is the program's context.
    unsafe { generated::bpf_skb_pull_data(skb, length) == 0 }
}

#[inline(always)]
pub fn adjust_room(skb: *mut __sk_buff, bytes: i32, flags: u64) -> bool {
    // SAFETY: skb is the program's context.
    unsafe { generated::bpf_skb_adjust_room(skb, bytes, ADJUST_ROOM_AFTER_ETHERNET, flags) == 0 }
}

/// Replaces part of a transport checksum by a difference of one's complement sums. Right for complete, partial and
/// absent checksums alike, which no direct write could be.
#[inline(always)]
pub fn update_checksum(skb: *mut __sk_buff, offset: u32, difference: u32, flags: u64) -> bool {
    // SAFETY: skb is the program's context; size 0 makes the kernel take the last value as a difference.
    let replace =
        |flags| unsafe { generated::bpf_l4_csum_replace(skb, offset, 0, u64::from(difference), flags) == 0 };
    // Kernels that do not know the flag for IPv6 refuse it, and do without.
    replace(flags) || flags & IPV6 != 0 && replace(flags & !IPV6)
}

/// `TCP_LISTEN` of linux/tcp_states.h.
const LISTENING: u32 = 10;
/// `BPF_F_CURRENT_NETNS`.
const OWN_NAMESPACE: u64 = u64::MAX;

/// Whether a socket of this network namespace has this TCP connection, seen from its end as `local`. The context is that of
/// a tc hook or an XDP hook.
#[inline(always)]
pub fn has_connection(context: *mut c_void, tuple: &Tuple) -> bool {
    matches!(socket_state(context, tuple), Some(state) if state != LISTENING)
}

/// Whether a socket of this network namespace would take this packet: connected, listening or bound.
#[inline(always)]
pub fn has_socket(context: *mut c_void, tuple: &Tuple) -> bool {
    socket_state(context, tuple).is_some()
}

/// State of the socket that a packet of this tuple is for.
#[inline(always)]
fn socket_state(context: *mut c_void, tuple: &Tuple) -> Option<u32> {
    match tuple.protocol {
        protocol::TCP | protocol::UDP => {}
        _ => return None,
    }
    if tuple.local.is_v4() { socket_v4(context, tuple) } else { socket_v6(context, tuple) }
}

/// The kernel takes the tuple from the packet's point of view: its source is the other end.
#[inline(never)]
fn socket_v4(context: *mut c_void, tuple: &Tuple) -> Option<u32> {
    let mut ends = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: tuple.remote.v4_network_order(),
        daddr: tuple.local.v4_network_order(),
        sport: tuple.remote_port.to_be(),
        dport: tuple.local_port.to_be(),
    };
    look_up(context, (&raw mut ends).cast(), size_of_val(&ends) as u32, tuple.protocol)
}

#[inline(never)]
fn socket_v6(context: *mut c_void, tuple: &Tuple) -> Option<u32> {
    let mut ends = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
        saddr: tuple.remote.words(),
        daddr: tuple.local.words(),
        sport: tuple.remote_port.to_be(),
        dport: tuple.local_port.to_be(),
    };
    look_up(context, (&raw mut ends).cast(), size_of_val(&ends) as u32, tuple.protocol)
}

/// The size tells the kernel which family the ends are of.
#[inline(always)]
fn look_up(context: *mut c_void, ends: *mut bpf_sock_tuple, size: u32, protocol: u8) -> Option<u32> {
    if protocol == protocol::TCP { tcp_socket(context, ends, size) } else { udp_socket(context, ends, size) }
}

/// A function of its own, and so is the other: one load may not be from two kinds of socket.
#[inline(never)]
fn tcp_socket(context: *mut c_void, ends: *mut bpf_sock_tuple, size: u32) -> Option<u32> {
    // SAFETY: `ends` has that size; what is found is released before the end.
    unsafe {
        let socket = generated::bpf_skc_lookup_tcp(context, ends, size, OWN_NAMESPACE, 0);
        if socket.is_null() {
            return None;
        }
        let state = (*socket).state;
        generated::bpf_sk_release(socket.cast());
        Some(state)
    }
}

#[inline(never)]
fn udp_socket(context: *mut c_void, ends: *mut bpf_sock_tuple, size: u32) -> Option<u32> {
    // SAFETY: as in `tcp_socket`.
    unsafe {
        let socket = generated::bpf_sk_lookup_udp(context, ends, size, OWN_NAMESPACE, 0);
        if socket.is_null() {
            return None;
        }
        let state = (*socket).state;
        generated::bpf_sk_release(socket.cast());
        Some(state)
    }
}

#[inline(always)]
pub fn flow_hash(skb: *mut __sk_buff) -> u32 {
    // SAFETY: skb is the program's context.
    unsafe { generated::bpf_get_hash_recalc(skb) }
}
