//! Signatures of users who come at the same time are verified together, which takes half of what one by one does (ADR 28).
//!
//! **Invariant:** nobody waits for others to come: when what was ready has had a turn, whoever is there is verified.
//!
//! **Invariant:** whoever waits is answered, whoever else goes: each verifies those who are there, unless somebody else has done so, and
//! nobody goes in the middle of it.
//!
//! **Invariant:** nothing is left of whoever goes, though nobody may come who would find it.

use std::collections::VecDeque;

use mqtt_access::jwt::{Refusal, UnverifiedUserJwt, UserJwt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::yield_now;

/// So many are verified together. With one among them that is wrong it takes half a millisecond, in which nothing else runs on the thread;
/// twice as many would take a fifth less each.
const TOGETHER_MAX: usize = 8;

/// Verifies users: those who wait, and whom nobody verifies yet.
#[derive(Debug, Default)]
pub(super) struct Verifying(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// By their numbers, the lowest first.
    waiting: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    user: UnverifiedUserJwt,
    answer: oneshot::Sender<Result<UserJwt, Refusal>>,
}

/// A place in the queue, which is empty when this is dropped.
struct Place<'a> {
    verifying: &'a Verifying,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.verifying.0.lock().waiting;
        if let Ok(index) = waiting.binary_search_by_key(&self.number, |waiter| waiter.number) {
            waiting.remove(index);
        }
    }
}

impl Verifying {
    /// A user, if its issuer has signed its JWT. `None`: who was to verify it has come to a bad end.
    pub(super) async fn verified(&self, user: UnverifiedUserJwt) -> Option<Result<UserJwt, Refusal>> {
        let (answer, mut answered) = oneshot::channel();
        let _place = self.wait(user, answer);
        loop {
            // Others that are ready have a turn: there may be more to verify then, or somebody else has done it.
            yield_now().await;
            match answered.try_recv() {
                Ok(user) => return Some(user),
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) => {}
            }
            let together = self.take();
            if together.is_empty() {
                return answered.await.ok();
            }
            verify(together);
            if let Ok(user) = answered.try_recv() {
                return Some(user);
            }
        }
    }

    fn wait(&self, user: UnverifiedUserJwt, answer: oneshot::Sender<Result<UserJwt, Refusal>>) -> Place<'_> {
        let mut queue = self.0.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back(Waiter { number, user, answer });
        Place { verifying: self, number }
    }

    /// Those who are to be verified next.
    fn take(&self) -> Vec<Waiter> {
        let waiting = &mut self.0.lock().waiting;
        let count = waiting.len().min(TOGETHER_MAX);
        waiting.drain(..count).collect()
    }
}

fn verify(together: Vec<Waiter>) {
    let (users, answers): (Vec<_>, Vec<_>) = together.into_iter().map(|waiter| (waiter.user, waiter.answer)).unzip();
    for (answer, user) in answers.into_iter().zip(UnverifiedUserJwt::all_verified(users)) {
        // It has gone meanwhile.
        let _ = answer.send(user);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use futures_util::future::{BoxFuture, join_all};
    use mqtt_access::jwt::JwtError;
    use serde_json::json;
    use tokio::task::JoinSet;

    use super::*;
    use crate::mint::World;

    const WRONG: Refusal = Refusal::Jwt(JwtError::Signature);

    /// A user who has this name, or whose signature is another one's.
    fn user(number: usize, is_right: bool) -> UnverifiedUserJwt {
        let named = |name: &str| World::numbered(0, 0, 1_700_000_000).over_user(&json!({ "name": name })).user_jwt();
        let jwt = named(&number.to_string());
        let other = named("another");
        let signature = if is_right { &jwt } else { &other }.rsplit_once('.').unwrap().1;
        UnverifiedUserJwt::read(&format!("{}.{signature}", jwt.rsplit_once('.').unwrap().0)).unwrap()
    }

    #[tokio::test]
    async fn each_of_those_who_come_together_has_its_own_answer() {
        let verifying = Verifying::default();
        for count in [1, 2, TOGETHER_MAX, 2 * TOGETHER_MAX + 3] {
            for wrong in [None, Some(0), Some(count / 2), Some(count - 1)] {
                let users = (0..count).map(|number| verifying.verified(user(number, Some(number) != wrong)));
                let answers = join_all(users).await;
                for (number, answer) in answers.into_iter().enumerate() {
                    let name = answer.unwrap().map(|user| user.name().to_owned());
                    let expected = if Some(number) == wrong { Err(WRONG) } else { Ok(number.to_string()) };
                    assert_eq!(name, expected, "{number} of {count}, wrong is {wrong:?}");
                }
            }
        }
        assert!(verifying.0.lock().waiting.is_empty());
    }

    /// Five who have had their first turn.
    fn five_wait(verifying: &Verifying) -> Vec<BoxFuture<'_, Option<Result<UserJwt, Refusal>>>> {
        let mut waits: Vec<_> = (0..5).map(|number| verifying.verified(user(number, true)).boxed()).collect();
        assert!(waits.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        waits
    }

    #[tokio::test]
    async fn who_comes_before_the_first_is_verified_is_verified_along_and_who_goes_takes_nobody_along() {
        let verifying = Verifying::default();
        let mut waits = five_wait(&verifying);
        assert_eq!(verifying.0.lock().waiting.len(), 5);
        // The first one, and one in between.
        drop(waits.remove(3));
        drop(waits.remove(0));
        let before = mqtt_access::signatures_verified();
        let answers = join_all(waits).await;
        assert!(answers.iter().all(|answer| matches!(answer, Some(Ok(_)))), "{answers:?}");
        // Other tests verify as well.
        assert!(mqtt_access::signatures_verified() >= before + 3);
        assert!(verifying.0.lock().waiting.is_empty());
        assert!(verifying.verified(user(0, true)).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn nothing_is_left_when_all_go() {
        let verifying = Verifying::default();
        let mut waits = five_wait(&verifying);
        for left in (0..5).rev() {
            drop(waits.remove(left / 2));
            assert_eq!(verifying.0.lock().waiting.len(), left);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_threads_answer_everybody_while_others_go() {
        let verifying = Arc::new(Verifying::default());
        let tasks: JoinSet<_> = (0..400)
            .map(|number| {
                let (verifying, user) = (Arc::clone(&verifying), user(number, number % 7 != 0));
                async move {
                    let verified = verifying.verified(user);
                    if number % 5 == 0 {
                        // It goes at its first turn, or its second.
                        let turns = if number % 2 == 0 { 1 } else { 2 };
                        let gone = async {
                            for _ in 0..turns {
                                yield_now().await;
                            }
                        };
                        tokio::select! { biased; _ = verified => {}, () = gone => {} }
                        return;
                    }
                    assert_eq!(verified.await.unwrap().is_ok(), number % 7 != 0, "{number}");
                }
            })
            .collect();
        tasks.join_all().await;
        assert!(verifying.0.lock().waiting.is_empty());
    }
}
