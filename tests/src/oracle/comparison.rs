//! Comparing what the two sides saw of one action.

use std::fmt;

use super::{
    description::{Action, Topology},
    observation::Facts,
    rules::{self, Rule},
};

/// A fact that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name, without a datagram's number.
    pub fact: String,
    /// The datagram, if the action has several.
    pub datagram: Option<usize>,
    /// What the kernel's side says; `None`: nothing.
    pub kernel: Option<String>,
    /// What weft's side says.
    pub weft: Option<String>,
}

/// All differences that no rule covers.
pub fn compare(topology: &Topology, action: &Action, kernel: &Facts, weft: &Facts) -> Vec<Difference> {
    let mut names: Vec<&String> = kernel.keys().chain(weft.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter(|name| kernel.get(*name) != weft.get(*name))
        .map(|name| {
            let (datagram, fact) = match name.split_once(": ") {
                Some((number, fact)) => (number.parse().ok(), fact),
                None => (None, name.as_str()),
            };
            let (kernel, weft) = (kernel.get(name).cloned(), weft.get(name).cloned());
            Difference { fact: fact.to_owned(), datagram, kernel, weft }
        })
        .filter(|difference| {
            let covering = |rule: &&Rule| (rule.covers)(topology, action, difference);
            match rules::RULES.iter().find(covering) {
                Some(rule) => {
                    rule.count();
                    false
                }
                None => true,
            }
        })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        if let Some(datagram) = self.datagram {
            write!(formatter, "datagram {datagram}, ")?;
        }
        write!(formatter, "{}: kernel {}, weft {}", self.fact, of(&self.kernel), of(&self.weft))
    }
}
