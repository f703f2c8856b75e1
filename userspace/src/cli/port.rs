//! `weft port ls`.

use clap::Subcommand;

use super::{Global, Outcome, output, output::or_dash, unexpected};
use crate::{
    control::{
        client::ask,
        protocol::{Reply, Request},
    },
    model::BeforePort,
};

/// Published ports.
#[derive(Debug, Subcommand)]
pub enum Port {
    /// List the published ports.
    Ls,
}

impl Port {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        match ask(&global.socket, &Request::Ports)? {
            Reply::Ports(ports) => output::list(
                global.output,
                &ports,
                ["CONTAINER", "HOST", "TARGET", "NETWORK", "STATE", "REASON"],
                |port| {
                    [
                        port.container.clone(),
                        format!("{}:{}/{}", BeforePort(port.host_address), port.host_ports, port.protocol),
                        format!("{}:{}", BeforePort(port.container_address), port.container_ports),
                        port.network.clone(),
                        port.state.clone(),
                        or_dash(port.reason.clone()),
                    ]
                },
            ),
            other => Err(unexpected(other)),
        }
    }
}
