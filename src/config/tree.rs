//! A configuration before it has types: a tree of values, each of which knows where it was written. The file, the
//! environment and the command line are laid over each other here; `de` then gives the result its types. What the
//! keys mean is not known here.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    ops::Range,
    sync::{Arc, LazyLock},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::ConfigError;
pub(super) use super::error::Origin;

/// A value, its place in the text and its key from the root, as `listeners.tcp.bind`.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
    pub(super) path: String,
    /// Keys of its table that others of its type have, and that are unknown here.
    pub(super) without: &'static [&'static str],
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    pub(super) const fn new(value: Value, origin: Origin, path: String) -> Self {
        Self { value, origin, path, without: &[] }
    }

    pub(super) fn table(path: &str, origin: Origin) -> Self {
        Self::new(Value::Table(BTreeMap::new()), origin, path.to_owned())
    }

    pub(super) fn text(path: &str, origin: Origin, text: &str) -> Self {
        Self::new(Value::Text(text.to_owned()), origin, path.to_owned())
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(entries) => entries.get(key),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Table(entries) => entries.get_mut(key),
            _ => None,
        }
    }

    /// Puts `child` under `key`, in place of what was there. Anything but a table becomes one.
    pub(super) fn insert(&mut self, key: &str, child: Self) {
        if let Value::Table(entries) = &mut self.value {
            entries.insert(key.to_owned(), child);
        } else {
            self.value = Value::Table(BTreeMap::from([(key.to_owned(), child)]));
        }
    }

    /// The key below this node.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Lays one text value over what is there; tables on the way are made. A number selects an element of a list.
    pub(super) fn set(&mut self, keys: &[&str], origin: &Origin, text: &str) -> Result<(), ConfigError> {
        let Some((key, rest)) = keys.split_first() else {
            self.value = Value::Text(text.to_owned());
            self.origin = origin.clone();
            return Ok(());
        };
        let path = self.path_of(key);
        match &mut self.value {
            Value::Table(entries) => entries
                .entry((*key).to_owned())
                .or_insert_with(|| Self::table(&path, origin.clone()))
                .set(rest, origin, text),
            Value::List(elements) => match key.parse().ok().and_then(|index: usize| elements.get_mut(index)) {
                Some(element) => element.set(rest, origin, text),
                None => Err(ConfigError::invalid(origin, &path, "there is no such element in the list")),
            },
            _ => Err(ConfigError::invalid(origin, &path, format!("{:?} is a value, not a table", self.path))),
        }
    }

    /// Where the value of this key was written, if anybody wrote it.
    pub(super) fn origin_of(&self, path: &str) -> Option<&Origin> {
        if self.path == path {
            return Some(&self.origin);
        }
        match &self.value {
            Value::Table(entries) => entries.values().find_map(|child| child.origin_of(path)),
            Value::List(elements) => elements.iter().find_map(|child| child.origin_of(path)),
            _ => None,
        }
    }
}

/// A mark of something that is to be noticed when it is something else, and to be kept no longer than that: of secrets too, which it
/// says nothing about outside this process.
pub(super) fn mark_of<T: Hash + ?Sized>(value: &T) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SEED.hash_one(value)
}

/// What was written, by whoever wrote it: marks of the values, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written(BTreeMap<String, u64>);

impl Written {
    /// Of a whole configuration.
    pub(super) fn of(root: &Node) -> Self {
        let mut written = Self::default();
        written.add(root);
        written
    }

    fn add(&mut self, node: &Node) {
        match &node.value {
            Value::Table(entries) => entries.values().for_each(|child| self.add(child)),
            value => {
                self.0.insert(node.path.clone(), mark_of(value));
            }
        }
    }

    /// What was written of a key, and below it, is what was written before.
    pub(super) fn adopt(&mut self, before: &Self, of: &str) {
        self.0.retain(|key, _| !is_of(key, of));
        let kept = before.0.iter().filter(|(key, _)| is_of(key, of));
        self.0.extend(kept.map(|(key, mark)| (key.clone(), *mark)));
    }

    /// The keys that differ, of those that are `of` or below it.
    pub(super) fn differing(&self, other: &Self, of: &str) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).filter(|key| is_of(key, of)).collect();
        keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }
}

