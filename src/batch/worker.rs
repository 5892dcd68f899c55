use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use super::service::{Caller, Formed, Next, Queue};
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
            while let Poll::Ready(Some((result, batch))) = Pin::new(&mut this.running).poll_next(cx) {
                if let Some(batch) = batch {
                    batch.answer(result);
                }
            }
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
            match this.queue.queue.next(this.queue.id, cx) {
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
