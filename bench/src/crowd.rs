//! Many things at the same time, but not all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many clients are at work at the same time, where nothing else is said.
pub(crate) const AT_ONCE: u64 = 64;

/// What was done of many things.
#[derive(Debug)]
pub(crate) struct Done<T> {
    wanted: u64,
    pub(crate) results: Vec<T>,
    /// Why not all of it was.
    pub(crate) failure: Option<String>,
}

impl<T> Done<T> {
    /// All of it, or why that is not to be had.
    pub(crate) fn all(self) -> Result<Vec<T>, String> {
        match self.failure {
            None if self.results.len() as u64 == self.wanted => Ok(self.results),
            None => Err(format!("only {} of {}", self.results.len(), self.wanted)),
            Some(why) => Err(format!("{why} (after {} of {})", self.results.len(), self.wanted)),
        }
    }

    /// What is missing, in words, when each of them brought `each` of what counts.
    pub(crate) fn shortfall(&self, each: u64) -> Option<String> {
        let done = self.results.len() as u64;
        let why = self.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        (done < self.wanted).then(|| format!("only {} of {}{why}", done * each, self.wanted * each))
    }
}

/// Does `each` for all numbers below `count`, `at_once` at the same time. After the first failure, or when `time` is over, nothing
/// new is begun.
pub(crate) async fn together<T, F, Fut>(count: u64, at_once: u64, time: Option<Duration>, each: F) -> Done<T>
where
    T: Send + 'static,
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<T, String>> + Send,
{
    let until = time.map(|time| Instant::now() + time);
    let (next, has_failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut workers = JoinSet::new();
    for _ in 0..at_once.min(count) {
        let (next, has_failed, each) = (next.clone(), has_failed.clone(), each.clone());
        workers.spawn(async move {
            let mut results = Vec::new();
            while !has_failed.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                match each(number).await {
                    Ok(result) => results.push(result),
                    Err(why) => {
                        has_failed.store(true, Ordering::Relaxed);
                        return (results, Some(why));
                    }
                }
            }
            (results, None)
        });
    }
    let mut done = Done { wanted: count, results: Vec::new(), failure: None };
    while let Some(worker) = workers.join_next().await {
        match worker {
            Ok((results, failure)) => {
                done.results.extend(results);
                done.failure = done.failure.or(failure);
            }
            Err(e) => done.failure = Some(format!("a client of the generator failed: {e}")),
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_number_is_done_once() {
        let done = together(1000, AT_ONCE, None, |i| async move { Ok(i) }).await;
        assert_eq!(done.shortfall(1), None);
        let mut all = done.all().unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_was_done_before_a_failure_stays() {
        let each = |i| async move { if i < 100 { Ok(i) } else { Err("full".to_owned()) } };
        let done = together(1000, AT_ONCE, None, each).await;
        assert_eq!(done.results.len(), 100);
        assert_eq!(done.shortfall(7).unwrap(), "only 700 of 7000: full");
        assert_eq!(done.all().unwrap_err(), "full (after 100 of 1000)");
    }

    #[tokio::test]
    async fn nothing_is_begun_when_time_is_over() {
        let done = together(10, AT_ONCE, Some(Duration::ZERO), |i| async move { Ok(i) }).await;
        assert_eq!(done.shortfall(1).unwrap(), "only 0 of 10");
    }
}
