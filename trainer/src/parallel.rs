//! Work on many samples, spread over the CPUs.

use std::{num::NonZero, thread};

use anyhow::Result;

/// Calls `work` for 0 to `count - 1` and gives the results in order. Each thread makes a state of its own first.
pub fn in_parallel<S, T: Send>(
    count: usize,
    state: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
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
