//! Host names that clients ask for, and what belongs to each.

use foldhash::HashMap;

/// By names in any case; `*.example.org` is every name with one label more.
#[derive(Clone, Debug)]
pub(super) struct Names<T>(HashMap<String, T>);

impl<T> Names<T> {
    /// What belongs to a name; its own comes before that of a wildcard.
    pub(super) fn of(&self, name: &str) -> Option<&T> {
        if self.0.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        self.0.get(&name).or_else(|| self.0.get(&format!("*.{}", name.split_once('.')?.1)))
    }
}

impl<'a, T> FromIterator<(&'a str, T)> for Names<T> {
    fn from_iter<I: IntoIterator<Item = (&'a str, T)>>(named: I) -> Self {
        Self(named.into_iter().map(|(name, what)| (name.to_ascii_lowercase(), what)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn a_wildcard_is_one_label() {
        let names: Names<u8> = [("*.Example.org", 1), ("a.example.org", 2), ("localhost", 3)].into_iter().collect();
        for (name, expected) in [
            ("b.example.org", Some(1)),
            ("A.EXAMPLE.org", Some(2)),
            ("localhost", Some(3)),
            ("example.org", None),
            ("c.b.example.org", None),
            ("", None),
        ] {
            assert_eq!(names.of(name).copied(), expected, "{name}");
        }
    }
}
