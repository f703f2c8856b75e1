//! Requests and replies.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    observe::{EndpointView, NetworkView, PortView, StatusView},
    providers::file::FileError,
    reconcile::{changes::Change, problem::Problem},
};

/// What the command line asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Everything about the daemon.
    Status,
    /// All networks.
    Networks,
    /// All containers.
    Endpoints,
    /// All published ports.
    Ports,
    /// What would change with these files.
    Plan {
        /// Absolute paths.
        files: Vec<PathBuf>,
        /// Their texts, if one can be read only once.
        #[serde(default)]
        texts: Option<Vec<String>>,
    },
    /// Take these files as the state from now on.
    Apply {
        /// Absolute paths.
        files: Vec<PathBuf>,
        /// Their texts, if one can be read only once; they are not watched then.
        #[serde(default)]
        texts: Option<Vec<String>>,
    },
    /// Read the files again now.
    Reload,
    /// End, because everything is about to be removed.
    Shutdown,
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<StatusView>),
    /// To [`Request::Networks`].
    Networks(Vec<NetworkView>),
    /// To [`Request::Endpoints`].
    Endpoints(Vec<EndpointView>),
    /// To [`Request::Ports`].
    Ports(Vec<PortView>),
    /// To [`Request::Plan`], [`Request::Apply`] and [`Request::Reload`].
    Changes {
        /// What changes or was changed.
        changes: Vec<Change>,
        /// What is not as declared.
        problems: Vec<Problem>,
    },
    /// The files are wrong; nothing was changed.
    BadInput(Vec<FileError>),
    /// It could not be done.
    Failed(String),
    /// The daemon ends.
    Ending,
}
