//! What could not be done for one object, while everything else was.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// One object that is not as declared, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The object, as in "container web" or "port 0.0.0.0:8080/tcp".
    pub object: String,
    /// What is wrong and what to do.
    pub reason: String,
    /// Where the object is declared, `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<String>,
    /// What else may be other than it would be without the problem.
    #[serde(skip)]
    pub scope: Scope,
}

/// Whom a problem concerns, and so what tries again until it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Perhaps everything: rounds are whole ones.
    #[default]
    Everything,
    /// One container alone: each round tries it again.
    Container(String),
    /// Nothing but the object itself, which no container's state depends on: a whole round tries it again.
    Nothing,
}

impl Problem {
    /// A problem whose place in the files is not known.
    pub fn new(object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { object: object.into(), reason: reason.to_string(), at: None, scope: Scope::Everything }
    }

    /// The same, of one container alone.
    pub fn of_container(container: &str, object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { scope: Scope::Container(container.to_owned()), ..Self::new(object, reason) }
    }

    /// The same, where nothing else is other than without it.
    pub fn of_itself(object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { scope: Scope::Nothing, ..Self::new(object, reason) }
    }
}

/// The containers that have these problems, if none may concern everything.
pub fn containers(problems: &[Problem]) -> Option<BTreeSet<String>> {
    let mut containers = BTreeSet::new();
    for problem in problems {
        match &problem.scope {
            Scope::Everything => return None,
            Scope::Container(name) => drop(containers.insert(name.clone())),
            Scope::Nothing => {}
        }
    }
    Some(containers)
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(out, "{at}: ")?;
        }
        write!(out, "{}: {}", self.object, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_concern_everything_has_everything_looked_at() {
        let [web, db] = ["web", "db"].map(|name| Problem::of_container(name, "port", "it is held"));
        let room = Problem::of_itself("waiting room", "the kernel has no tbf");
        let expected = BTreeSet::from(["web".to_owned(), "db".to_owned()]);
        assert_eq!(containers(&[web.clone(), room.clone(), db]), Some(expected));
        assert_eq!(containers(std::slice::from_ref(&room)), Some(BTreeSet::new()));
        assert_eq!(containers(&[web, room, Problem::new("uplink eth0", "it is gone")]), None);
    }
}
