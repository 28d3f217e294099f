//! The tasks of one account.
//!
//! **Invariant:** whatever runs for an account runs here, so that closing it leaves nothing of it behind. A task ends by itself
//! or when the account is closed, wherever it waits then: what must not be cut there is an errand, or
//! ends otherwise, and a drain waits for it before the close.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The tasks of one account. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    tracker: TaskTracker,
    closing: CancellationToken,
    /// The same as `closing` to be read without its lock.
    is_closed: AtomicBool,
}

impl Tasks {
    /// Runs a future as a task until it ends, the account is closed, or the task is aborted. Once it is closed nothing runs.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = self.run(future);
        tokio::spawn(async move {
            running.await;
        })
    }

    /// Runs a future as a part of whichever task, until it ends or the account is closed: `None`. The close waits for it.
    pub(crate) fn run<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        let (token, shared) = (self.0.tracker.token(), Arc::clone(&self.0));
        // What runs is in memory once, and not a second time as what it was made of.
        let future = Box::pin(future);
        async move {
            // Goes last: who waits for it finds nothing left of the future.
            let _token = token;
            let mut future = future;
            let mut closing = pin!(shared.closing.cancelled());
            let mut woken: Option<Waker> = None;
            poll_fn(|cx| {
                if shared.is_closed.load(Ordering::Acquire) {
                    return Poll::Ready(None);
                }
                // Once is enough: the lock of the token is not for every turn of every task.
                if !woken.as_ref().is_some_and(|woken| woken.will_wake(cx.waker())) {
                    woken = Some(cx.waker().clone());
                    if closing.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                }
                future.as_mut().poll(cx).map(Some)
            })
            .await
        }
    }

    /// Has everything end that runs here and does not wait for it; nothing is begun any more.
    pub(crate) fn cancel(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.closing.cancel();
    }

    /// Waits until nothing runs here; more may begin.
    pub(crate) async fn idle(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// Ends everything that runs here, and waits until it has ended; not from a task that runs here. Once more is nothing.
    pub(crate) async fn close(&self) {
        self.cancel();
        self.idle().await;
    }
}

/// Has the tasks of an account end when it is dropped.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Tasks);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is to be finished before something else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errands(TaskTracker);

impl Errands {
    /// Begins with one, which is done when what this returns is dropped.
    pub(crate) fn begin(&self) -> Errand {
        Errand { _token: self.0.token() }
    }

    /// Waits until none is left.
    pub(crate) async fn done(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// Something that is to be finished.
#[derive(Debug)]
pub(crate) struct Errand {
    _token: TaskTrackerToken,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    /// Tells when it is dropped.
    struct Dropped(Arc<AtomicBool>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    async fn for_ever(_held: Dropped) {
        std::future::pending::<()>().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_close_ends_whatever_runs_wherever_it_waits_and_once_more_is_nothing() {
        let tasks = Tasks::default();
        let (began, has_begun) = oneshot::channel();
        let dropped: Vec<Arc<AtomicBool>> = (0..4).map(|_| Arc::default()).collect();
        let held = |n: usize| Dropped(Arc::clone(&dropped[n]));
        tasks.spawn(for_ever(held(0)));
        let busy = held(1);
        tasks.spawn(async move {
            let _busy = busy;
            let _ = began.send(());
            loop {
                tokio::task::yield_now().await;
            }
        });
        let (of_others, held_by_others) = (tasks.clone(), held(2));
        let others = tokio::spawn(async move { of_others.run(for_ever(held_by_others)).await });
        has_begun.await.unwrap();
        tasks.close().await;
        assert!(dropped[..2].iter().all(|dropped| dropped.load(Ordering::Relaxed)));
        assert_eq!(others.await.unwrap(), None);
        assert!(dropped[2].load(Ordering::Relaxed));
        let late = tasks.spawn(for_ever(held(3)));
        tasks.close().await;
        late.await.unwrap();
        assert!(dropped[3].load(Ordering::Relaxed), "nothing runs that comes later");
    }

    #[tokio::test]
    async fn what_ends_by_itself_or_is_aborted_is_not_waited_for() {
        let tasks = Tasks::default();
        assert_eq!(tasks.run(async { 7 }).await, Some(7));
        tasks.spawn(async {}).await.unwrap();
        let aborted = tasks.spawn(std::future::pending());
        tokio::task::yield_now().await;
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert!(tasks.0.tracker.is_empty());
        assert_eq!(tasks.close().now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_reaches_a_future_whose_waker_has_changed() {
        let tasks = Tasks::default();
        let mut running = Box::pin(tasks.run(std::future::pending::<()>()));
        // Polled by somebody else first, who is not there any more.
        assert_eq!(running.as_mut().now_or_never(), None);
        let waits = tokio::spawn(running);
        tokio::time::sleep(Duration::from_millis(1)).await;
        tasks.close().await;
        assert_eq!(waits.await.unwrap(), None);
    }

    #[tokio::test]
    async fn errands_are_waited_for_and_may_begin_again() {
        let errands = Errands::default();
        let errand = errands.begin();
        let mut done = Box::pin(errands.done());
        assert_eq!(done.as_mut().now_or_never(), None);
        let second = errands.begin();
        drop(errand);
        assert_eq!(done.as_mut().now_or_never(), None);
        drop(second);
        assert_eq!(done.now_or_never(), Some(()));
        drop(errands.begin());
        assert_eq!(errands.done().now_or_never(), Some(()));
    }
}
