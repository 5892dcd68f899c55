//! The number of usable CPUs, and the threads for decoding and tokenising.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Least work whose time is measured, and the weight of a new measurement in the moving average.
const LEAST_MEASURED: u64 = 4096;
const NEWEST_PART: f64 = 0.2;

/// CPUs that this process may use, from the affinity mask and the cgroup quota (v1 and v2).
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Threads for work that would block the threads that serve connections: decoding, tokenising,
/// parsing long JSON.
///
/// The process has one set of threads, which all [`Pool`]s share. A clone is another handle to the
/// same threads; they end with the last handle.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when work may be runnable.
    changed: Condvar,
    /// Most pieces of one pool that run at a time.
    most_of_a_pool: usize,
    memory_limit: u64,
}

#[derive(Debug, Default)]
struct State {
    pools: BTreeMap<u64, Line>,
    /// The pools in round-robin order.
    turns: VecDeque<u64>,
    next_id: u64,
    running: usize,
    memory: u64,
    closed: bool,
}

/// The queue of one pool.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Piece>,
    running: usize,
    /// Work of the running and the waiting pieces.
    queued: u64,
    /// Work of the admitted requests that have not ended.
    admitted: u64,
    /// Seconds per unit of work, once measured.
    pace: Option<f64>,
}

struct Piece {
    id: u64,
    cost: Cost,
    work: Box<dyn FnOnce() + Send>,
}

/// The cost of a piece of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// In units that are comparable within a pool, such as pixels. 0: negligible.
    pub work: u64,
    /// Peak memory in bytes.
    pub memory: u64,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Piece")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Running pieces of work.
    pub running: usize,
    /// Waiting pieces of work.
    pub waiting: usize,
    /// Bytes reserved by the running pieces.
    pub memory: u64,
    pub memory_limit: u64,
}

impl Workers {
    /// Starts one thread more than `cpus`, so that a pool that uses all CPUs does not block the
    /// others. Running pieces may take `memory_limit` bytes together.
    pub fn start(cpus: usize, memory_limit: u64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            most_of_a_pool: cpus,
            memory_limit,
        });
        // Created first: if a thread cannot be started, dropping it ends the others.
        let workers = Self(Arc::new(Owner {
            shared: Arc::clone(&shared),
        }));
        for _ in 0..=cpus {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("decode".to_owned())
                .spawn(move || shared.work())?;
        }
        Ok(workers)
    }

    /// A pool in which at most `max_waiting` pieces of work wait.
    pub fn pool(&self, max_waiting: usize) -> Pool {
        let mut state = self.0.shared.lock();
        let id = state.take_id();
        state.pools.insert(id, Line::default());
        state.turns.push_back(id);
        drop(state);
        Pool {
            id,
            max_waiting,
            workers: self.clone(),
        }
    }

    pub fn usage(&self) -> Usage {
        let state = self.0.shared.lock();
        Usage {
            running: state.running,
            waiting: state.pools.values().map(|line| line.waiting.len()).sum(),
            memory: state.memory,
            memory_limit: self.0.shared.memory_limit,
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No work runs under the lock, so the state is consistent even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Main function of a thread.
    fn work(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some((pool, piece)) = state.take(self.memory_limit, self.most_of_a_pool) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            // Another thread checks for more work. It finds none if the waiting pieces may not run
            // yet.
            self.changed.notify_one();
            let began = Instant::now();
            (piece.work)();
            let took = began.elapsed();
            state = self.lock();
            state.running -= 1;
            state.memory -= piece.cost.memory;
            if let Some(line) = state.pools.get_mut(&pool) {
                line.running -= 1;
                line.queued -= piece.cost.work;
                line.measure(piece.cost.work, took);
            }
        }
    }
}

impl Line {
    /// Adds a measurement to the moving average. Short work is too imprecise.
    fn measure(&mut self, work: u64, took: Duration) {
        if work < LEAST_MEASURED {
            return;
        }
        let pace = took.as_secs_f64() / work as f64;
        self.pace = Some(self.pace.map_or(pace, |mean| mean + NEWEST_PART * (pace - mean)));
    }
}

impl State {
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Takes the next piece that may run, from the pools in turn.
    ///
    /// A piece waits until there is enough memory, and later pieces that need memory wait behind
    /// it: otherwise small pieces could delay a large one forever.
    fn take(&mut self, memory_limit: u64, most_of_a_pool: usize) -> Option<(u64, Piece)> {
        let mut left = memory_limit.saturating_sub(self.memory);
        for turn in 0..self.turns.len() {
            let pool = self.turns[turn];
            let Some(line) = self.pools.get_mut(&pool) else {
                continue;
            };
            if line.running >= most_of_a_pool {
                continue;
            }
            let Some(first) = line.waiting.front() else {
                continue;
            };
            if first.cost.memory > left {
                left = 0;
                continue;
            }
            let piece = line.waiting.pop_front()?;
            line.running += 1;
            self.running += 1;
            self.memory += piece.cost.memory;
            self.turns.remove(turn);
            self.turns.push_back(pool);
            return Some((pool, piece));
        }
        None
    }
}

