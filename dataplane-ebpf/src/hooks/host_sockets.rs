//! The host's own sockets: a published port is reached on every address of the host, 127.0.0.1 and ::1 included, by
//! translating the socket's address once instead of every packet; and it cannot be bound by anyone else.
//!
//! The programs sit at the root of the cgroup hierarchy, so they see every socket of the machine, containers' too: each
//! acts on sockets of weft's own network namespace only.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use dataplane_common::{
    abi::{Address, Counter, HostSocketKey, HostSocketValue, Path, PortSet, Publication},
    packet::{Be16, protocol},
};

use crate::maps;

/// The system call goes on.
const ALLOW: i32 = 1;
/// It fails with the error set.
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;
/// `IPPROTO_MPTCP` of linux/in.h.
const IPPROTO_MPTCP: u32 = 262;

const V6_LOOPBACK: u32 = u32::from_be(1);
const V4_LOOPBACK: u32 = u32::from_be(0x7f00_0001);

/// The address and port that a system call names.
#[derive(Clone, Copy)]
struct Named {
    address: Address,
    port: u16,
}

/// `connect` of an IPv4 socket.
#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> i32 {
    let named = read4(ctx);
    if let Some(publication) = leads_to(ctx, &named) {
        let port = take_note(ctx, &named, publication);
        // SAFETY: the context's fields may be written by this program type.
        unsafe {
            (*ctx.sock_addr).user_ip4 = publication.address.v4_network_order();
            (*ctx.sock_addr).user_port = u32::from(Be16::new(port).raw());
        }
    }
    ALLOW
}

/// `connect` of an IPv6 socket, which reaches IPv4 by mapped addresses (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> i32 {
    let named = read6(ctx);
    let leads = leads_to(ctx, &named).or_else(|| {
        // What is published for IPv4 only is reached by the loopback address all the same.
        let is_loopback = matches!(named.address.words(), [0, 0, 0, V6_LOOPBACK | 0]);
        if is_loopback { published(ctx, &Address::V4_UNSPECIFIED, named.port) } else { None }
    });
    if let Some(publication) = leads {
        lead6(ctx, &named, publication);
    }
    ALLOW
}

/// `sendmsg` of an unconnected IPv4 socket; also of an IPv6 socket to a mapped address, which the kernel sends by IPv4.
#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> i32 {
    connect4(ctx)
}

/// `sendmsg` of an unconnected IPv6 socket to an IPv6 address. The kernel refuses to be led to a mapped address here
/// (`ENOTSUPP` in udpv6_sendmsg), so [::1] reaches an IPv4 container by connected sockets only.
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> i32 {
    let named = read6(ctx);
    if let Some(publication) = leads_to(ctx, &named)
        && !publication.address.is_v4()
    {
        lead6(ctx, &named, publication);
    }
    ALLOW
}

#[inline(always)]
fn lead6(ctx: &SockAddrContext, named: &Named, publication: &Publication) {
    let port = take_note(ctx, named, publication);
    let [a, b, c, d] = publication.address.words();
    // SAFETY: as in `connect4`.
    unsafe {
        (*ctx.sock_addr).user_ip6[0] = a;
        (*ctx.sock_addr).user_ip6[1] = b;
        (*ctx.sock_addr).user_ip6[2] = c;
        (*ctx.sock_addr).user_ip6[3] = d;
        (*ctx.sock_addr).user_port = u32::from(Be16::new(port).raw());
    }
}

/// `recvmsg` and `getpeername` of an IPv4 socket: the process sees the address that it named.
#[inline(always)]
pub fn received4(ctx: &SockAddrContext) -> i32 {
    if let Some(original) = named_by(ctx, read4(ctx)) {
        // SAFETY: as in `connect4`.
        unsafe {
            (*ctx.sock_addr).user_ip4 = original.address.v4_network_order();
            (*ctx.sock_addr).user_port = u32::from(Be16::new(original.port).raw());
        }
    }
    ALLOW
}

/// The same of an IPv6 socket.
#[inline(always)]
pub fn received6(ctx: &SockAddrContext) -> i32 {
    if let Some(original) = named_by(ctx, read6(ctx)) {
        let [a, b, c, d] = original.address.words();
        // SAFETY: as in `connect4`.
        unsafe {
            (*ctx.sock_addr).user_ip6[0] = a;
            (*ctx.sock_addr).user_ip6[1] = b;
            (*ctx.sock_addr).user_ip6[2] = c;
            (*ctx.sock_addr).user_ip6[3] = d;
            (*ctx.sock_addr).user_port = u32::from(Be16::new(original.port).raw());
        }
    }
    ALLOW
}

/// `bind` of an IPv4 socket.
#[inline(always)]
pub fn bind4(ctx: &SockAddrContext) -> i32 {
    bind(ctx, read4(ctx))
}

