//! Work on many samples at once.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::Result;
use rayon::prelude::*;

/// The number of threads that can run at the same time.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Calls `work` for 0 to `count - 1` on all CPUs and returns the results in order. Each CPU does
/// one contiguous part and first creates a state for it. (Rayon's `map_init` would create a state
/// whenever a thread steals work, which is too often for a state that loads a model.) If several
/// calls fail, the error is that of one of them.
pub fn in_parallel<S, T: Send>(
    count: usize,
    state: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let share = count.div_ceil(cpus()).max(1);
    let parts = (0..count.div_ceil(share)).into_par_iter().map(|part| {
        let mut state = state()?;
        let first = part * share;
        (first..count.min(first + share))
            .map(|at| work(&mut state, at))
            .collect::<Result<Vec<T>>>()
    });
    let parts: Result<Vec<Vec<T>>> = parts.collect();
    Ok(parts?.into_iter().flatten().collect())
}

/// Calls `work` for 0 to `count - 1` on `threads` threads and returns an iterator over the results,
/// in order. The threads work ahead of the iterator by at most `ahead` results, including those
/// under way, which bounds the memory.
///
/// Rayon has no ordered iterator with such a bound: `par_bridge` gives results in any order, and a
/// parallel iterator that is collected holds all of them.
pub fn ahead<T: Send + 'static>(
    count: usize,
    threads: usize,
    ahead: usize,
    work: impl Fn(usize) -> T + Send + Sync + 'static,
) -> Ahead<T> {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            claimed: 0,
            taken: 0,
            results: HashMap::new(),
            stopped: false,
        }),
        changed: Condvar::new(),
    });
    let work = Arc::new(work);
    let workers = (0..threads.clamp(1, count.max(1)))
        .map(|_| {
            let (shared, work) = (Arc::clone(&shared), Arc::clone(&work));
            thread::spawn(move || shared.work(count, ahead.max(1), work.as_ref()))
        })
        .collect();
    Ahead {
        shared,
        count,
        given: 0,
        workers,
    }
}

/// The iterator that [`ahead`] returns. Dropping it ends the threads.
#[derive(Debug)]
pub struct Ahead<T> {
    shared: Arc<Shared<T>>,
    count: usize,
    given: usize,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Notified when a result is added or taken, and when the threads must stop.
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// The threads have begun the results below this number.
    claimed: usize,
    /// The iterator has returned the results below this number.
    taken: usize,
    results: HashMap<usize, T>,
    stopped: bool,
}

impl<T> Shared<T> {
    fn work(&self, count: usize, ahead: usize, work: &impl Fn(usize) -> T) {
        // The iterator must not wait for a thread that has panicked.
        let _stop = StopOnPanic(self);
        loop {
            let at = {
                let full = |state: &mut State<T>| {
                    !state.stopped && state.claimed < count && state.claimed >= state.taken + ahead
                };
                let state = self.lock();
                let mut state = self
                    .changed
                    .wait_while(state, full)
                    .unwrap_or_else(PoisonError::into_inner);
                if state.stopped || state.claimed == count {
                    return;
                }
                state.claimed += 1;
                state.claimed - 1
            };
            let result = work(at);
            self.lock().results.insert(at, result);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

struct StopOnPanic<'a, T>(&'a Shared<T>);

impl<T> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

impl<T> Ahead<T> {
    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join()
                && !thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.given == self.count {
            return None;
        }
        let given = self.given;
        let result = {
            let missing = |state: &mut State<T>| !state.stopped && !state.results.contains_key(&given);
            let state = self.shared.lock();
            let mut state = self
                .shared
                .changed
                .wait_while(state, missing)
                .unwrap_or_else(PoisonError::into_inner);
            state.taken = given + 1;
            state.results.remove(&given)
        };
        self.shared.changed.notify_all();
        self.given += 1;
        if result.is_none() {
            self.join();
        }
        result
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.shared.stop();
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[test]
    fn every_part_has_its_own_state_and_results_keep_their_order() {
        for count in [0, 1, 3, 1000] {
            let counted = |calls: &mut usize, at: usize| {
                *calls += 1;
                Ok((at, *calls))
            };
            let results = in_parallel(count, || Ok(0), counted).unwrap();
            assert!(results.iter().map(|result| result.0).eq(0..count));
            let states = results.iter().filter(|result| result.1 == 1).count();
            assert!(states <= cpus(), "{states} states");
        }
        let failing = |(): &mut (), at: usize| {
            anyhow::ensure!(at != 7, "number {at}");
            Ok(at)
        };
        assert_eq!(
            in_parallel(100, || Ok(()), failing).unwrap_err().to_string(),
            "number 7"
        );
    }

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [1, 2, 7] {
            // Later results take less time.
            let work = |at: usize| {
                thread::sleep(Duration::from_micros(300_u64.saturating_sub(at as u64 * 3)));
                at * at
            };
            let results: Vec<usize> = ahead(100, threads, 5, work).collect();
            assert_eq!(results, (0..100).map(|at| at * at).collect::<Vec<_>>());
        }
        assert_eq!(ahead(0, 3, 5, |at| at).count(), 0);
    }

    #[test]
    fn threads_work_ahead_only_up_to_the_limit() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut results = ahead(1000, 4, 6, move |_| counter.fetch_add(1, Ordering::SeqCst));
        results.next();
        thread::sleep(Duration::from_millis(50));
        let found = begun.load(Ordering::SeqCst);
        assert!(found <= 7, "{found} results");
        drop(results);
        assert!(begun.load(Ordering::SeqCst) <= 7, "the threads have ended");
    }

    #[test]
    #[should_panic(expected = "number 3")]
    fn the_iterator_passes_a_panic_on() {
        let work = |at: usize| assert!(at != 3, "number {at}");
        ahead(10, 2, 4, work).for_each(drop);
    }
}
