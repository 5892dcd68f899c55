use std::future::Future;
use std::task::{Context, Poll};

use tower::Service;

use crate::Batch;

/// A [`Service`] that runs batches: `Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E>`.
///
/// Every such service implements this trait, and no other type can. It exists to say the bound
/// once. What the queue expects of the service:
///
/// * [`poll_ready`](Service::poll_ready) says whether a batch could start *now*. The worker forms a
///   batch at that moment, out of everything that waits. An error from `poll_ready` ends the
///   worker.
/// * The response has one result for each input, in the same order. Where results are missing, the
///   requests without one fail with [`Refusal::Unavailable`](crate::Refusal::Unavailable).
/// * An `Err` inside the response fails that request alone. An `Err` in place of the response fails
///   every request of the batch, each with a clone; an error that cannot be cloned can be put into
///   an [`Arc`](std::sync::Arc).
pub trait InnerService<I>: sealed::Sealed<I> {
    /// The output for one input.
    type Output;
    /// Why an input, or a whole batch, has no output.
    type Error;
    /// The run of one batch.
    type Future: Future<Output = Result<Vec<Result<Self::Output, Self::Error>>, Self::Error>>;

    /// [`Service::poll_ready`].
    #[doc(hidden)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// [`Service::call`].
    #[doc(hidden)]
    fn call(&mut self, batch: Batch<I>) -> Self::Future;

    /// The error of a batch, once more for another request of it.
    #[doc(hidden)]
    fn clone_error(error: &Self::Error) -> Self::Error;
}

impl<S, I, O, E> InnerService<I> for S
where
    S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E>,
    E: Clone,
{
    type Output = O;
    type Error = E;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Service::poll_ready(self, cx)
    }

    fn call(&mut self, batch: Batch<I>) -> S::Future {
        Service::call(self, batch)
    }

    fn clone_error(error: &E) -> E {
        error.clone()
    }
}

mod sealed {
    use tower::Service;

    use crate::Batch;

    pub trait Sealed<I> {}

    impl<S, I, O, E> Sealed<I> for S
    where
        S: Service<Batch<I>, Response = Vec<Result<O, E>>, Error = E>,
        E: Clone,
    {
    }
}
