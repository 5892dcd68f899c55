use std::fmt;
use std::marker::PhantomData;

use tower::{Layer, Service};

use super::{Batch, BatchService, Limits, Queue};

/// Puts a batch queue in front of a service that takes [`Batch`]es, with one worker on the current tokio runtime.
///
/// For a service that blocks while it runs, make a [`Queue`] and drive its workers on threads of their own.
pub struct BatchLayer<I> {
    limits: Limits,
    input: PhantomData<fn(I)>,
}

impl<I> BatchLayer<I> {
    /// A layer whose queues have these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            input: PhantomData,
        }
    }
}

impl<S, I, O, E> Layer<S> for BatchLayer<I>
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E> + Send + Unpin + 'static,
    S::Future: Send,
    I: Send + 'static,
    O: Send + 'static,
    E: Clone + Send + 'static,
{
    type Service = BatchService<I, O, E>;

    fn layer(&self, inner: S) -> Self::Service {
        let queue = Queue::new(self.limits);
        tokio::spawn(queue.worker(inner));
        queue.service()
    }
}

impl<I> Clone for BatchLayer<I> {
    fn clone(&self) -> Self {
        Self::new(self.limits)
    }
}

impl<I> fmt::Debug for BatchLayer<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchLayer")
            .field("limits", &self.limits)
            .finish()
    }
}
