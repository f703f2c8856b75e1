//! Keys and values of the maps that eBPF programs and the controller share.
//!
//! Every struct is `repr(C)` without implicit padding (a hash key with uninitialised padding never matches) and has
//! its size asserted. Addresses are bytes in network order; ports, lengths and identifiers are integers in host
//! order, so that `bpftool map dump` prints them as people write them. Times are nanoseconds of `CLOCK_MONOTONIC`
//! as `bpf_ktime_get_coarse_ns` gives them.

mod address;
mod counter;
mod device;
mod flow;
mod names;
mod next_hop;
mod published;

pub use address::{Address, MacAddress};
pub use counter::{COUNTER_CELLS, Counter, DropReason, Path};
pub use device::{
    Device, DeviceRole, Endpoint, EndpointKey, Peer, Remote, Subnet, SubnetKey, VxlanKey, flags,
};
pub use flow::{
    Flow, FlowKind, FragmentKey, Fragments, IcmpBudget, Index, Mapping, MappingKey, Settings, Tuple,
};
pub use names::{ABI_VERSION, map, program};
pub use next_hop::NextHop;
pub use published::{HostSocketKey, HostSocketValue, PortSet, Publication, PublicationKey};

/// Declares plain-old-data structs: `repr(C)`, size-checked, and `Pod` for the user side.
macro_rules! pod {
    ($($(#[$meta:meta])* pub struct $name:ident [$size:literal] { $($(#[$field_meta:meta])* pub $field:ident: $kind:ty,)* })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$field_meta])* pub $field: $kind,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // The sum of the fields equals the size: no implicit padding.
        const _: () = assert!(0 $(+ size_of::<$kind>())* == $size);
        // SAFETY: repr(C), no padding (asserted above), every field is itself plain old data.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
        // SAFETY: as above, and all-zero bytes are a valid value of every field.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Zeroable for $name {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $name {}
    )*};
}
pub(crate) use pod;
