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
    /// The container that alone has it: nothing else is other than it would be without the problem.
    #[serde(skip)]
    pub container: Option<String>,
}

impl Problem {
    /// A problem whose place in the files is not known.
    pub fn new(object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { object: object.into(), reason: reason.to_string(), at: None, container: None }
    }

    /// The same, of one container alone.
    pub fn of_container(container: &str, object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { container: Some(container.to_owned()), ..Self::new(object, reason) }
    }
}

/// The containers that have these problems, if each is that of one container alone.
pub fn containers(problems: &[Problem]) -> Option<BTreeSet<String>> {
    problems.iter().map(|problem| problem.container.clone()).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(out, "{at}: ")?;
        }
        write!(out, "{}: {}", self.object, self.reason)
    }
}
