use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use super::service::{Caller, Formed, Idle, Next, Queue};
use super::{Answer, Batch, Error};

/// Takes batches from a queue and runs them in an inner service, whose `poll_ready` says that a batch could run now.
///
/// A future that must be driven for requests to be answered. It resolves when the queue was closed and all is answered,
/// or with the error of an inner service that cannot become ready. More than one batch runs at a time if the inner
/// service is ready for more than one.
pub struct Worker<S, I, O, E>
where
    S: Service<Batch<I>>,
{
    inner: S,
    queue: Registered<I, O, E>,
    running: FuturesUnordered<Run<S::Future, I, O, E>>,
    /// Set while a batch is held back for `max_wait`.
    held: Option<Pin<Box<Sleep>>>,
    stopping: bool,
    /// Itself, if callers may run batches in it.
    lent: Option<Weak<dyn Lent<I, O, E>>>,
}

/// Takes the worker out of its queue when it ends, in whatever way.
struct Registered<I, O, E> {
    id: u64,
    queue: Queue<I, O, E>,
}

impl<I, O, E> Drop for Registered<I, O, E> {
    fn drop(&mut self) {
        self.queue.worker_ended(self.id);
    }
}

pin_project! {
    /// A batch that the inner service has.
    struct Run<F, I, O, E> {
        #[pin]
        future: F,
        batch: Option<InFlight<I, O, E>>,
    }
}

struct InFlight<I, O, E> {
    listing: Listing<I, O, E>,
    callers: Vec<Caller<O, E>>,
    weight: u32,
    started: Instant,
}

/// Takes the batch off the queue's list of running ones, after which nobody can abandon it.
struct Listing<I, O, E> {
    batch: u64,
    queue: Queue<I, O, E>,
    /// Time and weight, once it is answered.
    ran: Option<(Duration, u32)>,
}

impl<I, O, E> Drop for Listing<I, O, E> {
    fn drop(&mut self) {
        self.queue.finished(self.batch, self.ran);
    }
}

impl<F: Future, I, O, E> Future for Run<F, I, O, E> {
    type Output = (F::Output, Option<InFlight<I, O, E>>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.future.poll(cx).map(|result| (result, this.batch.take()))
    }
}

impl<S, I, O, E> Worker<S, I, O, E>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E>,
{
    pub(super) fn new(id: u64, inner: S, queue: Queue<I, O, E>) -> Self {
        Self {
            inner,
            queue: Registered { id, queue },
            running: FuturesUnordered::new(),
            held: None,
            stopping: false,
            lent: None,
        }
    }

    fn start(&mut self, formed: Formed<I, O, E>) {
        let Formed {
            id,
            inputs,
            callers,
            weight,
            abandonment,
        } = formed;
        let started = Instant::now();
        let future = self.inner.call(Batch {
            inputs,
            weight,
            abandonment,
        });
        self.running.push(Run {
            future,
            batch: Some(InFlight {
                listing: Listing {
                    batch: id,
                    queue: self.queue.queue.clone(),
                    ran: None,
                },
                callers,
                weight,
                started,
            }),
        });
    }
}

impl<S, I, O, E> Worker<S, I, O, E>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E>,
    E: Clone,
{
    /// Answers the batches that have run. True unless one of them failed.
    fn finish(&mut self, cx: &mut Context<'_>) -> bool {
        let mut all_ran = true;
        while let Poll::Ready(Some((result, batch))) = Pin::new(&mut self.running).poll_next(cx) {
            all_ran &= result.is_ok();
            if let Some(batch) = batch {
                batch.answer(result);
            }
        }
        all_ran
    }
}

