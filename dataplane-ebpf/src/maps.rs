//! All maps, private; jobs see accessors only. Sizes are those of `dataplane_common`'s contract and may be changed at
//! load time by the controller.

use core::{ffi::c_void, ptr::addr_of};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use dataplane_common::abi::{
    Address, COUNTER_CELLS, Counter, Device, DropReason, Endpoint, EndpointKey, Flow, FragmentKey, Fragments,
    HostSocketKey, HostSocketValue, IcmpBudget, Index, Mapping, MappingKey, NextHop, Path, Peer, PortSet,
    Publication, PublicationKey, Remote, Settings, Subnet, SubnetKey, Tuple, VxlanKey,
};

use crate::{clock::Clock, external_port::Search, icmp_error::Quoted, parse::Parsed};

/// Memory for a record that is taken when it is used: a quiet host pays for its containers, not for the maximum.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "devices")]
static DEVICES: HashMap<u32, Device, 8192, ON_DEMAND> = HashMap::new();
#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<EndpointKey, Endpoint, 8192, ON_DEMAND> = HashMap::new();
#[btf_map(name = "remotes")]
static REMOTES: HashMap<EndpointKey, Remote, 131072, ON_DEMAND> = HashMap::new();
#[btf_map(name = "peers")]
static PEERS: HashMap<u32, Peer, 8192, ON_DEMAND> = HashMap::new();
#[btf_map(name = "peer_next_hops")]
static PEER_NEXT_HOPS: Array<NextHop, 8192> = Array::new();
#[btf_map(name = "vxlan")]
static VXLAN: HashMap<VxlanKey, u32, 65536, ON_DEMAND> = HashMap::new();
#[btf_map(name = "subnets")]
static SUBNETS: LpmTrie<SubnetKey, Subnet, 4096> = LpmTrie::new();
#[btf_map(name = "addresses")]
static ADDRESSES: HashMap<Address, u32, 8192, ON_DEMAND> = HashMap::new();
#[btf_map(name = "published")]
static PUBLISHED: LpmTrie<PublicationKey, Publication, 131072> = LpmTrie::new();
#[btf_map(name = "port_sets")]
static PORT_SETS: Array<PortSet, { (PortSet::SETS * PortSet::WORDS) as usize }> = Array::new();
#[btf_map(name = "flows")]
static FLOWS: HashMap<Tuple, Flow, 262144, ON_DEMAND> = HashMap::new();
#[btf_map(name = "unconfirmed")]
static UNCONFIRMED: LruHashMap<Tuple, Flow, 16384> = LruHashMap::new();
#[btf_map(name = "ports")]
static PORTS: HashMap<Tuple, Index, 524288, ON_DEMAND> = HashMap::new();
#[btf_map(name = "mappings")]
static MAPPINGS: HashMap<MappingKey, Mapping, 262144, ON_DEMAND> = HashMap::new();
#[btf_map(name = "host_sockets")]
static HOST_SOCKETS: LruHashMap<HostSocketKey, HostSocketValue, 16384> = LruHashMap::new();
#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, Fragments, 8192> = LruHashMap::new();
#[btf_map(name = "icmp_budgets")]
static ICMP_BUDGETS: LruHashMap<u32, IcmpBudget, 4096> = LruHashMap::new();
#[btf_map(name = "settings")]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<Counter, COUNTER_CELLS> = PerCpuArray::new();
#[btf_map(name = "drops")]
static DROPS: PerCpuArray<Counter, COUNTER_CELLS> = PerCpuArray::new();
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Working memory of a program that opens a flow: the stack has 512 bytes only. Programs of one CPU do not nest: tc
/// runs with bottom halves disabled. Whoever needs it takes it anew by [`scratch`] and never hands it on as an argument:
/// the compiler takes a `&mut` argument for the only way there, and would not see what a callback writes.
#[repr(C)]
pub struct Scratch {
    /// The record being made.
    pub flow: Flow,
    /// The index entry being made.
    pub index: Index,
    /// The way to a container's own address.
    pub publication: Publication,
    /// The claim being tried.
    pub claim: Tuple,
    /// Whom the claim is for.
    pub claimant: Index,
    /// The key of the mapping.
    pub mapping_key: MappingKey,
    /// The mapping being made.
    pub mapping: Mapping,
    /// The search for an external port.
    pub search: Search,
    /// The time.
    pub clock: Clock,
    /// MTU in bytes that a packet did not fit.
    pub mtu: u16,
    /// The packet.
    pub parsed: Parsed,
    /// The packet that it quotes.
    pub quoted: Quoted,
}

