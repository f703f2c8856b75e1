//! The containers' network namespaces.

use std::collections::{BTreeMap, HashMap};

use super::{problem::Problem, resolved::FoundNamespace};
use crate::{
    model::{Container, ContainerNamespace, DesiredState},
    netdev::{self, Namespace, NamespaceIdentity, NamespaceRef},
};

/// What is known of namespaces seen before.
#[derive(Debug, Default)]
pub struct Cookies {
    /// Reading a cookie takes a thread, looking at the file does not.
    known: HashMap<NamespaceIdentity, u64>,
    /// What each reference was found to lead to last.
    found: HashMap<NamespaceRef, FoundNamespace>,
}

impl Cookies {
    /// Forgets a namespace whose inode may have been given to another one.
    pub fn forget(&mut self, identity: &NamespaceIdentity) {
        self.known.remove(identity);
        self.found.retain(|_, found| found.identity != *identity);
    }

    async fn of(
        &mut self,
        reference: &NamespaceRef,
        identity: NamespaceIdentity,
    ) -> netdev::Result<FoundNamespace> {
        let found = |identity, cookie| FoundNamespace { reference: reference.clone(), identity, cookie };
        if let Some(cookie) = self.known.get(&identity) {
            return Ok(found(identity, *cookie));
        }
        let namespace = reference.open()?;
        let cookie = namespace.cookie().await?;
        self.known.insert(namespace.identity(), cookie);
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

/// Why a container's namespace is not known.
enum Unknown {
    /// There is none that weft could work in.
    Gone(String),
    /// It could not be looked at: nothing is known of it that was not known before. The identity where that much was
    /// read.
    Unreadable(String, Option<NamespaceIdentity>),
}

impl Unknown {
    fn new(error: &netdev::Error, identity: Option<NamespaceIdentity>) -> Self {
        match error {
            // Only this one says something of the namespace; all others are the machine's, such as EMFILE or EIO.
            netdev::Error::Namespace { .. } => Self::Gone(error.to_string()),
            _ => Self::Unreadable(error.to_string(), identity),
        }
    }
}

/// Finds the namespaces of all containers; a missing one is a problem of that container alone. One that cannot be
/// looked at is taken to be as it was before, for its devices would be removed if it were taken to be gone.
pub async fn find(
    desired: &DesiredState,
    own: NamespaceIdentity,
    cookies: &mut Cookies,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, FoundNamespace> {
    let mut holders = Holders::default();
    let found = find_some(&desired.containers, own, cookies, &mut holders, problems).await;
    let present = holders.by_namespace;
    if cookies.known.len() > 2 * present.len() + 16 {
        cookies.known.retain(|identity, _| present.contains_key(identity));
    }
    // Not at once: a preview of other files asks for other namespaces.
    if cookies.found.len() > 2 * present.len() + 16 {
        cookies.found.retain(|_, found| present.contains_key(&found.identity));
    }
    found
}

/// Which container is in which namespace.
#[derive(Debug, Default)]
pub struct Holders {
    by_namespace: HashMap<NamespaceIdentity, String>,
    by_container: HashMap<String, NamespaceIdentity>,
}

impl Holders {
    /// Of containers whose namespaces were found, each in one of its own.
    pub fn new(found: &BTreeMap<String, FoundNamespace>) -> Self {
        let mut holders = Self::default();
        for (name, namespace) in found {
            holders.insert(name, namespace.identity);
        }
        holders
    }

    fn insert(&mut self, container: &str, namespace: NamespaceIdentity) {
        self.by_namespace.insert(namespace, container.to_owned());
        self.by_container.insert(container.to_owned(), namespace);
    }

    /// Has a container be nowhere.
    pub fn remove(&mut self, container: &str) {
        if let Some(namespace) = self.by_container.remove(container) {
            self.by_namespace.remove(&namespace);
        }
    }
}

/// The same for some containers, where `holders` has the namespaces of the others.
pub async fn find_some(
    containers: impl IntoIterator<Item = (&'_ String, &'_ Container)>,
    own: NamespaceIdentity,
    cookies: &mut Cookies,
    holders: &mut Holders,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, FoundNamespace> {
    let mut found = BTreeMap::new();
    for (name, container) in containers {
        let Some(reference) = reference(container) else { continue };
        let result = match reference {
            Ok(reference) => look_up(&reference, own, cookies).await.or_else(|unknown| match unknown {
                Unknown::Gone(reason) => {
                    cookies.found.remove(&reference);
                    Err(reason)
                }
                Unknown::Unreadable(reason, identity) => {
                    let is_same =
                        |before: &&FoundNamespace| identity.is_none_or(|now| now == before.identity);
                    let Some(before) = cookies.found.get(&reference).filter(is_same) else {
                        return Err(reason);
                    };
                    let reason = format!("{reason}; it is taken to be as it was before");
                    problems.push(Problem::of_container(name, format!("container {name}"), reason));
                    Ok(before.clone())
                }
            }),
            Err(reason) => Err(reason.to_owned()),
        };
        match result {
            Ok(namespace) => {
                if let Some(other) = holders.by_namespace.get(&namespace.identity) {
                    let reason = format!(
                        "it is in the same network namespace as container {other}; use network_mode: service:{other}"
                    );
                    problems.push(Problem::new(format!("container {name}"), reason));
                    continue;
                }
                holders.insert(name, namespace.identity);
                cookies.found.insert(namespace.reference.clone(), namespace.clone());
                found.insert(name.clone(), namespace);
            }
            Err(reason) => {
                problems.push(Problem::of_container(name, format!("container {name}"), reason));
            }
        }
    }
    found
}

async fn look_up(
    reference: &NamespaceRef,
    own: NamespaceIdentity,
    cookies: &mut Cookies,
) -> Result<FoundNamespace, Unknown> {
    let identity = match reference.identity() {
        Ok(Some(identity)) => identity,
        // `open` says best what is missing and what to do.
        Ok(None) => reference.open().map_err(|error| Unknown::new(&error, None))?.identity(),
        Err(error) => return Err(Unknown::new(&error, None)),
    };
    if identity == own {
        return Err(Unknown::Gone(format!(
            "{reference} is the one that weft runs in; write network_mode: host"
        )));
    }
    cookies.of(reference, identity).await.map_err(|error| Unknown::new(&error, Some(identity)))
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: NamespaceIdentity = NamespaceIdentity { device: 0, inode: 0 };

    /// What `find` makes of a container of which a namespace is known, once its file is looked for under `name`.
    async fn find_again(name: &str) -> (Vec<String>, Vec<Problem>) {
        let container = Container {
            namespace: ContainerNamespace::Named(name.to_owned()),
            attachments: BTreeMap::new(),
            publications: Vec::new(),
            hostname: None,
            links: Vec::new(),
        };
        let desired = DesiredState {
            containers: BTreeMap::from([("web".to_owned(), container)]),
            ..DesiredState::default()
        };
        let mut cookies = Cookies::default();
        let before = FoundNamespace {
            reference: NamespaceRef::Named(name.to_owned()),
            identity: NamespaceIdentity { device: 4, inode: 7 },
            cookie: 7,
        };
        cookies.found.insert(before.reference.clone(), before.clone());
        let mut problems = Vec::new();
        let found = find(&desired, NOBODY, &mut cookies, &mut problems).await;
        assert!(found.values().all(|found| *found == before));
        (found.into_keys().collect(), problems)
    }

    #[tokio::test]
    async fn a_namespace_that_cannot_be_looked_at_stays_as_it_was() {
        // ENAMETOOLONG: like EMFILE it says nothing of the namespace, and it needs no exhausted process.
        let (found, problems) = find_again(&"n".repeat(5000)).await;
        assert_eq!(found, ["web"]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].reason.ends_with("it is taken to be as it was before"), "{problems:?}");
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_is_forgotten() {
        let (found, problems) = find_again("weft-there-is-no-such-namespace").await;
        assert!(found.is_empty());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].reason.contains("does not exist"), "{problems:?}");
    }
}