impl<I, O, E: Clone> InFlight<I, O, E> {
    fn answer(mut self, result: Result<Vec<Result<O, E>>, E>) {
        let ran = self.started.elapsed();
        // A run that failed or was interrupted says nothing about how long one takes.
        self.listing.ran = result.is_ok().then_some((ran, self.weight));
        drop(self.listing);
        let (mut outputs, failure) = match result {
            Ok(outputs) => (outputs.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for caller in self.callers {
            let output = match (outputs.next(), &failure) {
                (Some(output), _) => output,
                (None, Some(error)) => Err(error.clone()),
                // An inner service that breaks its promise of one output an input: the caller's receiver sees its sender
                // dropped, which is an error, not an answer of somebody else's.
                (None, None) => continue,
            };
            let answer = output
                .map(|output| Answer {
                    output,
                    queued: self.started.saturating_duration_since(caller.queued),
                    ran,
                    batch_weight: self.weight,
                })
                .map_err(Error::Inner);
            // The caller may have gone in the meantime.
            let _ = caller.answer.send(answer);
        }
    }
}

impl<S, I, O, E> Future for Worker<S, I, O, E>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E> + Unpin,
    E: Clone,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            this.finish(cx);
            if this.stopping {
                return if this.running.is_empty() {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            match this.inner.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // This worker may have been woken for a request that another one could run now.
                    this.queue.queue.pass_on();
                    return Poll::Pending;
                }
            }
            let idle = || Idle {
                worker: this.queue.id,
                waker: cx.waker().clone(),
                lent: this.lent.clone(),
            };
            match this.queue.queue.next(idle) {
                Next::Run(formed) => {
                    this.held = None;
                    this.start(formed);
                }
                Next::Stop => this.stopping = true,
                Next::Wait { until: None } => return Poll::Pending,
                Next::Wait { until: Some(at) } => {
                    let held = this.held.insert(Box::pin(sleep_until(at)));
                    if held.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

/// A worker that callers may borrow while it has nothing to do.
pub(super) trait Lent<I, O, E>: Send + Sync {
    /// Runs a batch and answers it. True if the worker could run another one.
    fn run(&self, formed: Formed<I, O, E>) -> bool;
}

/// A [`Worker`] whose inner service callers may use as well, for batches of up to
/// [`Limits::caller_weight`](super::Limits::caller_weight): a request that finds it idle costs no hop to another thread.
///
/// Must be driven like a worker: it runs what callers may not, and what they leave. A [`ResponseFuture`] of its queue must
/// be polled or dropped, for it may be its turn to run what others wait for.
///
/// [`ResponseFuture`]: super::ResponseFuture
pub struct LentWorker<S, I, O, E>(Arc<Mutex<Worker<S, I, O, E>>>)
where
    S: Service<Batch<I>>;

impl<S, I, O, E> LentWorker<S, I, O, E>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E> + Send + Unpin + 'static,
    S::Future: Send,
    I: Send + 'static,
    O: Send + 'static,
    E: Clone + Send + 'static,
{
    pub(super) fn new(worker: Worker<S, I, O, E>) -> Self {
        Self(Arc::new_cyclic(|this: &Weak<Mutex<Worker<S, I, O, E>>>| {
            let lent: Weak<dyn Lent<I, O, E>> = this.clone();
            Mutex::new(Worker {
                lent: Some(lent),
                ..worker
            })
        }))
    }
}

impl<S, I, O, E> Lent<I, O, E> for Mutex<Worker<S, I, O, E>>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E> + Send + Unpin,
    S::Future: Send,
    I: Send,
    O: Send,
    E: Clone + Send,
{
    fn run(&self, formed: Formed<I, O, E>) -> bool {
        let mut worker = self.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever drives the worker is woken if anything is left to do.
        let mut cx = Context::from_waker(Waker::noop());
        worker.start(formed);
        worker.finish(&mut cx)
            && worker.running.is_empty()
            && matches!(worker.inner.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

impl<S, I, O, E> Future for LentWorker<S, I, O, E>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E> + Unpin,
    E: Clone,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll(cx)
    }
}

impl<S, I, O, E> fmt::Debug for LentWorker<S, I, O, E>
where
    S: Service<Batch<I>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LentWorker").finish_non_exhaustive()
    }
}

impl<S, I, O, E> fmt::Debug for Worker<S, I, O, E>
where
    S: Service<Batch<I>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue.queue)
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}
