//! The containers' network namespaces.

use std::collections::{BTreeMap, HashMap};

use super::{problem::Problem, resolved::FoundNamespace};
use crate::{
    model::{Container, ContainerNamespace, DesiredState},
    netdev::{self, Namespace, NamespaceIdentity, NamespaceRef},
};

/// Cookies of namespaces seen before. Reading one takes a thread, looking at the file does not.
#[derive(Debug, Default)]
pub struct Cookies(HashMap<NamespaceIdentity, u64>);

impl Cookies {
    /// Forgets a namespace whose inode may have been given to another one.
    pub fn forget(&mut self, identity: &NamespaceIdentity) {
        self.0.remove(identity);
    }

    async fn of(
        &mut self,
        reference: &NamespaceRef,
        identity: NamespaceIdentity,
    ) -> netdev::Result<FoundNamespace> {
        let found = |identity, cookie| FoundNamespace { reference: reference.clone(), identity, cookie };
        if let Some(cookie) = self.0.get(&identity) {
            return Ok(found(identity, *cookie));
        }
        let namespace = reference.open()?;
        let cookie = namespace.cookie().await?;
        self.0.insert(namespace.identity(), cookie);
        Ok(found(namespace.identity(), cookie))
    }
}

/// How a declared container's namespace is reached. `None`: it has none of its own that weft would work in.
pub fn reference(container: &Container) -> Option<Result<NamespaceRef, &'static str>> {
    match &container.namespace {
        ContainerNamespace::Named(name) => Some(Ok(NamespaceRef::Named(name.clone()))),
        ContainerNamespace::Pid(pid) => Some(Ok(NamespaceRef::Pid(*pid))),
        ContainerNamespace::Docker(_) => Some(Err(
            "'container: …' needs the Docker provider, which this version does not have; name a netns or pid",
        )),
        ContainerNamespace::None | ContainerNamespace::Host | ContainerNamespace::SharedWith(_) => None,
    }
}

/// Finds the namespaces of all containers; a missing one is a problem of that container alone.
pub async fn find(
    desired: &DesiredState,
    own: NamespaceIdentity,
    cookies: &mut Cookies,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, FoundNamespace> {
    let mut found = BTreeMap::new();
    let mut holders: HashMap<NamespaceIdentity, &String> = HashMap::new();
    for (name, container) in &desired.containers {
        let Some(reference) = reference(container) else { continue };
        let result = match reference {
            Ok(reference) => look_up(&reference, own, cookies).await,
            Err(reason) => Err(reason.to_owned()),
        };
        match result {
            Ok(namespace) => {
                if let Some(other) = holders.get(&namespace.identity) {
                    let reason = format!(
                        "it is in the same network namespace as container {other}; use network_mode: service:{other}"
                    );
                    problems.push(Problem::new(format!("container {name}"), reason));
                    continue;
                }
                holders.insert(namespace.identity, name);
                found.insert(name.clone(), namespace);
            }
            Err(reason) => problems.push(Problem::new(format!("container {name}"), reason)),
        }
    }
    let present: Vec<NamespaceIdentity> = holders.into_keys().collect();
    if cookies.0.len() > 2 * present.len() + 16 {
        cookies.0.retain(|identity, _| present.contains(identity));
    }
    found
}

async fn look_up(
    reference: &NamespaceRef,
    own: NamespaceIdentity,
    cookies: &mut Cookies,
) -> Result<FoundNamespace, String> {
    let identity = match reference.identity() {
        Ok(Some(identity)) => identity,
        // `open` says best what is missing and what to do.
        Ok(None) => match reference.open() {
            Ok(namespace) => namespace.identity(),
            Err(error) => return Err(error.to_string()),
        },
        Err(error) => return Err(error.to_string()),
    };
    if identity == own {
        return Err(format!("{reference} is the one that weft runs in; write network_mode: host"));
    }
    cookies.of(reference, identity).await.map_err(|error| error.to_string())
}

/// Opens a namespace found earlier, if it is still the same one.
pub fn reopen(found: &FoundNamespace) -> Result<Namespace, String> {
    let namespace = found.reference.open().map_err(|error| error.to_string())?;
    if namespace.identity() == found.identity {
        Ok(namespace)
    } else {
        Err(format!("{} was replaced meanwhile; weft looks again", found.reference))
    }
}
