mod state;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;
use std::{fmt, mem};

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use self::state::{Claimed, Formed, Idle, Next, Recipient};
use self::state::{Running, State};
use crate::caller_runs::{CallersToCome, GiveWay, Phase, give_way_to_tokio_tasks};
use crate::inner::InnerService;
use crate::message::Message;
use crate::policy::{Taken, Waiting, WaitingList};
use crate::reservation::ReservedWeight;
use crate::sync::{AtomicU32, Mutex, MutexGuard, lock};
use crate::ticket::Ticket;
use crate::{BatchService, CallerRunsWorker, Error, Limits, Refusal, Submission, Worker};

/// The queue between a [`BatchService`] and its [`Worker`]s. A clone is another handle to the same
/// queue.
///
/// Make a queue yourself, rather than with [`BatchService::pair`], for more than one worker, for
/// [`CallerRunsWorker`]s, to [reserve](Queue::reserve) room, or to [close](Queue::close) it.
///
/// ```
/// use batching::{Batch, Limits, Queue, Submission};
/// use tower::Service;
///
/// // One thread for each of two inner services that block while they run.
/// let queue = Queue::<u64, u64, String>::new(Limits::new(16, 256));
/// let threads = [1, 2].map(|_| {
///     let worker = queue.worker(tower::service_fn(|batch: Batch<u64>| {
///         let outputs = batch.inputs.iter().map(|n| Ok(n + 1)).collect::<Vec<_>>();
///         std::future::ready(Ok::<_, String>(outputs))
///     }));
///     std::thread::spawn(move || {
///         let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
///         runtime.block_on(worker)
///     })
/// });
///
/// let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let reply = runtime.block_on(queue.service().call(Submission::new(41)));
/// assert_eq!(reply.unwrap().output, 42);
///
/// queue.close();
/// for thread in threads {
///     thread.join().unwrap().unwrap();
/// }
/// ```
pub struct Queue<I, O, E>(Arc<Shared<I, O, E>>);

struct Shared<I, O, E> {
    state: Mutex<State<I, O, E>>,
    /// Weight that waits. Written under the lock of `state`, read without it.
    depth: AtomicU32,
    callers_to_come: CallersToCome,
    reserved: ReservedWeight,
    limits: Limits,
    give_way: GiveWay,
}

type Make<I, O, E> = fn() -> Queue<I, O, E>;

/// Makes a [`Queue`] of which more than the limits is chosen; see [`Queue::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct QueueBuilder<I, O, E> {
    limits: Limits,
    give_way: GiveWay,
    makes: PhantomData<Make<I, O, E>>,
}

impl<I, O, E> QueueBuilder<I, O, E> {
    /// Sets how the task of a caller gives way to other tasks before it runs a batch; see
    /// [`GiveWay`]. By default that is [`tokio::task::yield_now`].
    pub fn give_way_with(self, give_way: GiveWay) -> Self {
        Self { give_way, ..self }
    }

    /// An open queue without workers.
    pub fn build(self) -> Queue<I, O, E> {
        Queue(Arc::new(Shared {
            state: Mutex::new(State::new(self.limits)),
            depth: AtomicU32::new(0),
            callers_to_come: CallersToCome::new(),
            reserved: ReservedWeight::new(),
            limits: self.limits,
            give_way: self.give_way,
        }))
    }
}

impl<I, O, E> Queue<I, O, E> {
    /// An open queue without workers. Requests are refused until it has one.
    pub fn new(limits: Limits) -> Self {
        Self::builder(limits).build()
    }

    /// For a queue of which more than the limits is chosen.
    pub fn builder(limits: Limits) -> QueueBuilder<I, O, E> {
        QueueBuilder {
            limits,
            give_way: give_way_to_tokio_tasks,
            makes: PhantomData,
        }
    }

    /// The side that callers use.
    pub fn service(&self) -> BatchService<I, O, E> {
        BatchService::new(self.clone())
    }

    /// A worker that runs batches in `inner`. From now on the queue takes requests, until its last
    /// worker has ended.
    pub fn worker<S>(&self, inner: S) -> Worker<S, I>
    where
        S: InnerService<I, Output = O, Error = E>,
    {
        let id = {
            let mut state = self.lock();
            state.workers += 1;
            state.take_id()
        };
        Worker::new(id, inner, self.clone())
    }