/// Whether a key is another one, or below it.
fn is_of(key: &str, of: &str) -> bool {
    key.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As text, so that it does not count where a value was written.
        match self {
            Self::Text(text) => text.hash(state),
            Self::Integer(value) => value.to_string().hash(state),
            Self::Float(value) => value.to_string().hash(state),
            Self::Bool(value) => value.to_string().hash(state),
            Self::List(elements) => elements.iter().for_each(|element| element.value.hash(state)),
            Self::Table(entries) => entries.iter().for_each(|(key, entry)| (key, &entry.value).hash(state)),
        }
    }
}

/// Reads the text of a configuration file. `variables` answers `${NAME}`.
pub(super) fn parse(file: &str, text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Node, ConfigError> {
    let file: Arc<str> = file.into();
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        file: file.to_string(),
        line: line_of(text, error.span()),
        message: error.message().replace('\n', "; "),
    })?;
    let reader = Reader { file, text, variables };
    reader.table(document.get_ref(), "", document.span())
}

struct Reader<'a> {
    file: Arc<str>,
    text: &'a str,
    variables: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File { file: self.file.clone(), line: line_of(self.text, Some(span)) }
    }

    fn table(&self, table: &DeTable<'_>, path: &str, span: Range<usize>) -> Result<Node, ConfigError> {
        let mut node = Node::table(path, self.origin(span));
        for (key, value) in table {
            let path = node.path_of(key.get_ref());
            let mut child = self.value(value, &path)?;
            child.origin = self.origin(key.span());
            node.insert(key.get_ref(), child);
        }
        Ok(node)
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, path: &str) -> Result<Node, ConfigError> {
        let origin = self.origin(value.span());
        let value = match value.get_ref() {
            DeValue::Table(table) => return self.table(table, path, value.span()),
            DeValue::String(text) => {
                let text =
                    substitute(text, self.variables).map_err(|message| ConfigError::invalid(&origin, path, message))?;
                Value::Text(text)
            }
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(value) => Value::Integer(value),
                Err(_) => return Err(ConfigError::invalid(&origin, path, "the number is too large")),
            },
            DeValue::Float(digits) => match digits.as_str().parse() {
                Ok(value) => Value::Float(value),
                Err(_) => return Err(ConfigError::invalid(&origin, path, "this is not a number")),
            },
            DeValue::Datetime(_) => return Err(ConfigError::invalid(&origin, path, "no key takes a date")),
            DeValue::Array(elements) => {
                let element = |(index, element)| self.value(element, &format!("{path}[{index}]"));
                Value::List(elements.iter().enumerate().map(element).collect::<Result<_, _>>()?)
            }
        };
        Ok(Node::new(value, origin, path.to_owned()))
    }
}

/// Line of the first byte of `span`, from 1.
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    1 + text.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count()
}

/// Replaces `${NAME}` by the variable; `$${` stands for `${` itself, and any other `$` for itself.
fn substitute(text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest.get(..at).and_then(|before| before.strip_suffix('$')) {
            out.push_str(before);
            out.push_str("${");
            rest = rest.get(at + 2..).unwrap_or_default();
            continue;
        }
        out.push_str(rest.get(..at).unwrap_or_default());
        let (name, after) = rest
            .get(at + 2..)
            .and_then(|tail| tail.split_once('}'))
            .ok_or("\"${\" has no \"}\": write \"$${\" if no variable is meant")?;
        let value = variables(name).ok_or_else(|| {
            format!("the environment has no variable {name}: set it, or write \"$${{{name}}}\" if no variable is meant")
        })?;
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        (name == "HOST").then(|| "nats.example".to_owned())
    }

    #[test]
    fn variables_are_replaced_and_dollars_survive() {
        for (text, result) in [
            ("nats://${HOST}:4222", "nats://nats.example:4222"),
            ("$NMQ", "$NMQ"),
            ("$${HOST}", "${HOST}"),
            ("a${HOST}b${HOST}", "anats.examplebnats.example"),
            ("$", "$"),
        ] {
            assert_eq!(substitute(text, &variables), Ok(result.to_owned()));
        }
    }

    #[test]
    fn a_missing_variable_is_named_with_its_line() {
        let error = parse("x.toml", "\n[nats]\nname = \"${NOPE}\"\n", &variables).unwrap_err().to_string();
        assert!(error.starts_with("x.toml:3: nats.name: the environment has no variable NOPE"), "{error}");
        assert!(substitute("${HOST", &variables).is_err());
    }

    #[test]
    fn a_syntax_error_has_its_line_and_is_one_line() {
        let error = parse("x.toml", "[nats]\nname = \n", &variables).unwrap_err().to_string();
        assert!(error.starts_with("x.toml:2: "), "{error}");
        assert!(!error.contains('\n'));
    }
}
