//! Programs on uplinks, on bridges and on the sockets of the host, and those left on devices that are gone.

use std::collections::HashSet;

use super::{facts::UplinkFact, kernel::Kernel, problem::Problem, resolved::ResolvedState};
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

/// Has the program that guards what the host's stack sends to containers attached to each bridge.
///
/// One for each network and not for each container: the kernel waits for a grace period of RCU (14 to 20 ms) whenever a
/// device gets its first program in a direction, and all that the stack sends to a container passes its bridge.
pub fn ensure_bridges(
    state: &ResolvedState,
    kernel: &Kernel,
    dataplane: &Dataplane,
    problems: &mut Vec<Problem>,
) {
    for network in state.networks.values() {
        let Some(bridge) = kernel.link(&network.bridge) else { continue };
        let isolates = if network.policy.is_isolated() {
            dataplane.ensure_tc(&network.bridge, bridge.ifindex, TcProgram::FromBridge).map(drop)
        } else {
            dataplane.detach_program(bridge.ifindex, TcProgram::FromBridge).map(drop)
        };
        let guards = dataplane.ensure_tc(&network.bridge, bridge.ifindex, TcProgram::ToContainer);
        for error in [isolates.err(), guards.err()].into_iter().flatten() {
            problems.push(Problem::new(format!("bridge {}", network.bridge), error));
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
