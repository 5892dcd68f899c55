use std::fmt;
use std::marker::PhantomData;

use tower::Layer;

use crate::inner::InnerService;
use crate::{Batch, BatchService, Limits};

/// A [`Layer`] that puts a [`BatchService`] in front of a service that takes [`Batch`]es, and
/// spawns its worker on the current tokio runtime.
///
/// It is for inner services that do not block. For one that does, drive the worker of
/// [`BatchService::pair`], or the workers of a [`Queue`](crate::Queue), on threads of their own.
///
/// # Panics
///
/// [`layer`](Layer::layer) panics outside of a tokio runtime, as `tower::buffer::BufferLayer` does.
///
/// ```
/// use batching::{Batch, BatchLayer, Limits, Submission};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(BatchLayer::new(Limits::new(8, 64)))
///     .service_fn(|batch: Batch<u32>| async move {
///         Ok::<_, String>(batch.inputs.into_iter().map(|n| Ok(n * n)).collect::<Vec<_>>())
///     });
/// assert_eq!(service.oneshot(Submission::new(7)).await.unwrap().output, 49);
/// # }
/// ```
pub struct BatchLayer<I> {
    limits: Limits,
    batch: PhantomData<fn(Batch<I>)>,
}

impl<I> BatchLayer<I> {
    /// A layer whose queues have these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            batch: PhantomData,
        }
    }
}

impl<S, I> Layer<S> for BatchLayer<I>
where
    S: InnerService<I> + Send + Unpin + 'static,
    S::Future: Send,
    S::Output: Send + 'static,
    S::Error: Send + 'static,
    I: Send + 'static,
{
    type Service = BatchService<I, S::Output, S::Error>;

    fn layer(&self, inner: S) -> Self::Service {
        let (service, worker) = BatchService::pair(inner, self.limits);
        tokio::spawn(worker);
        service
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
