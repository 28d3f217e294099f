//! What an ended connection had under way to a log and what arrives there late: behind what its client has published since,
//! over another connection. It was never acknowledged, and its client has sent it again, so it is nobody's.
//!
//! Such a message is marked with a token of its client and the epoch of its connection, and whoever reads a log remembers
//! where each epoch began in it. Pure: no I/O, no clock.

use std::collections::VecDeque;

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_ownership::Epoch;
use mqtt_session::Sequence;
use parking_lot::Mutex;

/// Epochs that are remembered, of one log: those of the clients that published last, most of which have one.
const EPOCHS_MAX: usize = 131_072;

/// Epochs that are remembered of one client: the last ones. Who reads from long ago meets one epoch behind the other, and has to
/// know those of that time also when the client has connected again and again since.
const EPOCHS_OF_CLIENT_MAX: usize = 64;

/// Stands for a client: [`proto_map::client_token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PublisherToken(pub(crate) u64);

/// Which connection of which client published a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublisherEpoch {
    /// Stands for the client.
    pub(crate) token: PublisherToken,
    /// Epoch of its connection.
    pub(crate) epoch: Epoch,
}

impl PublisherEpoch {
    /// As it stands in a header.
    pub(crate) fn to_text(self) -> ByteString {
        format!("{:x}.{:x}", self.token.0, self.epoch.0).into()
    }

    /// From a header. `None` when it is none.
    pub(crate) fn of_text(text: &str) -> Option<Self> {
        let (token, rest) = text.split_once('.')?;
        let (epoch, _seal) = rest.split_once('.').unwrap_or((rest, ""));
        Some(Self {
            token: PublisherToken(u64::from_str_radix(token, 16).ok()?),
            epoch: Epoch(u64::from_str_radix(epoch, 16).ok()?),
        })
    }
}

/// Where an epoch of a client begins in a log, as far as was read.
#[derive(Clone, Copy, Debug)]
struct Begun {
    epoch: Epoch,
    at: Sequence,
}

type Clients = HashMap<PublisherToken, VecDeque<Begun>>;

/// The epochs of those who have published into one log, as its readers see them.
///
/// **Invariant:** a message of an epoch that lies behind one of a later epoch of the same client is given to nobody.
#[derive(Debug, Default)]
pub(crate) struct EndedEpochs(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Those of late, and those before.
    young: Clients,
    old: Clients,
    /// How many epochs `young` has.
    young_len: usize,
}

impl EndedEpochs {
    /// A message of this connection lies at this sequence: whether it is late. Readers may come in any order. `is_genuine`:
    /// whether a sidecar says so, asked when an epoch is new here. Whoever copies what is said of an epoch that is known
    /// here changes nothing by it, and one that begins elsewhere has ended all those before everywhere.
    pub(crate) fn is_late(&self, of: PublisherEpoch, sequence: Sequence, is_genuine: impl FnOnce() -> bool) -> bool {
        let mut inner = self.0.lock();
        let (begun, young_len) = inner.of_client(of.token);
        if begun.iter().any(|other| other.epoch > of.epoch && other.at < sequence) {
            return true;
        }
        match begun.iter_mut().find(|known| known.epoch == of.epoch) {
            Some(known) => known.at = known.at.min(sequence),
            None if !is_genuine() => {}
            None => {
                let index = begun.partition_point(|known| known.epoch < of.epoch);
                begun.insert(index, Begun { epoch: of.epoch, at: sequence });
                if begun.len() > EPOCHS_OF_CLIENT_MAX {
                    begun.pop_front();
                } else {
                    *young_len += 1;
                }
            }
        }
        false
    }

    /// Sequences begin again.
    pub(crate) fn forget(&self) {
        *self.0.lock() = Inner::default();
    }
}

