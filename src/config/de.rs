//! Gives the value tree its types, through serde. Written here, and not taken from a crate, for three things at once:
//! an error names the line, variable or option of the value; an unknown key gets a suggestion from the fields of the
//! very struct that does not have it; text from the environment becomes whatever type its key wants.

use std::{collections::btree_map, fmt};

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::{
    ConfigError,
    tree::{Node, Origin, Value},
};

/// An error that may not know yet which value it is about; the innermost value that sees it pass says so.
#[derive(Debug)]
pub(super) struct Error {
    place: Option<(Origin, String)>,
    message: String,
}

impl Error {
    fn at(mut self, node: &Node) -> Self {
        self.place.get_or_insert_with(|| (node.origin.clone(), node.path.clone()));
        self
    }
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        let (origin, path) = error.place.unwrap_or((Origin::Default, String::new()));
        Self::invalid(&origin, &path, error.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { place: None, message: message.to_string() }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("{variant:?} is not known: {}", choices(variant, expected)))
    }
}

/// What could have been meant: the nearest choice, or all of them.
fn choices(word: &str, expected: &[&str]) -> String {
    let nearest = expected
        .iter()
        .map(|choice| (strsim::damerau_levenshtein(word, choice), *choice))
        .filter(|(distance, choice)| *distance <= 1.max(choice.len() / 3) || choice.starts_with(word))
        .min();
    match nearest {
        Some((_, choice)) => format!("did you mean {choice:?}?"),
        None if expected.is_empty() => "nothing is allowed here".to_owned(),
        None => format!("one of {} is possible", expected.join(", ")),
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::List(elements) => visitor.visit_seq(Elements(elements.iter())),
            Value::Table(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        }
        .map_err(|error| error.at(self))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.untyped().map(str::parse) {
            Some(Ok(value)) => visitor.visit_bool(value),
            _ => self.deserialize_any(visitor),
        }
        .map_err(|error| error.at(self))
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.untyped().map(str::parse) {
            Some(Ok(value)) => visitor.visit_i64(value),
            _ => self.deserialize_any(visitor),
        }
        .map_err(|error| error.at(self))
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    /// A single text is a list of one; from the environment, commas separate the elements.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Value::Text(text) = &self.value else {
            return self.deserialize_any(visitor);
        };
        let elements: Vec<&str> = match &self.origin {
            Origin::Env(_) => text.split(',').map(str::trim).filter(|element| !element.is_empty()).collect(),
            _ => vec![text],
        };
        let elements = de::value::SeqDeserializer::<_, Error>::new(elements.into_iter());
        visitor.visit_seq(elements).map_err(|error| error.at(self))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Table(entries) = &self.value else {
            return Err(de::Error::custom("this is a table of keys, not a value"))
                .map_err(|error: Error| error.at(self));
        };
        let is_here = |key: &str| fields.contains(&key) && !self.without.contains(&key);
        if let Some((key, child)) = entries.iter().find(|(key, _)| !is_here(key)) {
            let here: Vec<&str> = fields.iter().copied().filter(|field| is_here(field)).collect();
            let message = format!("unknown key: {}", choices(key, &here));
            return Err(<Error as de::Error>::custom(message).at(child));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Text(text) = &self.value else {
            let message = format!("one of {} is possible", variants.join(", "));
            return Err(<Error as de::Error>::custom(message).at(self));
        };
        visitor.visit_enum(text.as_str().into_deserializer()).map_err(|error: Error| error.at(self))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

impl Node {
    /// The text, when its type is still open.
    fn untyped(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) if self.origin.is_untyped() => Some(text.trim()),
            _ => None,
        }
    }
}

struct Elements<'de>(std::slice::Iter<'de, Node>);

impl<'de> de::SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|node| seed.deserialize(node).map_err(|error| error.at(node))).transpose()
    }
}

struct Entries<'de> {
    entries: btree_map::Iter<'de, String, Node>,
    value: Option<&'de Node>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(node);
        seed.deserialize(key.as_str().into_deserializer()).map(Some).map_err(|error: Error| error.at(node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let node =
            self.value.take().ok_or_else(|| <Error as de::Error>::custom("a value was asked for before its key"))?;
        seed.deserialize(node).map_err(|error| error.at(node))
    }
}