#[inline(always)]
pub fn device<'a>(ifindex: u32) -> Option<&'a Device> {
    // SAFETY: an element that is being replaced may be read half old, half new; every field of a device stands alone.
    unsafe { DEVICES.get(ifindex) }
}

#[inline(always)]
pub fn endpoint<'a>(network: u32, address: &Address) -> Option<&'a Endpoint> {
    // SAFETY: as for `device`; the epoch is compared by whoever depends on the identity.
    unsafe { ENDPOINTS.get(EndpointKey { network, address: *address }) }
}

#[inline(always)]
pub fn remote<'a>(network: u32, address: &Address) -> Option<&'a Remote> {
    // SAFETY: as for `device`.
    unsafe { REMOTES.get(EndpointKey { network, address: *address }) }
}

/// Peers' numbers are given one after another. Those beyond the end of the array have no next hop that is remembered.
#[inline(always)]
pub fn peer_next_hop(number: u32) -> Option<*mut NextHop> {
    PEER_NEXT_HOPS.get_ptr_mut(number)
}

#[inline(always)]
pub fn peer<'a>(number: u32) -> Option<&'a Peer> {
    // SAFETY: as for `device`.
    unsafe { PEERS.get(number) }
}

/// The network that a peer may send into with this VNI.
#[inline(always)]
pub fn vxlan_network(vni: u32, peer: &Address) -> Option<u32> {
    // SAFETY: the value is one word.
    unsafe { VXLAN.get(VxlanKey { vni, peer: *peer }) }.copied()
}

/// The network of weft that an address belongs to.
#[inline(always)]
pub fn subnet<'a>(address: &Address) -> Option<&'a Subnet> {
    SUBNETS.get(&Key::new(128, SubnetKey { address: *address }))
}

#[inline(always)]
pub fn is_host_address(address: &Address) -> bool {
    // SAFETY: only presence is asked.
    unsafe { ADDRESSES.get(address) }.is_some()
}

/// The publication of a host port: that of the very address wins over its family's wildcard.
#[inline(never)]
pub fn publication<'a>(protocol: u8, address: &Address, port: u16) -> Option<&'a Publication> {
    // Most packets that ask are for no published port: the bit says so for a tenth of what the two walks cost.
    if !port_set_contains(PortSet::published(protocol), port) {
        return None;
    }
    if let Some(publication) = publication_of(protocol, address, port) {
        return Some(publication);
    }
    let any = if address.is_v4() { &Address::V4_UNSPECIFIED } else { &Address::UNSPECIFIED };
    publication_of(protocol, any, port)
}

/// The publication of a port of this very address.
#[inline(always)]
pub fn publication_of<'a>(protocol: u8, address: &Address, port: u16) -> Option<&'a Publication> {
    PUBLISHED.get(&Key::new(PublicationKey::BITS, PublicationKey::new(protocol, address, port)))
}

#[inline(always)]
pub fn port_set_contains(set: u32, port: u16) -> bool {
    match PORT_SETS.get(PortSet::index(set, port)) {
        Some(word) => word.contains(port),
        None => false,
    }
}

#[inline(always)]
pub fn settings<'a>() -> Option<&'a Settings> {
    SETTINGS.get(0)
}