impl Inner {
    /// The epochs of a client, and how many there are of all.
    fn of_client(&mut self, token: PublisherToken) -> (&mut VecDeque<Begun>, &mut usize) {
        if !self.young.contains_key(&token) {
            // Each client of whom nothing is known is counted for one, so that nobody's token is free.
            if self.young_len.max(self.young.len()) >= EPOCHS_MAX / 2 {
                self.old = std::mem::take(&mut self.young);
                self.young_len = 0;
            }
            let begun = self.old.remove(&token).unwrap_or_default();
            self.young_len += begun.len();
            self.young.insert(token, begun);
        }
        (self.young.entry(token).or_default(), &mut self.young_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(token: u64, epoch: u64) -> PublisherEpoch {
        PublisherEpoch { token: PublisherToken(token), epoch: Epoch(epoch) }
    }

    #[test]
    fn what_comes_behind_a_later_epoch_of_its_client_is_late() {
        let epochs = EndedEpochs::default();
        assert!(!epochs.is_late(of(1, 5), Sequence(10), || true));
        assert!(!epochs.is_late(of(1, 6), Sequence(11), || true));
        assert!(epochs.is_late(of(1, 5), Sequence(12), || true));
        assert!(!epochs.is_late(of(1, 6), Sequence(13), || true));
        assert!(!epochs.is_late(of(2, 5), Sequence(14), || true), "another client");
    }

    #[test]
    fn who_reads_again_sees_the_same() {
        let epochs = EndedEpochs::default();
        let log = [(5, 10), (6, 11), (5, 12), (7, 13), (6, 14), (7, 15), (9, 16)];
        let read = |from: usize| -> Vec<bool> {
            log[from..]
                .iter()
                .map(|(epoch, sequence)| epochs.is_late(of(1, *epoch), Sequence(*sequence), || true))
                .collect()
        };
        let first = read(0);
        assert_eq!(first, [false, false, true, false, true, false, false]);
        for from in 0..log.len() {
            assert_eq!(read(from), first[from..], "from {from}");
        }
    }

    #[test]
    fn a_tail_that_begins_in_the_middle_learns_from_a_scan() {
        let epochs = EndedEpochs::default();
        assert!(!epochs.is_late(of(1, 7), Sequence(20), || true));
        assert!(!epochs.is_late(of(1, 5), Sequence(3), || true));
        assert!(!epochs.is_late(of(1, 6), Sequence(4), || true));
        assert!(epochs.is_late(of(1, 5), Sequence(5), || true));
        assert!(!epochs.is_late(of(1, 7), Sequence(6), || true), "it began earlier than was known");
        assert!(epochs.is_late(of(1, 6), Sequence(7), || true));
    }

    /// A sidecar that has read of a client's last connections reads of one from long before, for a session that was away.
    #[test]
    fn who_reads_from_long_ago_learns_of_that_time_whatever_came_since() {
        let epochs = EndedEpochs::default();
        for epoch in 10..40 {
            assert!(!epochs.is_late(of(1, epoch), Sequence(100 + epoch), || true));
        }
        assert!(!epochs.is_late(of(1, 2), Sequence(10), || true));
        assert!(epochs.is_late(of(1, 1), Sequence(11), || true));
    }

    #[test]
    fn what_somebody_else_says_of_an_epoch_counts_for_nothing() {
        let epochs = EndedEpochs::default();
        assert!(!epochs.is_late(of(1, 5), Sequence(10), || true));
        assert!(!epochs.is_late(of(1, u64::MAX), Sequence(11), || false));
        assert!(!epochs.is_late(of(1, 5), Sequence(12), || false), "it is known");
        assert!(!epochs.is_late(of(1, 6), Sequence(13), || true));
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let epochs = EndedEpochs::default();
        let all = || {
            let inner = epochs.0.lock();
            let count = |clients: &Clients| clients.values().map(VecDeque::len).sum::<usize>();
            assert_eq!(count(&inner.young), inner.young_len);
            count(&inner.young) + count(&inner.old)
        };
        for token in 0..3 * EPOCHS_MAX as u64 {
            epochs.is_late(of(token, 1), Sequence(token), || true);
        }
        assert!((EPOCHS_MAX / 2..=EPOCHS_MAX).contains(&all()));
        for epoch in 0..200 {
            epochs.is_late(of(1, epoch), Sequence(epoch), || true);
        }
        assert_eq!(epochs.0.lock().young[&PublisherToken(1)].len(), EPOCHS_OF_CLIENT_MAX);
        for token in 0..EPOCHS_MAX as u64 / 16 {
            (0..40).for_each(|epoch| {
                assert!(!epochs.is_late(of(token, epoch + 1_000), Sequence(token * 40 + epoch + 1_000), || true))
            });
        }
        assert!(all() <= EPOCHS_MAX);
        for token in 0..2 * EPOCHS_MAX as u64 {
            epochs.is_late(of(token, 1), Sequence(token), || false);
        }
        let inner = epochs.0.lock();
        assert!(inner.young.len() + inner.old.len() <= EPOCHS_MAX, "nor are there clients without an epoch");
    }

    #[test]
    fn the_header_says_what_it_was_made_of() {
        for of in [of(0, 0), of(u64::MAX, 1_790_000_000_000), of(0xABC, u64::MAX)] {
            assert_eq!(PublisherEpoch::of_text(&of.to_text()), Some(of));
        }
        assert_eq!(PublisherEpoch::of_text("a.b.00000001.seal"), Some(of(10, 11)));
        for text in ["", "1", ".", "1.", ".1", "x.1", "1.x.1", "1ffffffffffffffff.1"] {
            assert_eq!(PublisherEpoch::of_text(text), None, "{text}");
        }
    }
}
