//! YAML text to a tree in which every key and value knows its place.
//!
//! The tree is read once by serde-saphyr with tight budgets; everything after it (`typed`) walks the tree, so
//! that one wrong value does not hide the next.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

use super::error::{Position, Report};

/// Containers in containers: Compose needs about ten levels.
const DEEPEST: usize = 48;
/// Values that aliases and merge keys may add. A thousand services that share a dozen lines need a fifth of it.
const MOST_REPLAYED: usize = 200_000;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub line: u32,
    pub column: u32,
    pub value: Value,
}

/// The YAML kinds.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// The kind for messages and for the choice between alternatives (`typed`).
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "boolean",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Text(_) => "text",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }
}

/// Reads one document; notes what is wrong with the YAML itself.
pub(super) fn read(text: &str, file: usize, report: &mut Report) -> Option<Node> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // `yes` and `on` are text in YAML 1.2, which Compose follows.
        strict_booleans: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_buffered_comment_events: 10_000,
            // A compose file may well use one anchor for hundreds of services; what aliases cost is limited below.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_REPLAYED,
            max_replay_stack_depth: 16,
        },
    };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(Node { value: Value::Null, .. }) => {
            report.add(
                Position::start_of(file),
                "the file is empty: an empty state is written as 'services: {}'",
            );
            None
        }
        Ok(node) => Some(node),
        Err(error) => {
            let error = error.without_snippet();
            let at = error
                .location()
                .filter(|location| location.line() > 0)
                .map_or(Position::start_of(file), |location| position(file, &location));
            report.add(at, explain(error));
            None
        }
    }
}

fn position(file: usize, location: &Location) -> Position {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).max(1);
    Position { file, line: number(location.line()), column: number(location.column()) }
}

/// The parser's errors in words that say what to do; those that already do pass through.
fn explain(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::MultipleDocuments { .. } => {
            "a second YAML document begins here: one file holds one document, give the other a file of its own"
                .to_owned()
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{} is given twice in this mapping", super::error::quote(key))
        }
        Error::Eof { .. } => "the file is empty: an empty state is written as 'services: {}'".to_owned(),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "the aliases of this file expand to too much: write the values out".to_owned()
        }
        Error::AliasError { error, .. } => explain(error),
        Error::Budget { breach: serde_saphyr::budget::BudgetBreach::Depth { .. }, .. } => {
            format!("nested deeper than {DEEPEST} levels")
        }
        other => {
            let text = other.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let text = text.lines().next().unwrap_or_default();
            // The place stands before the reason already.
            format!("not valid YAML: {}", text.rsplit_once(" at line ").map_or(text, |(reason, _)| reason))
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let at = position(0, &spanned.referenced);
        Ok(Self { line: at.line, column: at.column, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
