//! What waits for one connection. Every lane has a limit; the [`Inbox`](super::Inbox) keeps to it. All of them together have their share
//! of the process's memory, which may be less.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_session::{Feed, FeedState, GONE, Position, Sequence};
use tokio::sync::Notify;

use super::mail::{InboxLimits, LogRestart, Outgoing};
use crate::account::delivery::retained::RetainedCursor;
use crate::account::delivery::segments::Segments;
use crate::overload::{Held, PROCESS};

/// The lanes of one inbox.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) qos0: Segments,
    pub(super) qos0_counts: [u64; 2],
    /// Of the log that is always there.
    pub(super) feed: Feed<Outgoing>,
    /// Of the others that it reads, by number.
    pub(super) others: Vec<(u16, Feed<Outgoing>)>,
    /// What shared subscriptions gave, with its position. No more than the window has room for.
    pub(super) shared: VecDeque<(Position, Outgoing)>,
    /// Wake those that give.
    pub(super) share_wakes: Vec<Arc<Notify>>,
    pub(super) retained: Vec<RetainedCursor>,
    /// Logs that go on elsewhere, which the session is to know before it gets more of them.
    pub(super) restarts: Vec<LogRestart>,
    pub(super) is_woken: bool,
    pub(super) is_closed: bool,
    /// Something that was taken from here was not written yet, as far as is known.
    pub(super) is_output_waiting: bool,
    /// What of the budget is held for all of this, but for the messages, which hold their own.
    pub(super) held: Held,
}

/// A feed may have so many bytes, however little memory there is.
const FEED_LEAST: usize = 16 * 1024;

/// What a message that waits costs beside itself.
const PLACE: usize = size_of::<Outgoing>() + 32;

impl Lanes {
    /// Nothing waits.
    pub(super) fn new(limits: InboxLimits) -> Self {
        Self {
            qos0: Segments::default(),
            qos0_counts: [0; 2],
            // The gates of its subscriptions say where each begins.
            feed: Feed::new(Sequence(0), limits.feed_messages, limits.feed_bytes),
            others: Vec::new(),
            shared: VecDeque::new(),
            share_wakes: Vec::new(),
            retained: Vec::new(),
            restarts: Vec::new(),
            is_woken: false,
            is_closed: false,
            is_output_waiting: false,
            held: Held::of(&PROCESS.budget),
        }
    }

    /// Bytes that wait here and nowhere else.
    fn own(&self) -> usize {
        self.qos0.own() + (self.in_feeds() + self.shared.len()) * PLACE
    }

    /// Messages in all feeds.
    fn in_feeds(&self) -> usize {
        self.feeds().map(|(_, feed)| feed.len()).sum()
    }

    /// Counts what is here.
    pub(super) fn count(&mut self) {
        let own = self.own();
        self.held.set(own);
    }

    /// Whether the session has nothing: then it may have one message, however little memory there is, and however large that is.
    /// Who reads gets on by that, and what others hold becomes less.
    fn is_idle(&self) -> bool {
        !self.is_output_waiting && self.qos0.is_empty() && self.shared.is_empty() && self.in_feeds() == 0
    }

    /// Whether there is memory for one more packet at QoS 0: `own` bytes of it are copied, and the others are somebody's.
    pub(super) fn has_memory_for(&mut self, own: usize, shared: usize) -> bool {
        if self.held.budget().is_full() && self.is_idle() {
            self.held.set(self.own() + own);
            return true;
        }
        // Who has the payload until now may be done with it.
        if shared > 0 && self.held.budget().is_full() {
            return false;
        }
        let own = self.own() + own;
        self.held.grow(own)
    }

    /// Gives up what waits at QoS 0; returns how many packets that was.
    pub(super) fn drop_qos0(&mut self) -> u64 {
        self.qos0 = Segments::default();
        let [count, _] = std::mem::take(&mut self.qos0_counts);
        self.count();
        count
    }

    /// Whether there is memory for a message of this weight. For a small one there is: who reads it gets along with few of them.
    pub(super) fn takes(&self, weight: usize) -> bool {
        weight <= FEED_LEAST || !self.held.budget().is_full() || self.is_idle()
    }

