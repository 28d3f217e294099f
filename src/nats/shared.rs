//! What the task of a link and those who use it have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use futures_util::task::AtomicWaker;
use nats_wire::{Message, ServerInfo};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::counts::SkipReason;
use super::looks::Looks;
use super::options::{Event, LinkOptions};
use super::outgoing::Outgoing;
use super::queue::{Delivery, Entry, Pushed, Queue};
use super::requests::Requests;
use super::subscriptions::Table;

/// Whether a connection is up. `epoch` counts the connects, so that a reconnect that was faster than its observer is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) connected: bool,
    pub(crate) epoch: u64,
}

/// Locks are taken in the order of the fields, and none is held while anything of others is called.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: LinkOptions,
    pub(super) outgoing: Mutex<Outgoing>,
    pub(super) table: Mutex<Table>,
    pub(super) info: RwLock<Arc<ServerInfo>>,
    pub(super) requests: Requests,
    pub(super) looks: Mutex<Looks>,
    /// Id of the subscription for answers to requests; 0 before the first one.
    pub(super) answers_sid: AtomicU64,
    pub(super) payload_max: AtomicUsize,
    pub(super) overflows: AtomicU64,
    pub(super) state: watch::Sender<LinkState>,
    /// Nobody holds the link any more.
    pub(super) is_abandoned: AtomicBool,
    /// What waits is not to be written any more.
    pub(super) is_closed: AtomicBool,
    /// The link's task.
    pub(super) task: AtomicWaker,
    /// Somebody waits until there is room for more.
    pub(super) room: Notify,
}

/// What became of a message that was handed on.
pub(super) enum Handed {
    Done,
    /// To wake when all that has come was handed on.
    To(Arc<Queue>),
    /// The link has to wait until this queue has room.
    Stop(Arc<Entry>, Arc<Queue>, Message),
}

impl Shared {
    pub(super) fn new(options: LinkOptions) -> Arc<Self> {
        Arc::new(Self {
            requests: Requests::new(&options.inbox_prefix),
            looks: Mutex::new(Looks::new()),
            options,
            outgoing: Mutex::default(),
            table: Mutex::new(Table::new()),
            info: RwLock::default(),
            answers_sid: AtomicU64::new(0),
            payload_max: AtomicUsize::new(0),
            overflows: AtomicU64::new(0),
            state: watch::Sender::new(LinkState::default()),
            is_abandoned: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            task: AtomicWaker::new(),
            room: Notify::new(),
        })
    }

    /// A connection stands: the subscriptions are the first that it hears of.
    pub(super) fn connected(&self, info: ServerInfo) {
        self.learn(info);
        {
            let mut outgoing = self.outgoing.lock();
            outgoing.close();
            outgoing.is_open = true;
            for (sid, entry) in self.table.lock().in_order() {
                // It could be sent when it was made.
                let _ = outgoing.subscribe(&entry.subject, entry.group.as_deref(), sid);
            }
        }
        self.state.send_modify(|state| {
            state.connected = true;
            state.epoch += 1;
        });
        self.room.notify_waiters();
        self.emit(Event::Connected);
    }

    /// The connection is lost, and with it whatever was on its way.
    pub(super) fn lost(&self, why: &str) {
        self.outgoing.lock().close();
        self.requests.lose();
        self.state.send_modify(|state| state.connected = false);
        self.room.notify_waiters();
        self.emit(Event::Disconnected(why));
    }

    /// The link has ended: who reads reads what is there, and no more.
    pub(super) fn end(&self) {
        for (_, entry) in self.table.lock().in_order() {
            if let Delivery::Queue(queue) = &entry.delivery {
                queue.close();
            }
        }
    }

    /// The server says something of itself.
    pub(super) fn learn(&self, info: ServerInfo) {
        self.payload_max.store(info.max_payload, Ordering::Relaxed);
        self.outgoing.lock().payload_max = info.max_payload;
        *self.info.write() = Arc::new(info);
    }

    /// Hands a message to whoever reads its subscription.
    pub(super) fn hand_on(&self, message: Message) -> Handed {
        let entry = self.table.lock().get(message.sid()).cloned();
        // Of a subscription that has ended.
        let Some(entry) = entry else { return Handed::Done };
        self.hand_to(entry, message)
    }

    pub(super) fn hand_to(&self, entry: Arc<Entry>, message: Message) -> Handed {
        let Delivery::Queue(queue) = &entry.delivery else {
            self.requests.arrived(message);
            return Handed::Done;
        };
        match queue.push(&entry, message) {
            Pushed::Waits => Handed::To(Arc::clone(queue)),
            Pushed::Closed => Handed::Done,
            Pushed::Dropped => {
                self.overflows.fetch_add(1, Ordering::Relaxed);
                self.options.counts.overflowed();
                self.emit(Event::Overflow);
                Handed::Done
            }
            Pushed::Stop(message) => {
                let queue = Arc::clone(queue);
                Handed::Stop(entry, queue, message)
            }
        }
    }

    /// A message was left out by the decoder.
    pub(super) fn skipped(&self, why: nats_wire::Skipped) {
        self.options.counts.skipped(match why {
            nats_wire::Skipped::Arguments => SkipReason::Arguments,
            nats_wire::Skipped::TooLarge => SkipReason::TooLarge,
        });
    }

    pub(super) fn emit(&self, event: Event<'_>) {
        (self.options.on_event)(event);
    }
}
