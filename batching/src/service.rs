use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use std::{fmt, mem};

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;
use tower::Service;

use super::message::{Abandonment, Answered, Message};
use super::policy::{Limits, Taken, ToCome, Waiting, WaitingList};
use super::worker::{Lent, LentWorker};
use super::{Answer, Error, Priority, Refusal, ResponseFuture, Submission, Worker};
use crate::fair::Flow;

/// The queue between a [`BatchService`] and its [`Worker`]s. A clone is another handle to the same queue.
pub struct Queue<I, O, E>(Arc<Shared<I, O, E>>);

struct Shared<I, O, E> {
    state: Mutex<State<I, O, E>>,
    /// Weight that waits, for whoever must not touch the lock.
    depth: AtomicU32,
    /// Callers that have queued a request and are yet to look whether they could run it themselves.
    callers_to_come: AtomicU32,
    /// Weight that was admitted and is yet to be queued, of high, normal and low priority.
    admitted: [AtomicU32; 3],
    /// The same by flow.
    admitted_by_flow: Counts,
    limits: Limits,
    give_way: GiveWay,
}

/// Has the task that is being polled polled again, after the other tasks that are ready now.
///
/// The future that calls it returns [`Poll::Pending`] right afterwards.
pub type GiveWay = fn(&Context<'_>);

/// The way of tokio's own [`yield_now`](tokio::task::yield_now).
fn give_way_to_tokio_tasks(cx: &Context<'_>) {
    let mut cx = Context::from_waker(cx.waker());
    // Its first poll leaves the waker with the runtime and is always pending.
    let _ = pin!(tokio::task::yield_now()).poll(&mut cx);
}

/// Makes a [`Queue`]; see [`Queue::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct QueueBuilder<I, O, E> {
    limits: Limits,
    give_way: GiveWay,
    queue: PhantomData<fn() -> Queue<I, O, E>>,
}

impl<I, O, E> QueueBuilder<I, O, E> {
    /// Replaces [`tokio::task::yield_now`] as the way in which a caller that could run a batch lets other tasks come first.
    ///
    /// For servers whose tasks are polled by something between them and the runtime, which must hear of it.
    pub fn give_way_with(self, give_way: GiveWay) -> Self {
        Self { give_way, ..self }
    }

    /// An open queue without workers.
    pub fn build(self) -> Queue<I, O, E> {
        Queue::from_builder(self)
    }
}

impl<I, O, E> fmt::Debug for QueueBuilder<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Weight by flow, without a lock and in bounded memory. Flows may share a count, which makes them look like one that has more.
struct Counts {
    counts: Box<[AtomicU32; COUNTS]>,
    /// How many are not 0.
    used: AtomicU32,
}

const COUNTS: usize = 1024;

impl Counts {
    fn new() -> Self {
        Self {
            counts: Box::new([const { AtomicU32::new(0) }; COUNTS]),
            used: AtomicU32::new(0),
        }
    }

    fn count(&self, flow: Flow) -> &AtomicU32 {
        &self.counts[(flow.0 % COUNTS as u64) as usize]
    }

