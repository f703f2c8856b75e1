//! `weft endpoint ls`.

use clap::Subcommand;

use super::{
    Global, Outcome, output,
    output::{both, or_dash},
    unexpected,
};
use crate::{
    control::{
        client::ask,
        protocol::{Reply, Request},
    },
    observe::EndpointView,
};

/// Containers.
#[derive(Debug, Subcommand)]
pub enum Endpoint {
    /// List the containers' interfaces.
    Ls,
}

/// Columns of the list.
pub(super) const HEADER: [&str; 8] =
    ["CONTAINER", "NETWORK", "STATE", "ADDRESS", "MAC", "INTERFACE", "DEVICE", "PLACE"];

/// One line of the list.
pub(super) fn row(endpoint: &EndpointView) -> [String; 8] {
    [
        endpoint.container.clone(),
        or_dash(endpoint.network.clone()),
        endpoint.state.clone(),
        both(endpoint.address.clone(), endpoint.address_v6.clone()),
        or_dash(endpoint.mac_address),
        or_dash(endpoint.interface.clone()),
        or_dash(endpoint.device.clone()),
        or_dash(endpoint.place.clone()),
    ]
}

impl Endpoint {
    pub(super) fn run(&self, global: &Global) -> Outcome {
        match ask(&global.socket, &Request::Endpoints)? {
            Reply::Endpoints(endpoints) => output::list(global.output, &endpoints, HEADER, row),
            other => Err(unexpected(other)),
        }
    }
}
