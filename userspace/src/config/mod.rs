//! The Compose subset of the file format, read into the model.
//!
//! The way of a file: `source` (bytes to text) → `node` (text to a YAML tree with places) → `typed` and `schema`
//! (tree to structs) → `networks`, `services`, `ports`, `host` (structs to parts of the model) → `merge` (several
//! files to one) → `check` (what must hold between the parts). Each step goes on after an error as far as it can,
//! so that one load reports many.
//!
//! What the format takes from Compose, and where it is stricter:
//! * fields of the Compose specification that do not concern networks are accepted and ignored (`fields`), those
//!   that do and that weft cannot honour are errors, and so is everything else except `x-*`;
//! * variables (`${NAME}`) are not replaced in values that weft reads: give it the output of `docker compose config`;
//! * a service without `networks` and `network_mode` joins the network `default`, which needs no declaration;
//! * all files of a load form one state: networks are visible in every file, under the name that they have on the
//!   host (`name`, else their key); what two files say about one thing must be the same.

mod check;
mod error;
mod fields;
mod host;
mod ipam;
mod joint;
mod known;
mod located;
mod merge;
mod networks;
mod node;
mod ports;
mod schema;
mod services;
mod source;
#[cfg(test)]
mod tests;
mod typed;
mod values;

use std::{collections::BTreeMap, path::PathBuf};

pub use error::{ConfigError, ConfigErrors};
pub use known::{FileStamp, Known, Stamps};

use self::{
    error::{Position, Report},
    host::HostDraft,
    joint::Joint,
    merge::Networks,
    schema::ComposeFile,
};
use crate::model::DesiredState;

/// A state and where its parts are declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The state.
    pub state: DesiredState,
    services: BTreeMap<String, String>,
}

impl Loaded {
    /// `file:line:column` of what says where a service's container is, for errors that only the running system
    /// shows, such as a namespace that does not exist.
    pub fn source_of_service(&self, name: &str) -> Option<&str> {
        self.services.get(name).map(String::as_str)
    }
}

/// Reads files that together declare one state.
pub fn load(files: &[PathBuf]) -> Result<DesiredState, ConfigErrors> {
    load_with_sources(files).map(|loaded| loaded.state)
}

/// The same from texts; the paths are for the errors.
pub fn parse(sources: &[(PathBuf, String)]) -> Result<DesiredState, ConfigErrors> {
    parse_with_sources(sources).map(|loaded| loaded.state)
}

/// Reads files that together declare one state, and keeps the places.
pub fn load_with_sources(files: &[PathBuf]) -> Result<Loaded, ConfigErrors> {
    Known::default().load(files)
}

/// The same from texts; the paths are for the errors.
pub fn parse_with_sources(sources: &[(PathBuf, String)]) -> Result<Loaded, ConfigErrors> {
    let report = Report::new(sources.iter().map(|(path, _)| path.as_path()));
    build(&sources.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), report)
}

/// Reads texts for [`parse_with_sources`] from where they may be read only once: pipes, and standard input (`-`).
pub fn read_once(files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, ConfigErrors> {
    let mut report = Report::new(files.iter().map(PathBuf::as_path));
    let texts = files.iter().enumerate().map(|(file, path)| {
        let text = source::read_once(path, file, &mut report).unwrap_or_default();
        (path.clone(), text)
    });
    let texts = texts.collect();
    report.finish(texts)
}

/// The JSON schema of a file.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(ComposeFile).to_value()
}

fn build(texts: &[&str], mut report: Report) -> Result<Loaded, ConfigErrors> {
    let parsed =
        texts.iter().enumerate().map(|(file, text)| Some((file, parse_one(text, file, &mut report)?)));
    let parsed: Vec<Option<(usize, ComposeFile)>> = parsed.collect();
    let files = parsed.iter().flatten().map(|(file, parsed)| (*file, parsed)).collect();
    conclude(files, report).map(|(loaded, _)| loaded)
}

/// The shape of one file.
fn parse_one(text: &str, file: usize, report: &mut Report) -> Option<ComposeFile> {
    if !source::check_text(text, file, report) {
        return None;
    }
    let node = node::read(text, file, report)?;
    typed::read::<ComposeFile>(&node, file, report)
}

/// What files of good shape say together. The numbers are those of the report.
fn conclude(files: Vec<(usize, &ComposeFile)>, mut report: Report) -> Result<(Loaded, Joint), ConfigErrors> {
    if files.is_empty() && report.count() == 0 {
        report.add(Position::start_of(0), "no file was given");
    }
    // What is left after an error of shape is not what the files say: conclusions from it would mislead.
    let files = if report.count() > 0 { &[] } else { files.as_slice() };
    let concluded = interpret(files, &mut report);
    report.finish(concluded)
}

fn interpret(files: &[(usize, &ComposeFile)], report: &mut Report) -> (Loaded, Joint) {
    let mut scopes = Vec::new();
    for (number, file) in files {
        if let Some(name) = &file.name {
            values::docker_name(name, "project name", report);
        }
        scopes.push((*number, networks::read_all(file.networks.as_ref(), report)));
    }
    let mut networks = Networks::merge(scopes, report);

    let mut drafts = Vec::new();
    let mut publications = 0;
    for (name, service) in
        files.iter().filter_map(|(_, file)| file.services.as_ref()).flat_map(|services| &services.0)
    {
        let draft = services::read(name, service, &mut networks, report);
        publications += draft.container.publications.len();
        if publications > services::MOST_PUBLICATIONS {
            report.add(
                name.at,
                format!(
                    "more than {} published ports in all: use ranges with host ports",
                    services::MOST_PUBLICATIONS
                ),
            );
            break;
        }
        drafts.push((name.value.clone(), draft));
    }
    let (mut services, repeated) = merge::merge_services(drafts, report);
    check::settle_shared(&mut services, report);

    let mut host = HostDraft::default();
    for settings in files.iter().filter_map(|(_, file)| file.host.as_ref()) {
        host.add(settings, &mut networks, report);
    }
    check::check(&networks, &services, &host, report);

    let networks_of_all = networks.drafts.iter().map(|(name, draft)| (name.clone(), draft.network.clone()));
    let networks_of_all = networks_of_all.collect();
    let joint = Joint::new(networks, &services, repeated, &host);
    let places = services.iter().map(|(name, draft)| (name.clone(), report.place(draft.location_at)));
    let loaded = Loaded {
        services: places.collect(),
        state: DesiredState {
            networks: networks_of_all,
            containers: services.into_iter().map(|(name, draft)| (name, draft.container)).collect(),
            peers: host.peers.into_iter().map(|peer| peer.peer).collect(),
            host: host.settings,
        },
    };
    (loaded, joint)
}
