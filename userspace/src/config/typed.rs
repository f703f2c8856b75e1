//! A serde deserializer over the tree of `node`, so that the structs of `schema` are the one definition of the
//! format for the parser and for the JSON schema.
//!
//! It differs from a plain one in three ways. Wrong list elements and map entries are noted and left out, so
//! that one load finds many errors. `Located` keeps where a value stands, at any depth (serde's own `flatten`
//! and `untagged` lose that). An enum's variant is chosen by the YAML kind of the value: its variants are
//! named after the kinds (`text`, `integer`, `list`, `map`, …).

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor, value},
    forward_to_deserialize_any,
};

use super::{
    error::{Position, Report, quote},
    fields::{FieldRole, field_role},
    located::LOCATED,
    node::{Node, Value},
};

/// Reads the tree of a file; what does not fit is noted.
pub(super) fn read<'de, T: Deserialize<'de>>(node: &'de Node, file: usize, report: &mut Report) -> Option<T> {
    let context = Context { file, faults: RefCell::default() };
    let result = T::deserialize(Reader { node, context: &context });
    let result = result.map_err(|fault| context.note(fault, node)).ok();
    for (at, reason) in context.faults.into_inner() {
        report.add(at, reason);
    }
    result
}

struct Context {
    file: usize,
    faults: RefCell<Vec<(Position, String)>>,
}

impl Context {
    fn at(&self, node: &Node) -> Position {
        Position { file: self.file, line: node.line, column: node.column }
    }

    fn note(&self, fault: Fault, node: &Node) {
        self.faults.borrow_mut().push((fault.at.unwrap_or_else(|| self.at(node)), fault.reason));
    }
}

/// The error of this deserializer; the place is added where it first passes a reader.
#[derive(Debug)]
pub(super) struct Fault {
    at: Option<Position>,
    reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.reason)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { at: None, reason: reason.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Unit => "nothing".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a mapping".to_owned(),
            Unexpected::Str(text) => format!("the text {}", quote(text)),
            other => format!("the {other}"),
        };
        let expected = expected.to_string();
        // YAML takes `17` and `true` for numbers and truth values.
        let remedy = if expected == "a string" { ": put it in quotes if it is one" } else { "" };
        Self::custom(format_args!("expected {expected}, found {found}{remedy}"))
    }
}

#[derive(Clone, Copy)]
struct Reader<'de, 'c> {
    node: &'de Node,
    context: &'c Context,
}

impl Reader<'_, '_> {
    fn place<T>(self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|mut fault| {
            fault.at.get_or_insert_with(|| self.context.at(self.node));
            fault
        })
    }

    fn fault<T>(self, reason: String) -> Result<T, Fault> {
        Err(Fault { at: Some(self.context.at(self.node)), reason })
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let context = self.context;
        self.place(match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) if text.contains("${") => self.fault(format!(
                "{}: weft replaces no variables: write the value, or give weft the output of 'docker compose config'",
                quote(text)
            )),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(nodes) => visitor.visit_seq(List { nodes: nodes.iter(), context }),
            Value::Map(entries) => {
                visitor.visit_map(Map { entries: entries.iter().collect::<Vec<_>>().into_iter(), value: None, context })
            }
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Map(entries) = &self.node.value else {
            // A derived struct would also take a list, field by field.
            return self.fault(format!(
                "expected a mapping of {}, found {}",
                fields.join(", "),
                self.node.value.kind()
            ));
        };
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let refused = match &entry.0.value {
                Value::Text(key) => match field_role(name, fields, key) {
                    FieldRole::Read => {
                        kept.push(entry);
                        continue;
                    }
                    FieldRole::Ignored => continue,
                    FieldRole::Refused(reason) => format!("{} {reason}", quote(key)),
                },
                _ => "a field name must be text".to_owned(),
            };
            self.context.note(Fault { at: None, reason: refused }, &entry.0);
        }
        let map = Map { entries: kept.into_iter(), value: None, context: self.context };
        self.place(visitor.visit_map(map))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        kinds: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let found = self.node.value.kind();
        if !kinds.contains(&found) {
            return self.fault(format!("expected {}, found {found}", kinds.join(" or ")));
        }
        self.place(visitor.visit_enum(ByKind(self)))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == LOCATED {
            visitor.visit_seq(LocatedParts { reader: self, next: 0 })
        } else {
            self.deserialize_any(visitor)
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple map identifier
    }
}

struct List<'de, 'c> {
    nodes: std::slice::Iter<'de, Node>,
    context: &'c Context,
}

impl<'de> SeqAccess<'de> for List<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        seed.deserialize(Reader { node, context: self.context }).map(Some)
    }

    fn next_element<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, Fault> {
        for node in self.nodes.by_ref() {
            match T::deserialize(Reader { node, context: self.context }) {
                Ok(element) => return Ok(Some(element)),
                Err(fault) => self.context.note(fault, node),
            }
        }
        Ok(None)
    }
}

struct Map<'de, 'c> {
    entries: std::vec::IntoIter<&'de (Node, Node)>,
    value: Option<&'de Node>,
    context: &'c Context,
}

impl<'de> MapAccess<'de> for Map<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(Reader { node: key, context: self.context }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let node =
            self.value.take().ok_or_else(|| de::Error::custom("a value was asked for before its key"))?;
        seed.deserialize(Reader { node, context: self.context })
    }

    fn next_entry<K: Deserialize<'de>, V: Deserialize<'de>>(&mut self) -> Result<Option<(K, V)>, Fault> {
        for (key, value) in self.entries.by_ref() {
            // Both are read even when the first is wrong: each may have something to report.
            let key = K::deserialize(Reader { node: key, context: self.context })
                .map_err(|fault| self.context.note(fault, key));
            let value = V::deserialize(Reader { node: value, context: self.context })
                .map_err(|fault| self.context.note(fault, value));
            if let (Ok(key), Ok(value)) = (key, value) {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }
}

/// An enum whose variant is the YAML kind of the value.
struct ByKind<'de, 'c>(Reader<'de, 'c>);

impl<'de, 'c> de::EnumAccess<'de> for ByKind<'de, 'c> {
    type Error = Fault;
    type Variant = Reader<'de, 'c>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Reader<'de, 'c>), Fault> {
        let kind: value::StrDeserializer<'_, Fault> = self.0.node.value.kind().into_deserializer();
        Ok((seed.deserialize(kind)?, self.0))
    }
}

impl<'de> de::VariantAccess<'de> for Reader<'de, '_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
}

/// File, line, column and then the value itself.
struct LocatedParts<'de, 'c> {
    reader: Reader<'de, 'c>,
    next: u8,
}

impl<'de> SeqAccess<'de> for LocatedParts<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let at = self.reader.context.at(self.reader.node);
        self.next += 1;
        match self.next {
            1 => seed.deserialize((at.file as u64).into_deserializer()),
            2 => seed.deserialize(at.line.into_deserializer()),
            3 => seed.deserialize(at.column.into_deserializer()),
            4 => seed.deserialize(self.reader),
            _ => return Ok(None),
        }
        .map(Some)
    }
}