    /// Bytes that a feed may have now.
    fn feed_bytes(&self, limits: InboxLimits) -> usize {
        if self.is_closed { 0 } else { limits.feed_bytes.min(self.held.budget().share().max(FEED_LEAST)) }
    }

    /// Takes nothing more; what is queued is given up.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.qos0 = Segments::default();
        self.feed = Feed::new(Sequence::MAX, 0, 0);
        self.others = Vec::new();
        self.retained = Vec::new();
        self.shared = VecDeque::new();
        self.count();
    }

    /// Gives back memory that is not used.
    pub(super) fn release(&mut self) {
        self.qos0.release();
        self.feed.release();
        self.others.iter_mut().for_each(|(_, feed)| feed.release());
        self.shared.shrink_to_fit();
        self.share_wakes.shrink_to_fit();
        self.retained.shrink_to_fit();
    }

    /// The feed of a log. Of one that is new to the session it is live: the gates of its subscriptions say where each
    /// begins.
    pub(super) fn feed(&mut self, log: u16, limits: InboxLimits) -> &mut Feed<Outgoing> {
        let bytes = self.feed_bytes(limits);
        if log == 0 {
            self.feed.limit_bytes(bytes);
            return &mut self.feed;
        }
        let index = self.others.iter().position(|(number, _)| *number == log).unwrap_or_else(|| {
            let messages = if self.is_closed { 0 } else { limits.feed_messages };
            self.others.push((log, Feed::new(Sequence(0), messages, bytes)));
            self.others.len() - 1
        });
        let feed = &mut self.others[index].1;
        feed.limit_bytes(bytes);
        feed
    }

    /// A log goes on with the sequence `next`. What was read of it before stays, but has no place any more.
    pub(super) fn restart(&mut self, log: u16, next: Sequence, limits: InboxLimits) {
        if log != 0 && !self.others.iter().any(|(number, _)| *number == log) {
            return;
        }
        for (sequence, outgoing) in self.feed(log, limits).restart(next) {
            self.feed(GONE, limits).keep(sequence, outgoing);
        }
        self.restarts.push(LogRestart { log, next });
    }

    pub(super) fn feeds(&self) -> impl Iterator<Item = (u16, &Feed<Outgoing>)> {
        std::iter::once((0, &self.feed)).chain(self.others.iter().map(|(log, feed)| (*log, feed)))
    }

    pub(super) fn is_scanning(&self) -> bool {
        self.feeds().any(|(_, feed)| feed.is_scanned())
    }

    /// Whether a scan has so much room that it need not wait.
    pub(super) fn has_room_for_scan(&self) -> bool {
        self.feeds().any(|(_, feed)| feed.is_scanned() && feed.is_half_empty())
    }

    /// The places from which on the session is behind, in the logs in which there is room to catch up.
    pub(super) fn catching_up(&self) -> impl Iterator<Item = Position> {
        self.feeds().filter_map(|(log, feed)| match feed.state() {
            FeedState::Behind { next } if feed.is_half_empty() && self.restarts.is_empty() => {
                Some(Position::new(log, next))
            }
            _ => None,
        })
    }

    /// Up to `count` messages of all feeds, in the order in which they have come. **Invariant:** what is behind another message in
    /// this sidecar stays behind it, also when a topic has moved from one log to another.
    pub(super) fn pop(&mut self, count: usize, messages: &mut Vec<(Position, Outgoing)>) {
        let count = if self.restarts.is_empty() { count } else { 0 };
        for _ in 0..count {
            let Some((log, feed)) = self.first_feed() else { return };
            let Some((sequence, outgoing)) = feed.pop() else { return };
            messages.push((Position::new(log, sequence), outgoing));
        }
    }

    /// The feed whose next message came first.
    fn first_feed(&mut self) -> Option<(u16, &mut Feed<Outgoing>)> {
        if self.others.is_empty() {
            return Some((0, &mut self.feed));
        }
        let all = self.others.iter_mut().map(|(log, feed)| (*log, feed));
        let waiting = std::iter::once((0, &mut self.feed)).chain(all).filter_map(|(log, feed)| {
            let came = feed.front()?.message.came;
            Some((came, log, feed))
        });
        waiting.min_by_key(|(came, ..)| *came).map(|(_, log, feed)| (log, feed))
    }
}
