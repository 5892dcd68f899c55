//! Work on many samples, spread over the CPUs.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::Result;

/// How many threads can run side by side.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Calls `work` for 0 to `count - 1` and gives the results in order. Each thread makes a state of its own first.
pub fn in_parallel<S, T: Send>(
    count: usize,
    state: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = cpus();
    let share = count.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let (state, work) = (&state, &work);
        let workers: Vec<_> = (0..count)
            .step_by(share)
            .map(|first| {
                scope.spawn(move || {
                    let mut state = state()?;
                    (first..count.min(first + share))
                        .map(|at| work(&mut state, at))
                        .collect::<Result<Vec<T>>>()
                })
            })
            .collect();
        let mut results = Vec::with_capacity(count);
        for worker in workers {
            match worker.join() {
                Ok(part) => results.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(results)
    })
}

/// Calls `work` for 0 to `count - 1` on threads of its own, and gives the results in order, whatever the number of
/// threads. At most `ahead` results are there at a time, those that are being made included.
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

/// Results of [`ahead`]. The threads end with it.
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
    /// A result was made or taken, or it is time to stop.
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// Numbers below this were given to threads.
    claimed: usize,
    /// Results below this were taken away.
    taken: usize,
    results: HashMap<usize, T>,
    stopped: bool,
}

impl<T> Shared<T> {
    fn work(&self, count: usize, ahead: usize, work: &impl Fn(usize) -> T) {
        // Whoever waits for a result must not wait for a thread that has panicked.
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
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [1, 2, 7] {
            // Later ones are quicker.
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
    fn no_more_results_wait_than_was_said() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut results = ahead(1000, 4, 6, move |_| counter.fetch_add(1, Ordering::SeqCst));
        results.next();
        thread::sleep(Duration::from_millis(50));
        let found = begun.load(Ordering::SeqCst);
        assert!(found <= 7, "{found} are there");
        drop(results);
        assert!(begun.load(Ordering::SeqCst) <= 7, "the threads have ended");
    }

    #[test]
    #[should_panic(expected = "number 3")]
    fn a_panic_is_passed_on() {
        let work = |at: usize| assert!(at != 3, "number {at}");
        ahead(10, 2, 4, work).for_each(drop);
    }
}