    fn add(&self, flow: Flow, weight: u32) {
        if self.count(flow).fetch_add(weight, Ordering::Relaxed) == 0 {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn subtract(&self, flow: Flow, weight: u32) {
        if self.count(flow).fetch_sub(weight, Ordering::Relaxed) == weight {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A place in the queue for a request that is yet to be queued, until it is dropped. To be dropped right before that.
#[must_use]
pub struct Permit<I, O, E> {
    queue: Queue<I, O, E>,
    weight: u32,
    flow: Flow,
    priority: Priority,
}

impl<I, O, E> Drop for Permit<I, O, E> {
    fn drop(&mut self) {
        let shared = &self.queue.0;
        let admitted = &shared.admitted[self.priority.lines() - 1];
        admitted.fetch_sub(self.weight, Ordering::Relaxed);
        shared.admitted_by_flow.subtract(self.flow, self.weight);
    }
}

struct State<I, O, E> {
    waiting: WaitingList<Message<I, O, E>>,
    running: Vec<Running>,
    /// Batches in a row that callers ran with nothing in them but one request.
    alone: u32,
    /// Workers that found nothing to do, the last one that did at the end: it is the one that is woken first, for its
    /// caches are warm.
    idle: Vec<Idle<I, O, E>>,
    workers: usize,
    next_id: u64,
    closed: bool,
}

/// A worker that has nothing to do.
pub(super) struct Idle<I, O, E> {
    pub(super) worker: u64,
    pub(super) waker: Waker,
    /// The worker itself, if callers may run batches in it.
    pub(super) lent: Option<Weak<dyn Lent<I, O, E>>>,
}

/// A worker that a caller has for one batch.
type Loan<I, O, E> = (Idle<I, O, E>, Arc<dyn Lent<I, O, E>>, Formed<I, O, E>);

/// Wakes the worker, so that it sees to itself, unless it was put back.
struct Borrowed<I, O, E>(Option<Idle<I, O, E>>);

impl<I, O, E> Drop for Borrowed<I, O, E> {
    fn drop(&mut self) {
        if let Some(idle) = self.0.take() {
            idle.waker.wake();
        }
    }
}

/// A batch that the inner service has. Its members are those whose callers still wait.
struct Running {
    batch: u64,
    members: Vec<u64>,
    abandonment: Arc<Abandonment>,
}

/// A batch on its way to the inner service, and who waits for it.
pub(super) struct Formed<I, O, E> {
    pub(super) id: u64,
    pub(super) inputs: Vec<I>,
    pub(super) callers: Vec<Caller<O, E>>,
    pub(super) weight: u32,
    pub(super) abandonment: Arc<Abandonment>,
}

pub(super) struct Caller<O, E> {
    pub(super) answer: Answered<O, E>,
    pub(super) queued: Instant,
}

/// What a worker is told to do.
pub(super) enum Next<I, O, E> {
    Run(Formed<I, O, E>),
    Wait { until: Option<Instant> },
    Stop,
}

impl<I, O, E> Queue<I, O, E> {
    /// An open queue without workers, with the defaults of [`Queue::builder`].
    pub fn new(limits: Limits) -> Self {
        Self::builder(limits).build()
    }

    /// For a queue of which more than the limits is to be chosen.
    pub fn builder(limits: Limits) -> QueueBuilder<I, O, E> {
        QueueBuilder {
            limits,
            give_way: give_way_to_tokio_tasks,
            queue: PhantomData,
        }
    }

    fn from_builder(builder: QueueBuilder<I, O, E>) -> Self {
        let QueueBuilder { limits, give_way, .. } = builder;
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                waiting: WaitingList::new(limits),
                running: Vec::new(),
                alone: 0,
                idle: Vec::new(),
                workers: 0,
                next_id: 0,
                closed: false,
            }),
            depth: AtomicU32::new(0),
            callers_to_come: AtomicU32::new(0),
            admitted: Default::default(),
            admitted_by_flow: Counts::new(),
            limits,
            give_way,
        }))
    }

    /// The side that callers use.
    pub fn service(&self) -> BatchService<I, O, E> {
        BatchService { queue: self.clone() }
    }

    /// A worker that runs batches in `inner`. From now on the queue takes requests, until its last worker has ended.
    pub fn worker<S>(&self, inner: S) -> Worker<S, I, O, E>
    where
        S: Service<super::Batch<I>, Response = Vec<Result<O, E>>, Error = E>,
    {
        let mut state = self.lock();
        state.workers += 1;
        let id = state.take_id();
        drop(state);
        Worker::new(id, inner, self.clone())
    }

    /// The same, for an inner service whose futures are ready as soon as they are made, because its calls block: callers run
    /// batches in it on their own tasks while it has nothing to do, see [`Limits::caller_weight`].
    pub fn lent_worker<S>(&self, inner: S) -> LentWorker<S, I, O, E>
    where
        S: Service<super::Batch<I>, Response = Vec<Result<O, E>>, Error = E> + Send + Unpin + 'static,
        S::Future: Send,
        I: Send + 'static,
        O: Send + 'static,
        E: Clone + Send + 'static,
    {
        LentWorker::new(self.worker(inner))
    }

    /// Weight that waits. Takes no lock.
    pub fn depth(&self) -> u32 {
        self.0.depth.load(Ordering::Relaxed)
    }

    /// How many workers have not ended.
    pub fn workers(&self) -> usize {
        self.lock().workers
    }

    /// Takes no more requests. What waits is still run; then the workers end.
    pub fn close(&self) {
        let idle = {
            let mut state = self.lock();
            state.closed = true;
            mem::take(&mut state.idle)
        };
        for idle in idle {
            idle.waker.wake();
        }
    }