    /// A worker in which callers run small batches on their own tasks while it has nothing to do.
    ///
    /// For an inner service that blocks in its `call` and returns a future that is ready, and whose
    /// small batches take less time than waking a thread. [`Limits::caller_weight`] says which
    /// batches are small.
    pub fn caller_runs_worker<S>(&self, inner: S) -> CallerRunsWorker<S, I>
    where
        S: InnerService<I, Output = O, Error = E> + Send + Unpin + 'static,
        S::Future: Send,
        I: Send + 'static,
        O: Send + 'static,
        E: Send + 'static,
    {
        CallerRunsWorker::new(self.worker(inner))
    }

    /// Weight that waits. Takes no lock.
    pub fn depth(&self) -> u32 {
        self.0.depth.load(Ordering::Relaxed)
    }

    /// How many workers have not ended.
    pub fn workers(&self) -> usize {
        self.lock().workers
    }

    /// Refuses all further requests. Those that wait are still run; then the workers end.
    pub fn close(&self) {
        let idle = {
            let mut state = self.lock();
            state.is_closed = true;
            mem::take(&mut state.idle)
        };
        for idle in idle {
            idle.waker.wake();
        }
    }

    /// Closes the queue, refuses the requests that wait and
    /// [interrupts](crate::Batch::on_abandoned) the batches that run.
    pub fn abort(&self) {
        self.close();
        let (refused, running) = {
            let mut state = self.lock();
            let refused = state.waiting.drain();
            self.publish_depth(&state);
            (refused, mem::take(&mut state.running))
        };
        fail_all(refused, || Refusal::Closed.into());
        for batch in running {
            batch.abandonment.abandon();
        }
    }

