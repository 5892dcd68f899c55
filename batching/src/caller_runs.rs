//! The caller-runs protocol: the task of a request runs the batch itself, in a worker that has
//! nothing to do.
//!
//! # Why
//!
//! A worker whose inner service blocks has a thread of its own. A request that is handed to that
//! thread and replied to from it costs two wake-ups of sleeping threads, tens of microseconds
//! together, and its data move to another core and back. For an inner service that takes a few
//! microseconds this is most of the time of a request. So a caller that finds a worker idle uses
//! that worker's inner service on its own task: no thread is woken, and nothing leaves the core.
//!
//! Only batches of up to [`Limits::caller_weight`](crate::Limits::caller_weight) are run this way,
//! because the task blocks its executor meanwhile. All other batches, and everything that callers
//! leave behind, are run by the thread that drives the worker.
//!
//! # The caller
//!
//! Each request is in one of the [phases](Phase):
//!
//! ```text
//!   light request queued                                     heavy request queued
//!          |                                                 (wakes an idle worker)
//!          +----- after single batches in a row -----+                |
//!          v                                         v                |
//!     +---------+         polled again          +----------+          |
//!     | GiveWay |------------------------------>| TryToRun |          |
//!     +---------+                               +----------+          |
//!          ^      ran others, not this request    |  |   |            |
//!          +--------------------------------------+  |   | no idle    |
//!                                                    |   | worker, or |
//!                         ran this request           |   | nothing    |
//!                               +--------------------+   | light to   |
//!                               |                        | run        |
//!                               v                        v            v
//!                          +---------+   a worker has run   +--------------+
//!                          | Replied |<---------------------|     Wait     |
//!                          +---------+     the request      +--------------+
//! ```
//!
//! A caller counts as *to come* while it is in `GiveWay` or `TryToRun`. However it leaves them (it
//! may also be dropped), it calls [`Queue::caller_has_come`].
//!
//! * **`GiveWay`**: the task yields once, so that tasks that are ready to submit requests of their
//!   own come first. Their requests then run in the same batch. While giving way brings no company
//!   it is skipped; see [`SingleRuns`].
//! * **`TryToRun`**: the caller *claims* an idle worker and takes the batch at the front of the
//!   queue, under one lock. The batch need not contain its own request: fairness and priorities
//!   decide what is at the front. It runs the batch, puts the worker back among the idle ones, and
//!   tries again if its own request has no reply yet.
//! * **`Wait`**: the caller found nothing to run and awaits its reply.
//!
//! # The worker
//!
//! ```text
//!                         nothing waits
//!            +------+ -----------------------> +------+      a caller claims it     +---------+
//!            | Busy |                          | Idle | --------------------------> | Claimed |
//!            +------+ <----------------------- +------+ <-------------------------- +---------+
//!               ^      woken: taken off the             put back: the run succeeded      |
//!               |      list of idle workers             and the inner service is ready   |
//!               +------------------------------------------------------------------------+
//!                    woken: the run failed or panicked, the inner service is not ready,
//!                    or the queue was closed
//! ```
//!
//! A worker is in the queue's list of idle workers exactly when it is `Idle`. `Busy` covers
//! everything from being woken to the moment when the worker looks into the queue under the lock,
//! finds nothing and is listed as idle again. A worker that is woken and not yet polled is busy in
//! this sense.
//!
//! # The invariant
//!
//! > Whenever the lock of the queue is free and a request waits in it, **some caller is still to
//! > come or some worker is busy**.
//!
//! (A request that is held back by `max_wait` waits for its worker's timer as well. Without any
//! worker, requests are refused.)
//!
//! Both of them look into the queue later: a caller in `TryToRun` or in [`Queue::caller_has_come`],
//! a busy worker before it becomes idle. So no request is left with nobody to run it. The invariant
//! can only break in four places:
//!
//! 1. *A request is queued.* A light one adds its caller to those to come, within the same lock. A
//!    heavy one wakes an idle worker, which becomes busy within the same lock; if none is idle,
//!    each worker is busy (fine) or claimed, and the caller that claimed it is still to come
//!    (fine).
//! 2. *A worker becomes idle by itself.* It does so under the lock and only if nothing waits.
//! 3. *A claimed worker is put back.* The caller that does it is still to come.
//! 4. *A caller stops being to come.* It counts itself out first and looks at the depth of the
//!    queue afterwards. If it was the last one and something waits, it wakes an idle worker. If it
//!    was not the last one, the invariant holds through the others.
//!
//! # Memory order
//!
//! Places 1 to 3 are under the lock. Place 4 uses two atomics without it: the count of callers to
//! come and the depth. The last caller must not read a depth of zero that is out of date.
//!
//! Say that the last caller counts itself out, and a request waits. Its caller was counted in with
//! `Release`, after the depth was stored, and the last caller's decrement comes later in the order
//! of the counter, since it left zero. All changes of the counter are read-modify-write operations,
//! so each continues the release sequence of the ones before, and the `Acquire` of the last
//! decrement makes the stored depth visible. A heavy request is not counted in. It was queued while
//! every worker was busy or claimed. If one was claimed, it was put back under the lock after the
//! request was queued, by a caller that counted itself out after that with `Release`, which the
//! last decrement acquires in the same way.
//!
//! So `Release` on the increment, `AcqRel` on the decrement and `Relaxed` on the depth are enough.
//! `SeqCst` would be needed if a request's caller stored the depth and then *read* the counter, to
//! save a wake-up: then both sides would store one variable and read the other, and only a single
//! total order settles such a race. Here a light request changes the counter unconditionally.
//!
//! # How it is checked
//!
//! `caller_runs/loom_tests.rs` runs this code, not a model of it, under
//! [loom](https://docs.rs/loom) in all orders in which the operations of callers and workers can
//! interleave, weak memory included, up to a number of preemptions. A request that nobody runs is a
//! deadlock, which loom reports. Each of these changes makes a test fail: leaving out the wake-up
//! by the last caller, or of a claimed worker after a failed run; reading the depth before counting
//! out; `Relaxed` for the counter. `make test` runs it:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_PROFILE_DEV_OPT_LEVEL=1 \
//!     cargo test -p batching --lib --target-dir target/loom loom_tests
//! ```

