//! Programs on uplinks and on the host's sockets, and those left on devices that are gone.

use std::collections::HashSet;

use super::{facts::UplinkFact, problem::Problem};
use crate::dataplane::{Dataplane, TcProgram};

/// Has the uplinks' programs attached.
pub fn ensure_uplinks(uplinks: &[UplinkFact], dataplane: &Dataplane, problems: &mut Vec<Problem>) {
    for uplink in uplinks {
        for program in [TcProgram::ToUplink, TcProgram::FromUplink] {
            if let Err(error) = dataplane.ensure_tc(&uplink.name, uplink.ifindex, program) {
                problems.push(Problem::new(format!("uplink {}", uplink.name), error));
            }
        }
    }
}

/// Has the programs for the host's own sockets attached.
pub fn ensure_host_sockets(dataplane: &Dataplane, problems: &mut Vec<Problem>) {
    if let Err(error) = dataplane.ensure_host_sockets() {
        problems.push(Problem::new("sockets of this host", error));
    }
}

/// Removes links of devices that are gone, and of devices that are none of weft's any more.
pub fn detach_superfluous(wanted: &HashSet<u32>, dataplane: &Dataplane, problems: &mut Vec<Problem>) {
    let attached = match dataplane.attached() {
        Ok(attached) => attached,
        Err(error) => {
            problems.push(Problem::new("attached programs", error));
            return;
        }
    };
    let stale: HashSet<u32> =
        attached.iter().filter_map(|link| link.ifindex).filter(|ifindex| !wanted.contains(ifindex)).collect();
    for ifindex in stale {
        if let Err(error) = dataplane.detach(ifindex) {
            problems.push(Problem::new(format!("programs on device with index {ifindex}"), error));
        }
    }
}
