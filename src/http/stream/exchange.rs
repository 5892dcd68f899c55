use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use axum::http::{Request, Version};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

/// No request: the connection is idle, a head is arriving, or the last response is being written.
pub(super) const WAITING: u8 = 0;
/// A request's body is arriving.
pub(super) const RECEIVING: u8 = 1;
/// The request is complete, its response is not.
const ANSWERING: u8 = 2;
/// Like [`ANSWERING`], for HTTP/1.0, where `100 Continue` must not be sent.
pub(super) const ANSWERING_OLD: u8 = 3;

/// State of a connection that the service, which sees requests, and the stream, which sees bytes,
/// share.
#[derive(Debug)]
pub struct Exchange {
    state: AtomicU8,
    /// Start of the idle time, of the head, or of the latest pause in writing, in milliseconds
    /// since [`BEGIN`].
    since: AtomicU64,
}

/// Origin of the times that are stored in an atomic number.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Default for Exchange {
    fn default() -> Self {
        let exchange = Self {
            state: AtomicU8::new(WAITING),
            since: AtomicU64::new(0),
        };
        exchange.goes_on(Instant::now());
        exchange
    }
}

impl Exchange {
    pub(super) fn goes_on(&self, now: Instant) {
        let since = now.saturating_duration_since(*BEGIN).as_millis();
        self.since
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Since when the connection has been waiting for its client, in milliseconds. `None` while a
    /// request is being processed.
    pub fn waits_since(&self) -> Option<u64> {
        let waits = self.is(WAITING) || self.is(RECEIVING);
        waits.then(|| self.since.load(Ordering::Relaxed))
    }

    /// Sets the state of a complete request.
    #[cfg(test)]
    pub fn answers(&self) {
        self.state.store(ANSWERING, Ordering::Relaxed);
    }

    /// Called with the head of a request.
    pub fn begin(self: &Arc<Self>, request: Request<Incoming>) -> Request<Watched> {
        let answering = match request.version() {
            Version::HTTP_09 | Version::HTTP_10 => ANSWERING_OLD,
            _ => ANSWERING,
        };
        let at_end = request.body().is_end_stream();
        self.state
            .store(if at_end { answering } else { RECEIVING }, Ordering::Relaxed);
        request.map(|inner| Watched {
            inner,
            exchange: Arc::clone(self),
            answering,
        })
    }

    /// Called when the response is ready to be written.
    pub fn end(&self) {
        // The stream sets the time when it writes or blocks.
        self.since.store(u64::MAX, Ordering::Relaxed);
        self.state.store(WAITING, Ordering::Relaxed);
    }

    pub(super) fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }
}

/// A request's body that tells the exchange when it is complete.
#[derive(Debug)]
pub struct Watched {
    inner: Incoming,
    exchange: Arc<Exchange>,
    answering: u8,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream() {
            let state = &self.exchange.state;
            // Fails if the response came before the end of the body.
            let _ = state.compare_exchange(RECEIVING, self.answering, Ordering::Relaxed, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