/// A queue of work for the [`Workers`]. Runs at most one piece per CPU at a time, in turn with the
/// other pools.
#[derive(Debug)]
pub struct Pool {
    id: u64,
    max_waiting: usize,
    workers: Workers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolError {
    /// Too many pieces are waiting.
    Full,
    /// The piece needs more bytes than all work together may use.
    TooLarge {
        memory: u64,
        limit: u64,
    },
    /// The waiting work takes until after the deadline.
    Late {
        wait: Duration,
    },
    Panicked,
}

impl Pool {
    /// Runs `work`, which needs little memory.
    ///
    /// Dropping the future withdraws work that has not begun. Work that has begun occupies its
    /// thread until it ends.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        self.run_at(Cost::default(), work).await
    }

    /// Runs `work` of a known cost, once its memory is available.
    pub async fn run_at<T: Send + 'static>(
        &self,
        cost: Cost,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (done, result) = oneshot::channel();
        let queued = self.queue(
            cost,
            Box::new(move || {
                if done.is_closed() {
                    return;
                }
                let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| PoolError::Panicked);
                let _ = done.send(result);
            }),
        )?;
        let result = result.await;
        drop(queued);
        // The sender is dropped without a result only at the end of the process.
        result.map_err(|_| PoolError::Panicked)?
    }

    /// Pieces of this pool that run at a time. A request should not queue more at once.
    pub fn most_at_a_time(&self) -> usize {
        self.workers.0.shared.most_of_a_pool
    }

    /// Refuses the pieces of a request if they would not be done by `deadline`. Else their work
    /// counts for later requests until the result is dropped.
    ///
    /// The caller must queue at most [`Self::most_at_a_time`] pieces together.
    pub fn admit(&self, pieces: &[Cost], deadline: tokio::time::Instant) -> Result<Admitted<'_>, PoolError> {
        let shared = &self.workers.0.shared;
        let at_a_time = shared.most_of_a_pool;
        let work: u64 = pieces.iter().map(|cost| cost.work).sum();
        let mut state = shared.lock();
        let line = state.pools.entry(self.id).or_default();
        // Each round waits for the work queued before it, but all rounds together wait for no more
        // than the admitted work.
        let rounds = pieces.len().div_ceil(at_a_time) as u64;
        let before = line.queued.saturating_mul(rounds).min(line.admitted);
        if let Some(pace) = line.pace.filter(|_| before > 0) {
            let seconds = (before + work) as f64 * pace / at_a_time as f64;
            let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            if wait > deadline.saturating_duration_since(tokio::time::Instant::now()) {
                return Err(PoolError::Late { wait });
            }
        }
        line.admitted += work;
        Ok(Admitted { pool: self, work })
    }

    fn queue(&self, cost: Cost, work: Box<dyn FnOnce() + Send>) -> Result<Queued<'_>, PoolError> {
        let shared = &self.workers.0.shared;
        let (memory, limit) = (cost.memory, shared.memory_limit);
        if memory > limit {
            return Err(PoolError::TooLarge { memory, limit });
        }
        let mut state = shared.lock();
        let id = state.take_id();
        let line = state.pools.entry(self.id).or_default();
        if line.waiting.len() + line.running >= self.max_waiting + shared.most_of_a_pool {
            return Err(PoolError::Full);
        }
        line.queued += cost.work;
        line.waiting.push_back(Piece { id, cost, work });
        drop(state);
        shared.changed.notify_one();
        Ok(Queued { pool: self, id })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // No piece is waiting, because a waiting future borrows the pool.
        let mut state = self.workers.0.shared.lock();
        state.pools.remove(&self.id);
        state.turns.retain(|pool| *pool != self.id);
    }
}

/// Counts the work of a request until dropped.
#[derive(Debug)]
pub struct Admitted<'a> {
    pool: &'a Pool,
    work: u64,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.workers.0.shared.lock();
        if let Some(line) = state.pools.get_mut(&self.pool.id) {
            line.admitted -= self.work;
        }
    }
}

/// Withdraws a piece of work when dropped, unless it has begun.
struct Queued<'a> {
    pool: &'a Pool,
    id: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let shared = &self.pool.workers.0.shared;
        let taken_back = {
            let mut state = shared.lock();
            state.pools.get_mut(&self.pool.id).and_then(|line| {
                let at = line
                    .waiting
                    .binary_search_by_key(&self.id, |piece| piece.id)
                    .ok()?;
                let piece = line.waiting.remove(at)?;
                line.queued -= piece.cost.work;
                Some(piece)
            })
        };
        if taken_back.is_some() {
            // Other pieces may have been waiting behind it.
            shared.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
