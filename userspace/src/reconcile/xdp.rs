//! Which uplinks XDP serves.

use std::collections::BTreeMap;

use super::{
    facts::{UplinkFact, XdpFact},
    problem::Problem,
};
use crate::{
    dataplane::{Dataplane, XdpError},
    model::Xdp,
    netdev,
};

/// Has the XDP program on the uplinks that are to have it, and on no other, and notes what runs where and why.
pub fn ensure(
    uplinks: &mut [UplinkFact],
    wanted: &BTreeMap<String, Xdp>,
    dataplane: &Dataplane,
    problems: &mut Vec<Problem>,
) {
    for uplink in uplinks {
        let wanted = wanted.get(&uplink.name).copied().unwrap_or_default();
        // tc serves it all the same: rounds need not be whole ones for as long as a driver has no XDP.
        let mut problem = |error: String| {
            problems.push(Problem::of_itself(format!("uplink {}", uplink.name), format!("XDP: {error}")));
        };
        let (native, reason) = match wanted {
            Xdp::On => match dataplane.ensure_xdp(uplink.ifindex) {
                Ok(_) => (true, "the files ask for it".to_owned()),
                Err(error) => {
                    let reason = refused(&uplink.name, &error);
                    problem(reason.clone());
                    (false, reason)
                }
            },
            Xdp::Off => (false, "the files ask for none".to_owned()),
            Xdp::Auto => (false, not_worth_it(&driver(&uplink.name))),
        };
        if !native && let Err(error) = dataplane.detach_xdp(uplink.ifindex) {
            problem(error.to_string());
        }
        uplink.xdp = XdpFact { wanted, native, reason };
    }
}

fn driver(device: &str) -> String {
    netdev::driver(device).unwrap_or_else(|_| "unknown".to_owned())
}

fn refused(device: &str, error: &XdpError) -> String {
    match error {
        XdpError::NotSupported => format!(
            "the driver {} has no native XDP, and generic XDP would be slower than tc; tc serves it",
            driver(device)
        ),
        XdpError::Occupied => {
            format!("{error}; tc serves it until that is taken off: ip link set dev {device} xdp off")
        }
        error => format!("{error}; tc serves it"),
    }
}

/// Where XDP wins is a question of driver and traffic. It is asked by measuring, and so far no driver has an answer.
fn not_worth_it(driver: &str) -> String {
    match driver {
        "veth" => {
            "a veth that runs it takes no unsegmented TCP, and was measured to gain nothing by UDP".to_owned()
        }
        driver => format!("nothing was measured with the driver {driver}"),
    }
}
