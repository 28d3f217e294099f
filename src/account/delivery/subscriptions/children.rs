//! The nodes below a node of the trie, by level. Most nodes have none or one, and those cost no table.

use bytestring::ByteString;
use foldhash::HashMap;

/// Nodes by level; a pointer, when there are none.
#[derive(Debug)]
pub(super) struct Children<T>(Option<Box<Nodes<T>>>);

#[derive(Debug)]
enum Nodes<T> {
    One(ByteString, T),
    Several(HashMap<ByteString, T>),
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Default> Children<T> {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn get(&self, level: &str) -> Option<&T> {
        match self.0.as_deref()? {
            Nodes::One(only, child) => (*only == level).then_some(child),
            Nodes::Several(several) => several.get(level),
        }
    }

    pub(super) fn get_mut(&mut self, level: &str) -> Option<&mut T> {
        match self.0.as_deref_mut()? {
            Nodes::One(only, child) => (*only == level).then_some(child),
            Nodes::Several(several) => several.get_mut(level),
        }
    }

    /// Calls `visit` for every node.
    pub(super) fn visit_all(&mut self, visit: &mut impl FnMut(&mut T)) {
        match self.0.as_deref_mut() {
            None => {}
            Some(Nodes::One(_, child)) => visit(child),
            Some(Nodes::Several(several)) => several.values_mut().for_each(visit),
        }
    }

    /// The node of a level, which is made when it is not there.
    pub(super) fn get_or_insert(&mut self, level: ByteString) -> &mut T {
        let some = self.0.get_or_insert_with(|| Box::new(Nodes::One(level.clone(), T::default())));
        if matches!(&**some, Nodes::One(only, _) if *only != level) {
            let one = std::mem::replace(&mut **some, Nodes::Several(HashMap::default()));
            if let (Nodes::One(only, child), Nodes::Several(several)) = (one, &mut **some) {
                several.insert(only, child);
            }
        }
        match &mut **some {
            Nodes::One(_, child) => child,
            Nodes::Several(several) => several.entry(level).or_default(),
        }
    }

    pub(super) fn remove(&mut self, level: &str) {
        let is_over = |some: &mut Box<Nodes<T>>| match &mut **some {
            Nodes::One(only, _) => *only == level,
            Nodes::Several(several) => {
                several.remove(level);
                several.is_empty()
            }
        };
        self.0.take_if(is_over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_one_and_several_are_found_and_go() {
        let mut children: Children<u32> = Children::default();
        let level = |text: &'static str| ByteString::from_static(text);
        assert!(children.is_empty() && children.get("a").is_none());
        for (text, value) in [("a", 1), ("a", 2), ("b", 3), ("", 4)] {
            *children.get_or_insert(level(text)) = value;
            assert_eq!(children.get(text), Some(&value));
            assert_eq!(children.get_mut(text), Some(&mut value.clone()));
        }
        assert_eq!((children.get("a"), children.get("c")), (Some(&2), None));
        for text in ["c", "a", "", "b"] {
            assert!(!children.is_empty());
            children.remove(text);
            assert!(children.get(text).is_none());
        }
        assert!(children.is_empty());
        children.get_or_insert(level("only"));
        children.remove("other");
        assert!(children.get("only").is_some());
        children.remove("only");
        assert!(children.is_empty());
    }
}
