//! `weft network ls` and `weft network inspect`.

use clap::Subcommand;

use super::{
    Failure, Global, Outcome, endpoint, output,
    output::{both, or_dash},
    unexpected,
};
use crate::{
    control::{
        client::ask,
        protocol::{Reply, Request},
    },
    observe::NetworkView,
};

/// Networks.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// List the networks.
    Ls,
    /// Show one network with its containers.
    Inspect {
        /// Its name.
        name: String,
    },
}

impl Network {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        let networks = match ask(&global.socket, &Request::Networks)? {
            Reply::Networks(networks) => networks,
            other => return Err(unexpected(other)),
        };
        match self {
            Self::Ls => output::list(
                global.output,
                &networks,
                ["NAME", "DRIVER", "SUBNET", "GATEWAY", "BRIDGE", "MTU", "ENDPOINTS", "OPTIONS"],
                |network| {
                    [
                        network.name.clone(),
                        network.driver.clone(),
                        both(network.subnet.clone(), network.subnet_v6.clone()),
                        both(network.gateway, network.gateway_v6),
                        network.bridge.clone(),
                        or_dash(network.mtu),
                        network.endpoints.len().to_string(),
                        options(network),
                    ]
                },
            ),
            Self::Inspect { name } => {
                let network = networks.iter().find(|network| network.name == *name).ok_or_else(|| {
                    Failure::Failed(format!("there is no network {name}; see: weft network ls"))
                })?;
                inspect(network, global.output)
            }
        }
    }
}

fn options(network: &NetworkView) -> String {
    let mut words = network.policy.words();
    words.extend(network.vni.map(|vni| format!("vni={vni}")));
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn inspect(network: &NetworkView, format: output::Format) -> Outcome {
    if format == output::Format::Json {
        return output::json(network);
    }
    let facts = [
        ("name", network.name.clone()),
        ("number", network.number.to_string()),
        ("driver", network.driver.clone()),
        ("subnet", both(network.subnet.clone(), network.subnet_v6.clone())),
        ("gateway", both(network.gateway, network.gateway_v6)),
        ("bridge", network.bridge.clone()),
        ("vxlan", or_dash(network.vxlan.clone())),
        ("mtu", or_dash(network.mtu)),
        ("options", options(network)),
    ];
    output::print(&output::table(
        ["FIELD", "VALUE"],
        facts.into_iter().map(|(name, value)| [name.to_owned(), value]),
    ))?;
    output::print("")?;
    output::list(format, &network.endpoints, endpoint::HEADER, endpoint::row)
}
