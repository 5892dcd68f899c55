use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::caller_runs::ForCallers;
use crate::inner::InnerService;
use crate::queue::{Formed, Idle, Next, Queue, Recipient};
use crate::{BatchReply, Error};

/// Takes batches from a [`Queue`] and runs them in an inner service whenever that is ready.
///
/// A future that must be driven for requests to be run. It resolves with `Ok` when the queue was
/// closed and everything in it has run, and with the error of an inner service that cannot become
/// ready. If the inner service is ready for more than one batch at a time, that many run.
///
/// Dropping a worker fails the requests that it was running. When the last worker of a queue ends,
/// the queue refuses what waits and what comes.
pub struct Worker<S, I>
where
    S: InnerService<I>,
{
    inner: S,
    queue: Registered<I, S::Output, S::Error>,
    running: Runs<S, I>,
    /// Set while a batch is held back for [`Limits::max_wait`](crate::Limits::max_wait).
    held: Option<Pin<Box<Sleep>>>,
    is_stopping: bool,
    /// The worker itself, if callers may run batches in it.
    for_callers: Option<ForCallers<I, S::Output, S::Error>>,
}

type Runs<S, I> = FuturesUnordered<
    Run<<S as InnerService<I>>::Future, I, <S as InnerService<I>>::Output, <S as InnerService<I>>::Error>,
>;

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
    /// The run of one batch.
    struct Run<F, I, O, E> {
        #[pin]
        future: F,
        batch: Option<InFlight<I, O, E>>,
    }
}

impl<F: Future, I, O, E> Future for Run<F, I, O, E> {
    type Output = (F::Output, Option<InFlight<I, O, E>>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.future.poll(cx).map(|result| (result, this.batch.take()))
    }
}

/// What is kept of a batch while the inner service has it.
struct InFlight<I, O, E> {
    listing: Listing<I, O, E>,
    recipients: Vec<Recipient<O, E>>,
    weight: u32,
    started: Instant,
}

/// Takes the batch off the queue's list of running ones, after which it cannot be abandoned any
/// more.
struct Listing<I, O, E> {
    batch: u64,
    queue: Queue<I, O, E>,
    /// Time and weight of the run, if it succeeded. A run that failed or was interrupted says
    /// nothing about how long one takes.
    ran: Option<(Duration, u32)>,
}

impl<I, O, E> Drop for Listing<I, O, E> {
    fn drop(&mut self) {
        self.queue.batch_ended(self.batch, self.ran);
    }
}

impl<I, O, E> InFlight<I, O, E> {
    fn reply(mut self, result: Result<Vec<Result<O, E>>, E>, clone_error: fn(&E) -> E) {
        let ran = self.started.elapsed();
        self.listing.ran = result.is_ok().then_some((ran, self.weight));
        drop(self.listing);
        let (mut outputs, failure) = match result {
            Ok(outputs) => (outputs.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for recipient in self.recipients {
            let output = match (outputs.next(), &failure) {
                (Some(output), _) => output,
                (None, Some(error)) => Err(clone_error(error)),
                // The inner service returned too few results. Dropping the sender fails the
                // request: it must not get the result of another one.
                (None, None) => continue,
            };
            let reply = output
                .map(|output| BatchReply {
                    output,
                    queued: self.started.saturating_duration_since(recipient.queued),
                    ran,
                    batch_weight: self.weight,
                })
                .map_err(Error::Inner);
            // Fails if the caller has gone in the meantime.
            let _ = recipient.reply.send(reply);
        }
    }
}

impl<S, I> Worker<S, I>
where
    S: InnerService<I>,
{
    pub(crate) fn new(id: u64, inner: S, queue: Queue<I, S::Output, S::Error>) -> Self {
        Self {
            inner,
            queue: Registered { id, queue },
            running: FuturesUnordered::new(),
            held: None,
            is_stopping: false,
            for_callers: None,
        }
    }

    /// The same worker, which registers `for_callers` when it has nothing to do.
    pub(crate) fn open_to_callers(self, for_callers: ForCallers<I, S::Output, S::Error>) -> Self {
        Self {
            for_callers: Some(for_callers),
            ..self
        }
    }

    fn start(&mut self, formed: Formed<I, S::Output, S::Error>) {
        let Formed {
            id,
            batch,
            recipients,
        } = formed;
        let started = Instant::now();
        let weight = batch.weight;
        let listing = Listing {
            batch: id,
            queue: self.queue.queue.clone(),
            ran: None,
        };
        self.running.push(Run {
            future: self.inner.call(batch),
            batch: Some(InFlight {
                listing,
                recipients,
                weight,
                started,
            }),
        });
    }

    /// Replies to the batches that have run. Returns whether all of them succeeded.
    fn finish(&mut self, cx: &mut Context<'_>) -> bool {
        let mut all_succeeded = true;
        while let Poll::Ready(Some((result, batch))) = Pin::new(&mut self.running).poll_next(cx) {
            all_succeeded &= result.is_ok();
            if let Some(batch) = batch {
                batch.reply(result, S::clone_error);
            }
        }
        all_succeeded
    }

    /// Runs a batch to its end on the thread of a caller. Returns whether the worker could run
    /// another one now; if not, whoever drives the worker must look after it.
    pub(crate) fn run_for_caller(&mut self, formed: Formed<I, S::Output, S::Error>) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.start(formed);
        self.finish(&mut cx)
            && self.running.is_empty()
            && matches!(self.inner.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

impl<S, I> Future for Worker<S, I>
where
    S: InnerService<I> + Unpin,
{
    type Output = Result<(), S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            this.finish(cx);
            if this.is_stopping {
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
                    this.queue.queue.wake_for_waiting();
                    return Poll::Pending;
                }
            }
            let idle = || Idle {
                worker: this.queue.id,
                waker: cx.waker().clone(),
                for_callers: this.for_callers.clone(),
            };
            match this.queue.queue.next(this.queue.id, idle) {
                Next::Run(formed) => {
                    this.held = None;
                    this.start(formed);
                }
                Next::Stop => this.is_stopping = true,
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

impl<S, I> fmt::Debug for Worker<S, I>
where
    S: InnerService<I>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue.queue)
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}