#[inline(always)]
pub fn scratch<'a>() -> Option<&'a mut Scratch> {
    // SAFETY: the slot is this CPU's, and no other program runs on it meanwhile.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// A flow that both ends have confirmed. The pointer stays readable for the whole program (RCU); the slot may be given
/// to another flow at the very moment the record expires.
#[inline(always)]
pub fn flow(inside: &Tuple) -> Option<*mut Flow> {
    FLOWS.get_ptr_mut(inside)
}

#[inline(always)]
pub fn unconfirmed_flow(inside: &Tuple) -> Option<*mut Flow> {
    UNCONFIRMED.get_ptr_mut(inside)
}

#[inline(always)]
pub fn add_flow(inside: &Tuple, flow: &Flow) -> Result<(), i32> {
    FLOWS.insert(inside, flow, u64::from(BPF_NOEXIST))
}

#[inline(always)]
pub fn add_unconfirmed_flow(inside: &Tuple, flow: &Flow) -> Result<(), i32> {
    UNCONFIRMED.insert(inside, flow, u64::from(BPF_ANY))
}

#[inline(always)]
pub fn remove_flow(inside: &Tuple) -> bool {
    FLOWS.remove(inside).is_ok()
}

#[inline(always)]
pub fn remove_unconfirmed_flow(inside: &Tuple) -> bool {
    UNCONFIRMED.remove(inside).is_ok()
}

#[inline(always)]
pub fn index<'a>(outside: &Tuple) -> Option<&'a Index> {
    // SAFETY: entries of `ports` are never changed, only inserted and removed.
    unsafe { PORTS.get(outside) }
}

/// The claim of a tuple's local end. A function of its own, for the stack of those who ask.
#[inline(never)]
pub fn claim_of<'a>(tuple: &Tuple) -> Option<&'a Index> {
    index(&tuple.claim())
}

/// `-EEXIST`. Any other failure of an insert means that there is no room.
pub const EXISTS: i32 = -17;

/// Fails with [`EXISTS`] where the key exists: this is what makes an external port belong to one flow or socket.
#[inline(always)]
pub fn claim(outside: &Tuple, index: &Index) -> Result<(), i32> {
    PORTS.insert(outside, index, u64::from(BPF_NOEXIST))
}

/// Answers whether it was there: of several CPUs that remove an entry one wins, and only that one may give back what the
/// entry stood for.
#[inline(always)]
pub fn remove_index(outside: &Tuple) -> bool {
    PORTS.remove(outside).is_ok()
}

/// For `bpf_for_each_map_elem`.
#[inline(always)]
pub fn ports_map() -> *mut c_void {
    addr_of!(PORTS).cast_mut().cast()
}

#[inline(always)]
pub fn mapping(key: &MappingKey) -> Option<*mut Mapping> {
    MAPPINGS.get_ptr_mut(key)
}

#[inline(always)]
pub fn add_mapping(key: &MappingKey, mapping: &Mapping) -> Result<(), i32> {
    MAPPINGS.insert(key, mapping, u64::from(BPF_NOEXIST))
}

#[inline(always)]
pub fn remove_mapping(key: &MappingKey) {
    let _ = MAPPINGS.remove(key);
}

#[inline(always)]
pub fn host_socket<'a>(key: &HostSocketKey) -> Option<&'a HostSocketValue> {
    // SAFETY: a socket's entry is written before its first packet leaves.
    unsafe { HOST_SOCKETS.get(key) }
}

#[inline(always)]
pub fn add_host_socket(key: &HostSocketKey, value: &HostSocketValue) {
    let _ = HOST_SOCKETS.insert(key, value, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn fragments<'a>(key: &FragmentKey) -> Option<&'a Fragments> {
    // SAFETY: a first fragment that comes again may replace the value meanwhile; any mixture leads nowhere or there.
    unsafe { FRAGMENTS.get(key) }
}

#[inline(always)]
pub fn add_fragments(key: &FragmentKey, value: &Fragments) {
    let _ = FRAGMENTS.insert(key, value, u64::from(BPF_ANY));
}

/// Fails where it is taken.
#[inline(always)]
pub fn take_identification(key: &FragmentKey, now: u64) -> bool {
    let taken = Fragments { seen_ns: now, local_port: 0, remote_port: 0, identification: 0, has_ports: 0 };
    FRAGMENTS.insert(key, taken, u64::from(BPF_NOEXIST)).is_ok()
}

/// The budget of a device, made where there is none.
#[inline(always)]
pub fn icmp_budget<'a>(ifindex: u32) -> Option<&'a mut IcmpBudget> {
    let budget = match ICMP_BUDGETS.get_ptr_mut(ifindex) {
        Some(budget) => budget,
        None => {
            let empty = IcmpBudget { filled_ns: 0, tokens: 0 };
            let _ = ICMP_BUDGETS.insert(ifindex, empty, u64::from(BPF_NOEXIST));
            ICMP_BUDGETS.get_ptr_mut(ifindex)?
        }
    };
    // SAFETY: a map value. Two CPUs that fill or take at once may lose or win a token.
    Some(unsafe { &mut *budget })
}

#[inline(always)]
pub fn count(path: Path, size: Counter) {
    if let Some(counter) = COUNTERS.get_ptr_mut(path as u32) {
        add(counter, size);
    }
}

#[inline(always)]
pub fn count_drop(reason: DropReason, size: Counter) {
    if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
        add(counter, size);
    }
}

#[inline(always)]
fn add(counter: *mut Counter, size: Counter) {
    // SAFETY: the slot is this CPU's.
    unsafe {
        (*counter).packets += size.packets;
        (*counter).bytes += size.bytes;
    }
}