#[cfg(loom)]
#[cfg(test)]
mod loom_tests;
#[cfg(not(loom))]
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use crate::Worker;
use crate::inner::InnerService;
use crate::queue::{Claimed, Formed, Idle, Queue};
use crate::sync::{AtomicU32, Mutex, lock};

/// How the task of a caller gives way: it has the task polled again, but after the other tasks that
/// are ready now.
///
/// It is called while the task is polled, with the task's context; the future returns
/// [`Poll::Pending`] right afterwards. The default, [`tokio::task::yield_now`], suits tasks that
/// the runtime polls directly. A server that polls a task again by itself when the task wakes
/// itself needs a way of its own, or the task would not give way at all. See
/// [`QueueBuilder::give_way_with`](crate::QueueBuilder::give_way_with).
pub type GiveWay = fn(&Context<'_>);

pub(crate) fn give_way_to_tokio_tasks(cx: &Context<'_>) {
    let mut cx = Context::from_waker(cx.waker());
    // The first poll hands the waker to the runtime and is always pending.
    let _ = pin!(tokio::task::yield_now()).poll(&mut cx);
}

/// Where the caller of a request is in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    GiveWay,
    TryToRun,
    Wait,
}

/// Decides whether giving way is worth it, by the size of the batches that callers ran lately.
///
/// Giving way costs a round through the executor. On a server with one busy connection it never
/// brings a second request into the batch.
#[derive(Debug, Default)]
pub(crate) struct SingleRuns(u32);

/// After this many batches of one request in a row, callers no longer give way.
const ENOUGH_SINGLE_RUNS: u32 = 4;

/// From then on one of this many callers gives way all the same, to find out whether there is
/// company again.
const GIVE_WAY_EVERY: u32 = 16;

impl SingleRuns {
    pub(crate) fn record(&mut self, requests: usize) {
        self.0 = if requests > 1 { 0 } else { self.0.saturating_add(1) };
    }