/// `bind` of an IPv6 socket.
#[inline(always)]
pub fn bind6(ctx: &SockAddrContext) -> i32 {
    bind(ctx, read6(ctx))
}

/// A published port belongs to its container.
#[inline(always)]
fn bind(ctx: &SockAddrContext, named: Named) -> i32 {
    let protocol = protocol_of(ctx);
    if named.port == 0 || !is_transport(protocol) || !in_own_namespace(ctx) {
        return ALLOW;
    }
    let taken = if named.address.is_any() {
        maps::port_set_contains(PortSet::published(u8_protocol(protocol)), named.port)
    } else {
        maps::publication(u8_protocol(protocol), &named.address, named.port).is_some()
    };
    if taken {
        // SAFETY: no pointers.
        unsafe { bpf_set_retval(-EADDRINUSE) };
        REFUSE
    } else {
        ALLOW
    }
}

/// The published port that a system call to an address of this host means.
#[inline(always)]
fn leads_to<'a>(ctx: &SockAddrContext, named: &Named) -> Option<&'a Publication> {
    let address = &named.address;
    // The unspecified address means the loopback one (Linux connects there).
    let wanted = if address.is_v4() {
        let word = address.v4_network_order();
        if word == 0 {
            Address::from_v4_network_order(V4_LOOPBACK)
        } else if word & u32::from_be(0xff00_0000) == u32::from_be(0x7f00_0000)
            || maps::is_host_address(address)
        {
            *address
        } else {
            return None;
        }
    } else if matches!(address.words(), [0, 0, 0, V6_LOOPBACK | 0]) {
        Address::from_words([0, 0, 0, V6_LOOPBACK])
    } else if maps::is_host_address(address) {
        *address
    } else {
        return None;
    };
    published(ctx, &wanted, named.port)
}

#[inline(always)]
fn published<'a>(ctx: &SockAddrContext, address: &Address, port: u16) -> Option<&'a Publication> {
    let protocol = protocol_of(ctx);
    if port == 0 || !is_transport(protocol) || !in_own_namespace(ctx) {
        return None;
    }
    maps::publication(u8_protocol(protocol), address, port)
}

/// Takes note of what the process asked for. Answers the container's port.
#[inline(always)]
fn take_note(ctx: &SockAddrContext, named: &Named, publication: &Publication) -> u16 {
    let protocol = u8_protocol(protocol_of(ctx));
    let port = publication.container_port(named.port);
    let key = socket_key(ctx, publication.address, port, protocol);
    let value = HostSocketValue { address: named.address, port: named.port, reserved: 0 };
    // A datagram socket asks for each datagram, nearly always for the same.
    if maps::host_socket(&key).is_none_or(|known| known.port != value.port || known.address != value.address)
    {
        maps::add_host_socket(&key, &value);
    }
    maps::count(Path::HostSocket, Counter { packets: 1, bytes: 0 });
    port
}

/// What the process asked for when it was led to this address.
#[inline(always)]
fn named_by(ctx: &SockAddrContext, container: Named) -> Option<HostSocketValue> {
    let protocol = protocol_of(ctx);
    if !is_transport(protocol) || !in_own_namespace(ctx) {
        return None;
    }
    maps::host_socket(&socket_key(ctx, container.address, container.port, u8_protocol(protocol))).copied()
}

#[inline(always)]
fn socket_key(ctx: &SockAddrContext, address: Address, port: u16, protocol: u8) -> HostSocketKey {
    // SAFETY: the context is the program's.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    HostSocketKey { cookie: [cookie as u32, (cookie >> 32) as u32], address, port, protocol, reserved: 0 }
}

#[inline(always)]
fn in_own_namespace(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is the program's.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    maps::settings().is_some_and(|settings| settings.netns_cookie == cookie)
}

#[inline(always)]
fn protocol_of(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context's fields are always readable.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    // MPTCP is TCP on the wire, and shares its ports.
    if protocol == IPPROTO_MPTCP { u32::from(protocol::TCP) } else { protocol }
}

#[inline(always)]
fn is_transport(protocol: u32) -> bool {
    protocol == protocol::TCP as u32 || protocol == protocol::UDP as u32
}

#[inline(always)]
fn u8_protocol(protocol: u32) -> u8 {
    protocol as u8
}

#[inline(always)]
fn read4(ctx: &SockAddrContext) -> Named {
    // SAFETY: the context's fields are always readable.
    let (word, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    Named { address: Address::from_v4_network_order(word), port: Be16::from_raw(port as u16).get() }
}

#[inline(always)]
fn read6(ctx: &SockAddrContext) -> Named {
    // SAFETY: the context's fields are always readable.
    let (words, port) = unsafe {
        let fields = &(*ctx.sock_addr).user_ip6;
        ([fields[0], fields[1], fields[2], fields[3]], (*ctx.sock_addr).user_port)
    };
    Named { address: Address::from_words(words), port: Be16::from_raw(port as u16).get() }
}
