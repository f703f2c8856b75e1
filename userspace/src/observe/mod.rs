//! What weft shows of itself: the documents behind `-o json` and the tables, and how they are made.

mod flows;
mod lists;
mod views;

pub use flows::flows;
pub use lists::{endpoints, networks, ports};
pub use views::{
    ConfigView, Count, Counts, EndpointView, FlowView, ForwardingView, MapView, NetworkView, PortView,
    ProgramView, StatusView, SysctlView, UplinkView, XdpView,
};

use dataplane_common::abi::{Counter, DropReason, Path};

/// Counters by the names scripts rely on.
pub fn counters(counters: &[(Path, Counter)]) -> Counts {
    counters.iter().map(|(path, counter)| (path.as_str().to_owned(), count(counter))).collect()
}

/// Drops by the names scripts rely on.
pub fn drops(drops: &[(DropReason, Counter)]) -> Counts {
    drops.iter().map(|(reason, counter)| (reason.as_str().to_owned(), count(counter))).collect()
}

fn count(counter: &Counter) -> Count {
    Count { packets: counter.packets, bytes: counter.bytes }
}
