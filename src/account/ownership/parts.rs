//! What records say of sessions, and the pages beside them, as whoever follows them keeps it: each part by itself, so that a
//! page that is written changes what is in it and nothing else.

use std::borrow::Borrow;
use std::hash::Hash;

use foldhash::HashMap;
use mqtt_ownership::Epoch;

/// Parts of sessions, by client.
#[derive(Debug)]
pub(crate) struct Parts<K, T> {
    records: HashMap<K, Box<[T]>>,
    pages: HashMap<K, Vec<Page<T>>>,
}

#[derive(Debug)]
struct Page<T> {
    first_epoch: Epoch,
    number: u32,
    has: Box<[T]>,
}

impl<K, T> Default for Parts<K, T> {
    fn default() -> Self {
        Self { records: HashMap::default(), pages: HashMap::default() }
    }
}

impl<K: Hash + Eq, T> Parts<K, T> {
    /// What the record of a client says.
    pub(crate) fn record<Q: Hash + Eq + ?Sized>(&self, client: &Q) -> &[T]
    where
        K: Borrow<Q>,
    {
        self.records.get(client).map_or(&[], |has| has)
    }

    /// What a page says.
    pub(crate) fn page<Q: Hash + Eq + ?Sized>(&self, client: &Q, first_epoch: Epoch, number: u32) -> &[T]
    where
        K: Borrow<Q>,
    {
        let mut pages = self.pages.get(client).into_iter().flatten();
        pages.find(|page| page.is(first_epoch, number)).map_or(&[], |page| &page.has)
    }

    /// The record says this now. Returns what it said before.
    pub(crate) fn set_record(&mut self, client: K, has: Vec<T>) -> Box<[T]> {
        let old = if has.is_empty() { self.records.remove(&client) } else { self.records.insert(client, has.into()) };
        old.unwrap_or_default()
    }

    /// The same of a page.
    pub(crate) fn set_page(&mut self, client: K, first_epoch: Epoch, number: u32, has: Vec<T>) -> Box<[T]> {
        if has.is_empty() && !self.pages.contains_key(&client) {
            return Box::default();
        }
        let pages = self.pages.entry(client).or_default();
        match pages.iter().position(|page| page.is(first_epoch, number)) {
            // What is empty stays in its place, for it is not the last that is heard of it.
            Some(at) => std::mem::replace(&mut pages[at].has, has.into()),
            None => {
                pages.push(Page { first_epoch, number, has: has.into() });
                Box::default()
            }
        }
    }

    /// Takes out the pages of sessions of a client that began before this epoch.
    pub(crate) fn take_before<Q: Hash + Eq + ?Sized>(&mut self, client: &Q, first_epoch: Epoch) -> Vec<T>
    where
        K: Borrow<Q>,
    {
        let Some(pages) = self.pages.get_mut(client) else { return Vec::new() };
        let taken = pages.extract_if(.., |page| page.first_epoch < first_epoch);
        let taken = taken.flat_map(|page| page.has.into_vec()).collect();
        if pages.is_empty() {
            self.pages.remove(client);
        }
        taken
    }

    /// Takes out all that is known of a client.
    pub(crate) fn take<Q: Hash + Eq + ?Sized>(&mut self, client: &Q) -> Vec<T>
    where
        K: Borrow<Q>,
    {
        let mut taken = self.records.remove(client).unwrap_or_default().into_vec();
        let pages = self.pages.remove(client).unwrap_or_default();
        taken.extend(pages.into_iter().flat_map(|page| page.has.into_vec()));
        taken
    }
}

impl<T> Page<T> {
    fn is(&self, first_epoch: Epoch, number: u32) -> bool {
        self.first_epoch == first_epoch && self.number == number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_replaced_by_itself_and_all_of_a_client_at_once() {
        let mut parts = Parts::<String, &str>::default();
        let client = || "c".to_owned();
        let joined = |has: Box<[&str]>| has.join(" ");
        assert_eq!(joined(parts.set_record(client(), vec!["1", "2"])), "");
        assert_eq!(joined(parts.set_page(client(), Epoch(5), 1, vec!["3"])), "");
        assert_eq!(joined(parts.set_page(client(), Epoch(5), 2, vec!["4", "5"])), "");
        assert_eq!(joined(parts.set_page(client(), Epoch(5), 1, vec!["6"])), "3");
        assert_eq!(joined(parts.set_page(client(), Epoch(9), 1, vec!["7"])), "", "of the session behind it");
        assert_eq!((parts.record("c"), parts.page("c", Epoch(5), 1)), (&["1", "2"][..], &["6"][..]));
        assert!(parts.page("c", Epoch(9), 2).is_empty());
        assert_eq!(joined(parts.set_page(client(), Epoch(5), 2, vec![])), "4 5");
        assert_eq!(parts.take_before("c", Epoch(9)), ["6"]);
        assert_eq!(joined(parts.set_record(client(), vec![])), "1 2");
        assert_eq!(joined(parts.set_record(client(), vec!["8"])), "");
        assert_eq!(parts.take("c"), ["8", "7"]);
        assert!(parts.take("c").is_empty() && parts.take_before("c", Epoch(100)).is_empty());
        assert_eq!(joined(parts.set_page(client(), Epoch(9), 1, vec![])), "");
        assert!(parts.records.is_empty() && parts.pages.is_empty());
    }
}