    /// Closes the queue, refuses what waits and interrupts what runs.
    pub fn abort(&self) {
        self.close();
        let (refused, running) = {
            let mut state = self.lock();
            let refused = state.waiting.drain();
            self.publish_depth(&state);
            (refused, mem::take(&mut state.running))
        };
        for waiting in refused {
            let _ = waiting.message.answer.send(Err(Refusal::Closed.into()));
        }
        for batch in running {
            batch.abandonment.abandon();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<I, O, E>> {
        // No code of a caller runs under the lock, and every change under it is complete.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_depth(&self, state: &State<I, O, E>) {
        self.0.depth.store(state.waiting.weight(), Ordering::SeqCst);
    }

    /// Keeps a place for a request that work is to be done for before it can be queued, or refuses it as the queue would. What is
    /// admitted so counts as queued, for those who come later.
    pub fn admit(
        &self,
        weight: u32,
        flow: Flow,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Permit<I, O, E>, Refusal> {
        let weight = weight.max(1);
        let shared = &self.0;
        let state = self.lock();
        state.is_open()?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (higher, rest) = shared.admitted.split_at(priority.lines() - 1);
        let to_come = ToCome {
            higher: higher.iter().map(|weight| weight.load(Ordering::Relaxed)).sum(),
            same: rest.first().map_or(0, |weight| weight.load(Ordering::Relaxed)),
            own: shared.admitted_by_flow.count(flow).load(Ordering::Relaxed),
            flows: shared.admitted_by_flow.used.load(Ordering::Relaxed),
        };
        state
            .waiting
            .admit(weight, flow, to_come, priority, timeout, state.workers)?;
        // Only ever added to under the lock, so that two cannot have the same place.
        shared.admitted[priority.lines() - 1].fetch_add(weight, Ordering::Relaxed);
        shared.admitted_by_flow.add(flow, weight);
        Ok(Permit {
            queue: self.clone(),
            weight,
            flow,
            priority,
        })
    }

    fn push(&self, submission: Submission<I>) -> Result<Ticket<I, O, E>, Refusal> {
        let (answer, answered) = oneshot::channel();
        let queued = Instant::now();
        let weight = submission.weight.max(1);
        let caller_may_run = weight <= self.0.limits.caller_weight;
        let mut displaced = Vec::new();
        let (id, turn, worker) = {
            let mut state = self.lock();
            state.is_open()?;
            let id = state.take_id();
            let waiting = Waiting {
                id,
                weight,
                bucket: submission.bucket,
                priority: submission.priority,
                flow: submission.flow,
                queued,
                deadline: submission.deadline,
                message: Message {
                    input: submission.input,
                    answer,
                },
            };
            let workers = state.workers;
            state.waiting.push(waiting, workers, &mut displaced)?;
            self.publish_depth(&state);
            if caller_may_run {
                self.0.callers_to_come.fetch_add(1, Ordering::SeqCst);
                (id, state.turn_of_caller(), None)
            } else {
                (id, Turn::Over, state.idle.pop())
            }
        };
        if let Some(idle) = worker {
            idle.waker.wake();
        }
        let capacity = self.0.limits.capacity;
        for waiting in displaced {
            let _ = waiting
                .message
                .answer
                .send(Err(Refusal::Full { capacity }.into()));
        }
        Ok(Ticket {
            queue: self.clone(),
            id,
            answered,
            turn,
            done: false,
        })
    }

    /// What the worker whose inner service is ready does next. If there is nothing to do, its waker is kept.
    pub(super) fn next(&self, idle: impl FnOnce() -> Idle<I, O, E>) -> Next<I, O, E> {
        let now = Instant::now();
        let mut expired = Vec::new();
        let next = {
            let mut state = self.lock();
            let flush = state.closed;
            let taken = state.waiting.take(now, flush, &mut expired);
            self.publish_depth(&state);
            match taken {
                Taken::Batch(batch) => Next::Run(state.form(batch)),
                Taken::Nothing if state.closed => Next::Stop,
                other => {
                    let idle = idle();
                    state.idle.retain(|other| other.worker != idle.worker);
                    state.idle.push(idle);
                    let until = match other {
                        Taken::NotBefore(at) => Some(at),
                        _ => None,
                    };
                    Next::Wait { until }
                }
            }
        };
        for waiting in expired {
            let _ = waiting.message.answer.send(Err(Error::Expired));
        }
        next
    }

    /// Wakes another worker if there is something to do and one that is idle.
    pub(super) fn pass_on(&self) {
        let other = {
            let mut state = self.lock();
            if state.waiting.is_empty() {
                None
            } else {
                state.idle.pop()
            }
        };
        if let Some(idle) = other {
            idle.waker.wake();
        }
    }

    /// A caller takes what waits and runs it in a worker that has nothing to do. False if there is none, or nothing for it.
    fn run_as_caller(&self) -> bool {
        let mut expired = Vec::new();
        let taken = {
            let mut state = self.lock();
            state
                .take_for_caller(&mut expired)
                .inspect(|_| self.publish_depth(&state))
        };
        for waiting in expired {
            let _ = waiting.message.answer.send(Err(Error::Expired));
        }
        let Some((idle, lent, formed)) = taken else {
            return false;
        };
        let mut borrowed = Borrowed(Some(idle));
        if lent.run(formed) {
            let mut state = self.lock();
            if !state.closed {
                state.idle.extend(borrowed.0.take());
            }
        }
        true
    }

    /// To be called when a caller will not look again whether it could run something: wakes a worker for what waits, if no
    /// other caller is still to come.
    ///
    /// Nothing is forgotten: a request waits either while its caller is to come, or while all workers are busy, and whoever
    /// is the last of the former or makes one of the latter idle calls this afterwards. The order of the steps, first
    /// counting down, then looking at the depth, needs all of them in one order, `SeqCst`.
    fn caller_has_come(&self) {
        let was_last = self.0.callers_to_come.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && self.0.depth.load(Ordering::SeqCst) > 0 {
            self.pass_on();
        }
    }

    /// The batch is no longer running: nobody can abandon it from now on. `ran` says how long a batch of how much weight
    /// took, if it was answered.
    pub(super) fn finished(&self, batch: u64, ran: Option<(Duration, u32)>) {
        let mut state = self.lock();
        state.running.retain(|running| running.batch != batch);
        if let Some((ran, weight)) = ran {
            state.waiting.run_times.add(ran, weight);
        }
    }

    /// The worker takes no more batches. With the last one, what waits is refused.
    pub(super) fn worker_ended(&self, worker: u64) {
        let refused = {
            let mut state = self.lock();
            state.workers -= 1;
            state.idle.retain(|idle| idle.worker != worker);
            if state.workers > 0 {
                drop(state);
                // Another worker must look at what this one was woken for.
                return self.pass_on();
            }
            let refused = state.waiting.drain();
            self.publish_depth(&state);
            refused
        };
        for waiting in refused {
            let _ = waiting.message.answer.send(Err(Refusal::Unavailable.into()));
        }
    }

    /// The caller of a request has gone.
    fn abandon(&self, id: u64) {
        let mut state = self.lock();
        let removed = state.waiting.remove(id);
        if removed.is_some() {
            self.publish_depth(&state);
            drop(state);
            return;
        }
        let Some(at) = state
            .running
            .iter()
            .position(|running| running.members.contains(&id))
        else {
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
}

impl<I, O, E> State<I, O, E> {
    fn take_for_caller(&mut self, expired: &mut Vec<Waiting<Message<I, O, E>>>) -> Option<Loan<I, O, E>> {
        let lent = |idle: &Idle<I, O, E>| idle.lent.as_ref()?.upgrade();
        let (at, lent) = self
            .idle
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, idle)| Some((at, lent(idle)?)))?;
        let batch = self.waiting.take_for_caller(Instant::now(), expired)?;
        self.alone = if batch.len() > 1 {
            0
        } else {
            self.alone.saturating_add(1)
        };
        Some((self.idle.remove(at), lent, self.form(batch)))
    }

    /// Whether to let others come first is worth it: not while it brings nobody, but for a try now and then.
    fn turn_of_caller(&self) -> Turn {
        if self.alone < ALONE || self.alone.is_multiple_of(TRY_AGAIN) {
            Turn::Next
        } else {
            Turn::Now
        }
    }

    fn is_open(&self) -> Result<(), Refusal> {
        if self.closed {
            Err(Refusal::Closed)
        } else if self.workers == 0 {
            Err(Refusal::Unavailable)
        } else {
            Ok(())
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn form(&mut self, batch: Vec<Waiting<Message<I, O, E>>>) -> Formed<I, O, E> {
        let id = self.take_id();
        let abandonment = Arc::new(Abandonment::default());
        self.running.push(Running {
            batch: id,
            members: batch.iter().map(|waiting| waiting.id).collect(),
            abandonment: Arc::clone(&abandonment),
        });
        let weight = batch.iter().map(|waiting| waiting.weight).sum();
        let (inputs, callers) = batch
            .into_iter()
            .map(|waiting| {
                let caller = Caller {
                    answer: waiting.message.answer,
                    queued: waiting.queued,
                };
                (waiting.message.input, caller)
            })
            .unzip();
        Formed {
            id,
            inputs,
            callers,
            weight,
            abandonment,
        }
    }
}

impl<I, O, E> Clone for Queue<I, O, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I, O, E> fmt::Debug for Permit<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("weight", &self.weight)
            .field("priority", &self.priority)
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

/// A queued request as its caller holds it. Dropping it before the answer came takes the request out of the queue, or
/// out of the batch that runs.
pub(super) struct Ticket<I, O, E> {
    queue: Queue<I, O, E>,
    id: u64,
    answered: oneshot::Receiver<Result<Answer<O>, Error<E>>>,
    turn: Turn,
    done: bool,
}

/// So many batches of one request in a row say that there is nobody to wait for.
const ALONE: u32 = 4;

/// Then every so many requests one lets others come first all the same.
const TRY_AGAIN: u32 = 16;

/// Whether a caller will look if it could run what waits. Only callers of lent workers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// After the others that are ready have had theirs, so that there is a batch to run.
    Next,
    Now,
    Over,
}

impl<I, O, E> Ticket<I, O, E> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer<O>, Error<E>>> {
        loop {
            match self.turn {
                Turn::Next => {
                    self.turn = Turn::Now;
                    (self.queue.0.give_way)(cx);
                    return Poll::Pending;
                }
                // Its receiver has not been polled: an answer that it gives itself need wake nobody.
                Turn::Now => {
                    let has_run = self.answered.is_empty() && self.queue.run_as_caller();
                    if let Some(answer) = self.take_answer() {
                        self.end_turn();
                        return Poll::Ready(answer);
                    }
                    if has_run {
                        // What came before it.
                        self.turn = Turn::Next;
                    } else {
                        self.end_turn();
                    }
                }
                Turn::Over => return self.poll_answer(cx),
            }
        }
    }

    /// Whether its turn to run what waits is still to come.
    pub(super) fn has_turn(&self) -> bool {
        self.turn != Turn::Over
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer<O>, Error<E>>> {
        let received = ready!(Pin::new(&mut self.answered).poll(cx));
        Poll::Ready(self.finish(received.ok()))
    }

    /// The answer, if it is there.
    fn take_answer(&mut self) -> Option<Result<Answer<O>, Error<E>>> {
        match self.answered.try_recv() {
            Ok(answer) => Some(self.finish(Some(answer))),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(self.finish(None)),
        }
    }

    fn finish(&mut self, received: Option<Result<Answer<O>, Error<E>>>) -> Result<Answer<O>, Error<E>> {
        self.done = true;
        // A sender that is dropped without an answer belonged to a worker that was dropped in the middle of a batch.
        received.unwrap_or(Err(Error::Refused(Refusal::Unavailable)))
    }

    fn end_turn(&mut self) {
        if self.has_turn() {
            self.turn = Turn::Over;
            self.queue.caller_has_come();
        }
    }
}

impl<I, O, E> Drop for Ticket<I, O, E> {
    fn drop(&mut self) {
        if !self.done {
            self.queue.abandon(self.id);
        }
        self.end_turn();
    }
}

/// Queues requests for the workers of a [`Queue`].
///
/// It is always ready: a queue that is full refuses the request at once, since to wait for room would be a queue without
/// a bound and without deadlines.
pub struct BatchService<I, O, E> {
    queue: Queue<I, O, E>,
}

impl<I, O, E> BatchService<I, O, E> {
    /// The queue that requests go to.
    pub fn queue(&self) -> &Queue<I, O, E> {
        &self.queue
    }
}

impl<I, O, E> Service<Submission<I>> for BatchService<I, O, E> {
    type Response = Answer<O>;
    type Error = Error<E>;
    type Future = ResponseFuture<I, O, E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, submission: Submission<I>) -> Self::Future {
        let deadline = submission.deadline;
        ResponseFuture::new(self.queue.push(submission), deadline)
    }
}

impl<I, O, E> Clone for BatchService<I, O, E> {
    fn clone(&self) -> Self {
        self.queue.service()
    }
}

impl<I, O, E> fmt::Debug for BatchService<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchService")
            .field("queue", &self.queue)
            .finish()
    }
}
