//! The subscriptions of a session as its owner has them, and where each of them is stored: in the record as long as they are
//! small, and beyond that in pages, so that a SUBSCRIBE writes a few kilobytes however many there are.
//!
//! **Invariant:** a subscription stays where it is, and a place takes no more than [`PLACE_LEN`] bytes of them, unless one is
//! larger by itself. What is there may grow when it is replaced: its options, and what it was owed before.
//!
//! **Invariant:** there are [`PAGES_MAX`] pages at most. What a record says of them is not believed beyond that, and nothing is
//! allocated for it.
//!
//! **Invariant:** every change marks the place that it is in. What is not marked is in JetStream as it is here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mqtt_codec::TopicFilter;

use crate::store::{PAGES_MAX, PageRecord, Rest, StoredSubscription};

/// Bytes of subscriptions that the record takes, and each page.
pub(crate) const PLACE_LEN: usize = 4 * 1024;

/// The place that the record is.
const RECORD: u32 = 0;

/// One subscription.
#[derive(Clone, Debug)]
struct Placed {
    place: u32,
    len: usize,
    stored: StoredSubscription,
}

/// Where subscriptions are stored together.
#[derive(Clone, Debug, Default)]
struct Place {
    filters: Vec<TopicFilter>,
    len: usize,
    /// What a newer version has added to the page.
    rest: Rest,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct PagedSubscriptions {
    all: HashMap<TopicFilter, Placed>,
    /// The record, and the pages by their numbers.
    places: Vec<Place>,
    changed: BTreeSet<u32>,
}

impl Default for PagedSubscriptions {
    fn default() -> Self {
        Self { all: HashMap::new(), places: vec![Place::default()], changed: BTreeSet::new() }
    }
}

impl PagedSubscriptions {
    /// Those of a session that has so many pages, all of them empty for all we know. There are no more than there may be,
    /// whatever a record says.
    pub(crate) fn with_pages(pages: u32) -> Self {
        let mut this = Self::default();
        this.places.resize_with(1 + pages.min(PAGES_MAX) as usize, Place::default);
        this
    }

    /// Those that are stored, as far as they are `granted`, in the record and in the `count` of pages that it names. One in a
    /// page goes before one in the record: see [`Self::spill`].
    pub(crate) fn load(
        inline: Vec<StoredSubscription>,
        pages: BTreeMap<u32, PageRecord>,
        count: u32,
        mut granted: impl FnMut(&TopicFilter) -> bool,
    ) -> Self {
        let mut this = Self::with_pages(count);
        let inline = (RECORD, PageRecord { subscriptions: inline, ..PageRecord::default() });
        for (number, page) in pages.into_iter().chain([inline]) {
            let Some(place) = this.places.get_mut(number as usize) else { continue };
            place.rest = page.rest;
            for stored in page.subscriptions {
                let filter =
                    TopicFilter::new(stored.filter.as_str()).ok().filter(|filter| !this.all.contains_key(filter));
                match filter.filter(&mut granted) {
                    Some(filter) => this.place(filter, stored, number),
                    // It goes with the next write.
                    None => _ = this.changed.insert(number),
                }
            }
        }
        this
    }

    /// The subscription with a filter.
    pub(crate) fn get(&self, filter: &TopicFilter) -> Option<&StoredSubscription> {
        self.all.get(filter).map(|placed| &placed.stored)
    }

    /// Every subscription with its filter.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TopicFilter, &StoredSubscription)> {
        self.all.iter().map(|(filter, placed)| (filter, &placed.stored))
    }

    /// Every subscription.
    pub(crate) fn values(&self) -> impl Iterator<Item = &StoredSubscription> {
        self.all.values().map(|placed| &placed.stored)
    }