    pub(crate) fn push(&self, submission: Submission<I>) -> Result<Ticket<I, O, E>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting::new(submission, |input| Message { input, reply: sender });
        let caller_may_run = waiting.weight <= self.0.limits.caller_weight;
        let mut displaced = Vec::new();
        let (id, phase, to_wake) = {
            let mut state = self.lock();
            state.is_open()?;
            let id = state.take_id();
            let workers = state.workers;
            state
                .waiting
                .push(Waiting { id, ..waiting }, workers, &mut displaced)?;
            self.publish_depth(&state);
            if caller_may_run {
                self.0.callers_to_come.add();
                (id, state.single_runs.first_phase(), None)
            } else {
                (id, Phase::Wait, state.idle.pop())
            }
        };
        if let Some(idle) = to_wake {
            idle.waker.wake();
        }
        let capacity = self.0.limits.capacity;
        fail_all(displaced, || Refusal::Full { capacity }.into());
        Ok(Ticket::new(self.clone(), id, receiver, phase))
    }

    /// What this worker does next; its inner service is ready. If there is nothing to do, it
    /// becomes idle.
    pub(crate) fn next(&self, worker: u64, idle: impl FnOnce() -> Idle<I, O, E>) -> Next<I, O, E> {
        let now = Instant::now();
        let mut expired = Vec::new();
        let next = {
            let mut state = self.lock();
            // It may have been woken by something else than the queue and still be listed.
            state.idle.retain(|idle| idle.worker != worker);
            let flush = state.is_closed;
            let taken = state.waiting.take(now, flush, &mut expired);
            self.publish_depth(&state);
            match taken {
                Taken::Batch(batch) => Next::Run(state.form(batch)),
                Taken::Nothing if state.is_closed => Next::Stop,
                Taken::Nothing => {
                    state.idle.push(idle());
                    Next::Wait { until: None }
                }
                Taken::NotBefore(at) => {
                    state.idle.push(idle());
                    Next::Wait { until: Some(at) }
                }
            }
        };
        fail_all(expired, || Error::Expired);
        next
    }

    /// Wakes an idle worker if there is one and a request waits.
    pub(crate) fn wake_for_waiting(&self) {
        let idle = {
            let mut state = self.lock();
            if state.waiting.is_empty() {
                None
            } else {
                state.idle.pop()
            }
        };
        if let Some(idle) = idle {
            idle.waker.wake();
        }
    }

    /// Takes an idle worker that callers may use, and a batch that a caller may run.
    pub(crate) fn claim(&self) -> Option<Claimed<I, O, E>> {
        let mut expired = Vec::new();
        let claimed = {
            let mut state = self.lock();
            let claimed = state.claim(&mut expired);
            if claimed.is_some() || !expired.is_empty() {
                self.publish_depth(&state);
            }
            claimed
        };
        fail_all(expired, || Error::Expired);
        claimed
    }

    /// Makes a worker idle again. It comes back if the queue was closed, for the worker must end
    /// then.
    pub(crate) fn put_back(&self, idle: Idle<I, O, E>) -> Option<Idle<I, O, E>> {
        let mut state = self.lock();
        if state.is_closed {
            return Some(idle);
        }
        state.idle.push(idle);
        None
    }

    /// Takes the batch off the list of running ones: it can no longer be abandoned. `ran` is the
    /// time and the weight of a run that succeeded.
    pub(crate) fn batch_ended(&self, batch: u64, ran: Option<(Duration, u32)>) {
        let mut state = self.lock();
        state.running.retain(|running| running.batch != batch);
        if let Some((ran, weight)) = ran {
            state.waiting.run_times.add(ran, weight);
        }
    }

    pub(crate) fn worker_ended(&self, worker: u64) {
        let refused = {
            let mut state = self.lock();
            state.workers -= 1;
            state.idle.retain(|idle| idle.worker != worker);
            if state.workers > 0 {
                drop(state);
                // This worker may have been woken for a request.
                return self.wake_for_waiting();
            }
            let refused = state.waiting.drain();
            self.publish_depth(&state);
            refused
        };
        fail_all(refused, || Refusal::Unavailable.into());
    }

    /// Withdraws a request whose caller has gone. A batch that has lost its last caller is
    /// interrupted.
    pub(crate) fn abandon(&self, id: u64) {
        let mut state = self.lock();
        let removed = state.waiting.remove(id);
        if removed.is_some() {
            self.publish_depth(&state);
            drop(state);
            return;
        }
        let is_member = |running: &Running| running.members.contains(&id);
        let Some(at) = state.running.iter().position(is_member) else {
            return;
        };
        let running = &mut state.running[at];
        running.members.retain(|member| *member != id);
        if running.members.is_empty() {
            let abandoned = state.running.swap_remove(at);
            drop(state);
            abandoned.abandonment.abandon();
        }
    }

    pub(crate) fn callers_to_come(&self) -> &CallersToCome {
        &self.0.callers_to_come
    }

    pub(crate) fn reserved(&self) -> &ReservedWeight {
        &self.0.reserved
    }

    pub(crate) fn give_way(&self, cx: &Context<'_>) {
        (self.0.give_way)(cx);
    }

    /// Asks the policy of an open queue, under the lock, with the number of workers.
    pub(crate) fn with_policy(
        &self,
        check: impl FnOnce(&WaitingList<Message<I, O, E>>, usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let state = self.lock();
        state.is_open()?;
        check(&state.waiting, state.workers)
    }

    fn lock(&self) -> MutexGuard<'_, State<I, O, E>> {
        lock(&self.0.state)
    }

    /// `Relaxed`, here and where it is read: the counter of callers orders it; see
    /// [`caller_runs`](crate::caller_runs).
    fn publish_depth(&self, state: &State<I, O, E>) {
        self.0.depth.store(state.waiting.weight(), Ordering::Relaxed);
    }
}

/// Requests that leave the queue without being run. Called without the lock, because it wakes their
/// callers.
fn fail_all<I, O, E>(requests: Vec<Waiting<Message<I, O, E>>>, error: impl Fn() -> Error<E>) {
    for request in requests {
        // Fails if the caller has gone.
        let _ = request.message.reply.send(Err(error()));
    }
}

impl<I, O, E> Clone for Queue<I, O, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I, O, E> fmt::Debug for QueueBuilder<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<I, O, E> fmt::Debug for Queue<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("depth", &self.depth())
            .finish_non_exhaustive()
    }
}