    pub(crate) fn first_phase(&self) -> Phase {
        if self.0 < ENOUGH_SINGLE_RUNS || self.0.is_multiple_of(GIVE_WAY_EVERY) {
            Phase::GiveWay
        } else {
            Phase::TryToRun
        }
    }
}

/// How many callers are in [`Phase::GiveWay`] or [`Phase::TryToRun`].
pub(crate) struct CallersToCome(AtomicU32);

impl CallersToCome {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Called under the lock of the queue, after the depth was stored.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// Returns whether this was the last one.
    fn remove(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl<I, O, E> Queue<I, O, E> {
    /// Runs the batch at the front of the queue in an idle worker. Returns false if there is no
    /// such worker or no batch that a caller may run.
    pub(crate) fn run_as_caller(&self) -> bool {
        let Some(Claimed { idle, worker, batch }) = self.claim() else {
            return false;
        };
        let mut claim = Claim(Some(idle));
        if worker.run(batch) {
            claim.0 = claim.0.take().and_then(|idle| self.put_back(idle));
        }
        true
    }

    /// Called once for each caller that was to come, when it will not look for a batch to run any
    /// more.
    pub(crate) fn caller_has_come(&self) {
        if self.callers_to_come().remove() && self.depth() > 0 {
            self.wake_for_waiting();
        }
    }
}

/// Wakes the worker that a caller has claimed, so that it looks after itself, unless it was put
/// back.
struct Claim<I, O, E>(Option<Idle<I, O, E>>);

impl<I, O, E> Drop for Claim<I, O, E> {
    fn drop(&mut self) {
        if let Some(idle) = self.0.take() {
            idle.waker.wake();
        }
    }
}

/// A worker in which callers can run batches, without the type of its inner service.
pub(crate) trait RunForCaller<I, O, E>: Send + Sync {
    /// Runs a batch and replies to its requests. Returns whether the worker could run another one
    /// now.
    fn run(&self, batch: Formed<I, O, E>) -> bool;
}

/// Does not keep the worker alive: whoever drives it owns it.
pub(crate) type ForCallers<I, O, E> = Weak<dyn RunForCaller<I, O, E>>;

/// A [`Worker`] in which callers run small batches on their own tasks while it has nothing to do.
///
/// Made by [`Queue::caller_runs_worker`]. Like any worker it must be driven, by a thread of its
/// own: it runs what is too heavy for callers, and what they leave. The
/// [`ResponseFuture`](crate::ResponseFuture)s of its queue must be polled when they are woken, or
/// dropped, because other requests may depend on them.
///
/// A caller blocks its executor for the time of the batch, so set
/// [`Limits::caller_weight`](crate::Limits::caller_weight) so that such a batch takes tens of
/// microseconds at most.
pub struct CallerRunsWorker<S, I>(Arc<Mutex<Worker<S, I>>>)
where
    S: InnerService<I>;

impl<S, I> CallerRunsWorker<S, I>
where
    S: InnerService<I> + Send + Unpin + 'static,
    S::Future: Send,
    S::Output: Send + 'static,
    S::Error: Send + 'static,
    I: Send + 'static,
{
    pub(crate) fn new(worker: Worker<S, I>) -> Self {
        Self(Arc::new_cyclic(|this: &Weak<Mutex<Worker<S, I>>>| {
            let for_callers: ForCallers<I, S::Output, S::Error> = this.clone();
            Mutex::new(worker.open_to_callers(for_callers))
        }))
    }
}

impl<S, I> RunForCaller<I, S::Output, S::Error> for Mutex<Worker<S, I>>
where
    S: InnerService<I> + Send + Unpin,
    S::Future: Send,
    S::Output: Send,
    S::Error: Send,
    I: Send,
{
    fn run(&self, batch: Formed<I, S::Output, S::Error>) -> bool {
        lock(self).run_for_caller(batch)
    }
}

impl<S, I> Future for CallerRunsWorker<S, I>
where
    S: InnerService<I> + Unpin,
{
    type Output = Result<(), S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut *lock(&self.0)).poll(cx)
    }
}

impl<S, I> fmt::Debug for CallerRunsWorker<S, I>
where
    S: InnerService<I>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallerRunsWorker").finish_non_exhaustive()
    }
}
