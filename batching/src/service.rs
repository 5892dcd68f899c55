use std::fmt;
use std::task::{Context, Poll};

use tower::Service;

use crate::inner::InnerService;
use crate::{BatchReply, Error, Limits, Queue, ResponseFuture, Submission, Worker};

/// A [`Service`] that queues each request for the workers of a [`Queue`].
///
/// It is always ready: a full queue refuses the request at once. Waiting for room instead, as
/// [`tower::buffer`](https://docs.rs/tower/latest/tower/buffer/) does, would be a second queue in
/// front of this one, without a bound, without priorities and without deadlines.
///
/// A clone is another handle to the same queue.
pub struct BatchService<I, O, E> {
    queue: Queue<I, O, E>,
}

impl<I, O, E> BatchService<I, O, E> {
    pub(crate) fn new(queue: Queue<I, O, E>) -> Self {
        Self { queue }
    }

    /// A service and the worker that runs its batches in `inner`.
    ///
    /// The worker is a future that must be driven: spawned on a runtime, or blocked on by a thread
    /// of its own. For more than one worker start with [`Queue::new`].
    ///
    /// ```
    /// use batching::{Batch, BatchService, Limits, Submission};
    /// use tower::{Service, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let lengths = tower::service_fn(|batch: Batch<String>| async move {
    ///     let lengths = batch.inputs.iter().map(|text| Ok(text.len()));
    ///     Ok::<_, String>(lengths.collect::<Vec<_>>())
    /// });
    /// let (service, worker) = BatchService::pair(lengths, Limits::new(8, 64));
    /// tokio::spawn(worker);
    /// let reply = service.oneshot(Submission::new("hello".to_owned())).await.unwrap();
    /// assert_eq!(reply.output, 5);
    /// # }
    /// ```
    pub fn pair<S>(inner: S, limits: Limits) -> (Self, Worker<S, I>)
    where
        S: InnerService<I, Output = O, Error = E>,
    {
        let queue = Queue::new(limits);
        let worker = queue.worker(inner);
        (queue.service(), worker)
    }

    /// The queue that requests go to.
    pub fn queue(&self) -> &Queue<I, O, E> {
        &self.queue
    }
}

impl<I, O, E> Service<Submission<I>> for BatchService<I, O, E> {
    type Response = BatchReply<O>;
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