    /// Bytes that they take, all together.
    pub(crate) fn stored_len(&self) -> usize {
        self.places.iter().map(|place| place.len).sum()
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u32 {
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    /// A subscription is made, or replaced.
    pub(crate) fn insert(&mut self, filter: TopicFilter, stored: StoredSubscription) {
        let place = match self.all.get(&filter) {
            Some(placed) => placed.place,
            None => self.place_for(stored.stored_len()),
        };
        self.changed.insert(place);
        self.place(filter, stored, place);
    }

    /// A subscription is over. Returns whether there was one.
    pub(crate) fn remove(&mut self, filter: &TopicFilter) -> bool {
        let Some(Placed { place: number, len, .. }) = self.all.remove(filter) else { return false };
        self.changed.insert(number);
        if let Some(place) = self.places.get_mut(number as usize) {
            place.len -= len;
            if let Some(at) = place.filters.iter().position(|known| known == filter) {
                place.filters.swap_remove(at);
            }
        }
        true
    }

    /// Changes subscriptions, wherever `change` says that it has.
    pub(crate) fn change(&mut self, mut change: impl FnMut(&mut StoredSubscription) -> bool) {
        for placed in self.all.values_mut().filter_map(|placed| change(&mut placed.stored).then_some(placed)) {
            self.changed.insert(placed.place);
            let len = placed.stored.stored_len();
            if let Some(place) = self.places.get_mut(placed.place as usize) {
                place.len = place.len - placed.len + len;
            }
            placed.len = len;
        }
    }

    /// Whether something is not stored as it is here.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whether that is in a page.
    pub(crate) fn has_changed_pages(&self) -> bool {
        self.changed.last().is_some_and(|number| *number > RECORD)
    }

    /// What has changed is about to be written: whether the record is among it, and which pages.
    pub(crate) fn begin_write(&mut self) -> (bool, Vec<u32>) {
        let mut changed = std::mem::take(&mut self.changed);
        (changed.remove(&RECORD), changed.into_iter().collect())
    }

    /// Pages that were not written all the same.
    pub(crate) fn not_written(&mut self, pages: impl IntoIterator<Item = u32>) {
        self.changed.extend(pages);
    }

    /// What of them is in the record.
    pub(crate) fn inline(&self) -> Vec<StoredSubscription> {
        self.of_place(RECORD)
    }

    /// A page as it is to be written.
    pub(crate) fn page(&self, number: u32) -> PageRecord {
        let rest = self.places.get(number as usize).map(|place| place.rest.clone()).unwrap_or_default();
        PageRecord { subscriptions: self.of_place(number), rest, ..PageRecord::default() }
    }

    /// Bytes of the subscriptions in the record, or in a page.
    pub(crate) fn len_of(&self, number: u32) -> usize {
        self.places.get(number as usize).map_or(0, |place| place.len)
    }

    /// Moves into pages what is too much for the record, as version 1 has written it. Returns whether there was anything.
    ///
    /// Whoever does this writes the record with the number of the pages and with all that was in it, then the pages, and then
    /// the record without what is in them, before anything else is done: at each moment every subscription is stored.
    pub(crate) fn spill(&mut self) -> bool {
        if self.len_of(RECORD) <= 2 * PLACE_LEN {
            return false;
        }
        let mut filters = self.places.first().map(|place| place.filters.clone()).unwrap_or_default();
        filters.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let mut kept = 0;
        for filter in filters {
            let Some(placed) = self.all.get(&filter) else { continue };
            kept += placed.len;
            if kept > PLACE_LEN {
                let stored = placed.stored.clone();
                self.remove(&filter);
                // The record has room by now, which is for what comes later.
                let place = self.page_for(stored.stored_len());
                self.changed.insert(place);
                self.place(filter, stored, place);
            }
        }
        true
    }

    fn of_place(&self, number: u32) -> Vec<StoredSubscription> {
        let filters = self.places.get(number as usize).into_iter().flat_map(|place| &place.filters);
        let mut subscriptions: Vec<_> = filters.filter_map(|filter| self.get(filter).cloned()).collect();
        subscriptions.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
        subscriptions
    }

    /// The place for a new one of so many bytes: the record, or else a page.
    fn place_for(&mut self, len: usize) -> u32 {
        if self.len_of(RECORD) + len <= PLACE_LEN { RECORD } else { self.page_for(len) }
    }

    /// The first page that has room for one of so many bytes, or a new one, of which the record is to say that it is there.
    /// When there are as many as there may be, the last one takes it.
    fn page_for(&mut self, len: usize) -> u32 {
        let has_room = |place: &Place| place.filters.is_empty() || place.len + len <= PLACE_LEN;
        let at = match self.places.iter().skip(1).position(has_room) {
            Some(at) => at + 1,
            None if self.pages() >= PAGES_MAX => self.places.len() - 1,
            None => {
                self.places.push(Place::default());
                self.changed.insert(RECORD);
                self.places.len() - 1
            }
        };
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    fn place(&mut self, filter: TopicFilter, stored: StoredSubscription, number: u32) {
        let Some(place) = self.places.get_mut(number as usize) else { return };
        let len = stored.stored_len();
        place.len += len;
        match self.all.entry(filter) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                place.len -= entry.get().len;
                entry.insert(Placed { place: number, len, stored });
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                place.filters.push(entry.key().clone());
                entry.insert(Placed { place: number, len, stored });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options and what a subscription was owed before, at most.
    const GROWTH: usize = 256;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn stored(text: &str, qos: u8) -> StoredSubscription {
        StoredSubscription { filter: text.to_owned(), qos, since: 1_000_000, ..Default::default() }
    }

    /// What is in JetStream.
    #[derive(Clone, Debug, Default)]
    struct Written {
        inline: Vec<StoredSubscription>,
        count: u32,
        pages: BTreeMap<u32, PageRecord>,
    }

    impl Written {
        /// Writes what has changed. Returns the bytes.
        fn write(&mut self, paged: &mut PagedSubscriptions) -> usize {
            let (is_record, pages) = paged.begin_write();
            let mut bytes = 0;
            if is_record {
                (self.inline, self.count) = (paged.inline(), paged.pages());
                bytes += paged.len_of(RECORD);
            }
            for number in pages {
                let page = paged.page(number);
                bytes += serde_json::to_vec(&page).unwrap().len();
                self.pages.insert(number, page);
            }
            bytes
        }

        fn load(&self) -> PagedSubscriptions {
            PagedSubscriptions::load(self.inline.clone(), self.pages.clone(), self.count, |_| true)
        }
    }

    fn sorted(paged: &PagedSubscriptions) -> Vec<StoredSubscription> {
        let mut all: Vec<_> = paged.values().cloned().collect();
        all.sort_by(|a, b| a.filter.cmp(&b.filter));
        all
    }

    /// Numbers that a seed makes.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }
    }

    #[test]
    fn what_is_written_is_what_is_there_and_each_step_writes_a_few_kilobytes() {
        for seed in 0..100 {
            let (mut dice, mut paged, mut written) = (Dice(seed), PagedSubscriptions::default(), Written::default());
            let mut expected = BTreeMap::new();
            for step in 0..dice.below(1_000) {
                let number = dice.below(400);
                // The length belongs to the number, so that some are replaced.
                let text = format!("{number}/{}", "x".repeat(usize::try_from(number % 7 * 20).unwrap()));
                match u8::try_from(dice.below(4)).unwrap() {
                    3 => {
                        assert_eq!(paged.remove(&filter(&text)), expected.remove(&text).is_some());
                    }
                    qos => {
                        paged.insert(filter(&text), stored(&text, qos));
                        expected.insert(text.clone(), stored(&text, qos));
                    }
                }
                let bytes = written.write(&mut paged);
                assert!(bytes <= 2 * PLACE_LEN + 512, "seed {seed}, step {step}: {bytes}");
            }
            assert!((0..=paged.pages()).all(|place| paged.len_of(place) <= PLACE_LEN), "seed {seed}");
            let again = written.load();
            assert_eq!(sorted(&again), expected.into_values().collect::<Vec<_>>(), "seed {seed}");
            assert_eq!((again.pages(), again.stored_len()), (paged.pages(), paged.stored_len()), "seed {seed}");
            assert!(!again.is_changed() && !paged.is_changed(), "seed {seed}");
        }
    }

    #[test]
    fn a_typical_session_has_no_pages_and_what_does_not_fit_has_one_of_its_own() {
        let mut paged = PagedSubscriptions::default();
        for n in 0..40 {
            paged.insert(filter(&format!("home/room/{n}/+")), stored(&format!("home/room/{n}/+"), 1));
        }
        assert_eq!((paged.pages(), paged.begin_write()), (0, (true, vec![])));
        let long = "l".repeat(60_000);
        paged.insert(filter(&long), stored(&long, 1));
        assert_eq!((paged.pages(), paged.begin_write()), (1, (true, vec![1])));
        paged.insert(filter(&long), stored(&long, 2));
        assert_eq!(paged.begin_write(), (false, vec![1]), "the record says nothing new");
        // A page that is empty takes what comes; the record has nothing new to say then either.
        assert!(paged.remove(&filter(&long)) && !paged.remove(&filter(&long)));
        assert_eq!((paged.pages(), paged.begin_write()), (1, (false, vec![1])));
        paged.insert(filter(&long), stored(&long, 1));
        assert_eq!((paged.pages(), paged.begin_write()), (1, (false, vec![1])));
    }

    #[test]
    fn a_place_grows_by_what_is_replaced_in_it_and_takes_nothing_new_meanwhile() {
        let mut paged = PagedSubscriptions::default();
        let text = |n: usize| format!("{n:03}");
        for n in 0..500 {
            paged.insert(filter(&text(n)), stored(&text(n), 1));
        }
        let (pages, places) = (paged.pages(), |paged: &PagedSubscriptions| {
            paged.all.iter().map(|(filter, placed)| (filter.clone(), placed.place)).collect::<HashMap<_, _>>()
        });
        let (before, most) = (places(&paged), PLACE_LEN / stored("000", 1).stored_len());
        for n in 0..500 {
            let (no_local, retain_as_published, retain_handling, id) = (true, true, 2, Some(u32::MAX));
            let retained = Some(crate::store::StoredRetained { number: u64::MAX, up_to: u64::MAX });
            let more = StoredSubscription {
                no_local,
                retain_as_published,
                retain_handling,
                id,
                retained,
                since: u64::MAX,
                ..stored(&text(n), 2)
            };
            paged.insert(filter(&text(n)), more);
        }
        assert_eq!((paged.pages(), places(&paged)), (pages, before), "each stays where it is");
        assert!((0..=pages).all(|place| paged.len_of(place) <= PLACE_LEN + most * GROWTH));
        let full = paged.stored_len();
        paged.change(|stored| std::mem::take(&mut stored.no_local));
        assert!(paged.stored_len() < full);
        assert_eq!(paged.stored_len(), paged.values().map(StoredSubscription::stored_len).sum::<usize>());
    }

    #[test]
    fn what_version_1_has_written_is_moved_and_stored_at_each_moment() {
        let all: Vec<_> = (0..500).map(|n| stored(&format!("plant/line/{n:04}/sensor/+/state"), 1)).collect();
        let mut written = Written { inline: all.clone(), ..Written::default() };
        let expected = sorted(&written.load());
        // It is killed behind each write, and goes on from what is there.
        for step in 0.. {
            let mut paged = written.load();
            let is_spilt = paged.spill();
            assert_eq!(sorted(&paged), expected, "step {step}");
            if !is_spilt {
                assert!(step > 2 && paged.len_of(RECORD) <= 2 * PLACE_LEN && paged.pages() > 5);
                break;
            }
            written.count = paged.pages();
            let (_, pages) = paged.begin_write();
            for number in pages.into_iter().take(step) {
                written.pages.insert(number, paged.page(number));
            }
            assert_eq!(sorted(&written.load()), expected, "step {step}");
            if written.pages.len() == paged.pages() as usize {
                written.inline = paged.inline();
            }
        }
    }

    #[test]
    fn a_session_has_no_more_pages_than_may_be_read_whatever_its_record_says() {
        let mut paged = PagedSubscriptions::with_pages(u32::MAX);
        assert_eq!(paged.pages(), PAGES_MAX);
        for place in &mut paged.places {
            (place.filters, place.len) = (vec![filter("full")], PLACE_LEN);
        }
        paged.insert(filter("a"), stored("a", 1));
        assert_eq!((paged.pages(), paged.begin_write()), (PAGES_MAX, (false, vec![PAGES_MAX])));
    }

    #[test]
    fn what_is_not_granted_any_more_goes_with_the_next_write() {
        let page = PageRecord { subscriptions: vec![stored("b", 1), stored("c", 1)], ..PageRecord::default() };
        let pages = BTreeMap::from([(2, page)]);
        let mut paged = PagedSubscriptions::load(vec![stored("a", 1)], pages, 3, |filter| filter.as_str() != "b");
        assert_eq!((sorted(&paged).len(), paged.pages(), paged.is_changed()), (2, 3, true));
        assert_eq!(paged.begin_write(), (false, vec![2]));
        assert_eq!(paged.page(2).subscriptions, [stored("c", 1)]);
        let of_nobody =
            BTreeMap::from([(4, PageRecord { subscriptions: vec![stored("d", 1)], ..PageRecord::default() })]);
        let other = PagedSubscriptions::load(Vec::new(), of_nobody, 3, |_| true);
        assert_eq!((sorted(&other).len(), other.pages(), other.is_changed()), (0, 3, false), "no record names it");
        paged.not_written([2]);
        assert!(paged.has_changed_pages());
    }
}
