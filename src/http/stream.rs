//! The time limits of a connection, and what becomes of one whose client has closed its side.
//!
//! hyper has one limit for reading a head, idle time included, and none for writing. This wrapper around the stream keeps the
//! three apart: how long a connection may be idle, how long a head may take from its first byte, and how long a client may take
//! to read an answer. The limits cost a look at the clock for each read and write; the timer is set again only when it fires.
//!
//! A client that closes its writing side after a request still reads, as `nc -N` does. A client that is gone looks the same
//! until something is sent to it. While such a request is being answered, the wrapper therefore sends `100 Continue` from time
//! to time, which HTTP/1.1 allows before any answer: a client that is gone replies with a reset, and its work is dropped.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Version};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The least rate at which an answer must be read while it does not fit into the socket, in bytes per second. Below it, a client
/// that reads a byte now and then would hold its connection for as long as it likes.
const LEAST_RATE: u64 = 1024;

/// What a client that may be gone is sent.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// When the second probe is sent; the pauses double from there.
const FIRST_PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How long the service may take to find that a request is complete when the client has closed its side.
const REQUEST_END: Duration = Duration::from_millis(50);
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// How long a connection may be idle.
    pub keep_alive: Duration,
    /// How long the head of a request may take from its first byte.
    pub header: Duration,
    /// How long an answer may make too little progress.
    pub write: Duration,
}

/// No request: the connection is idle, or a head is arriving, or the last answer is being written.
const WAITING: u8 = 0;
/// A request's body is arriving.
const RECEIVING: u8 = 1;
/// The request is there in full, and its answer is not.
const ANSWERING: u8 = 2;
/// The same for a request of HTTP/1.0, which must not be sent `100 Continue`.
const ANSWERING_OLD: u8 = 3;

/// Where the exchange of request and answer stands: the service knows of requests, the stream of bytes.
#[derive(Debug)]
pub struct Exchange {
    state: AtomicU8,
    /// Begin of the idle time, of the head, or of the latest pause in writing: milliseconds since [`BEGIN`].
    since: AtomicU64,
}

/// Instants are counted from here, so that one fits into an atomic number.
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
    fn goes_on(&self, now: Instant) {
        let since = now.saturating_duration_since(*BEGIN).as_millis();
        self.since
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Since when the connection waits for its client, in milliseconds; none while an answer is being made.
    pub fn waits_since(&self) -> Option<u64> {
        let waits = self.is(WAITING) || self.is(RECEIVING);
        waits.then(|| self.since.load(Ordering::Relaxed))
    }

    /// As if a request were there in full.
    #[cfg(test)]
    pub fn answers(&self) {
        self.state.store(ANSWERING, Ordering::Relaxed);
    }

    /// The head of a request is there.
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

    /// The answer is there.
    pub fn end(&self) {
        // The stream says since when, once it writes or cannot.
        self.since.store(u64::MAX, Ordering::Relaxed);
        self.state.store(WAITING, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }
}

/// A request's body, which tells the exchange when it has arrived.
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
            // Unless the answer came before the end of the body.
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

/// An answer that the client does not take as fast as it comes.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    since: Instant,
    /// What was taken since.
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Stream<S> {
    inner: S,
    limits: StreamLimits,
    exchange: Arc<Exchange>,
    /// Begin of the idle time, or of the head.
    since: Instant,
    /// Whether a part of a head has arrived.
    in_head: bool,
    blocked: Option<Blocked>,
    /// Whether something was written that may not have left.
    unflushed: bool,
    /// The client has closed its side while its request is being answered: when to send the next probe, and the pause behind it.
    half_closed: Option<(Instant, Duration)>,
    /// The same before the request is known to be complete: when it counts as cut off.
    cut_off: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer will fire.
    armed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Wraps a connection that has just been accepted.
    pub fn new(inner: S, limits: StreamLimits, exchange: Arc<Exchange>) -> Self {
        let now = Instant::now();
        Self {
            inner,
            limits,
            exchange,
            since: now,
            in_head: false,
            blocked: None,
            unflushed: false,
            half_closed: None,
            cut_off: None,
            timer: Box::pin(sleep_until(now)),
            armed: false,
        }
    }

    /// When the stream must have gone on.
    fn deadline(&self) -> Option<Instant> {
        let writing = self.blocked.map(|blocked| blocked.since + self.limits.write);
        let reading = self.exchange.is(WAITING).then(|| {
            let limit = if self.in_head {
                self.limits.header
            } else {
                self.limits.keep_alive
            };
            self.since + limit
        });
        match (writing, reading) {
            (Some(writing), Some(reading)) => Some(writing.min(reading)),
            (writing, reading) => writing.or(reading),
        }
    }

    /// Whether the deadline has passed. If not, the task is woken when it does.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(deadline) = self.deadline() else {
                return false;
            };
            if !self.armed || self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
                self.armed = true;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.armed = false;
            if Instant::now() >= deadline {
                return true;
            }
        }
    }

    /// Has the task woken at the deadline. hyper does not ask again to read when it has written an answer, if it has asked before.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let Some(deadline) = self.deadline() else { return };
        if self.half_closed.is_some() || self.cut_off.is_some() {
            // The client has closed its side, which hyper has not heard yet.
            cx.waker().wake_by_ref();
            return;
        }
        if self.armed && self.timer.deadline() <= deadline {
            return;
        }
        self.timer.as_mut().reset(deadline);
        self.armed = self.timer.as_mut().poll(cx).is_pending();
        if !self.armed {
            cx.waker().wake_by_ref();
        }
    }

    fn goes_on(&mut self) {
        self.since = Instant::now();
        self.exchange.goes_on(self.since);
    }

    fn written(&mut self, count: usize) {
        self.goes_on();
        self.in_head = false;
        self.unflushed = true;
        if let Some(blocked) = &mut self.blocked {
            blocked.bytes += count as u64;
            if blocked.bytes >= LEAST_RATE.saturating_mul(self.limits.write.as_secs().max(1)) {
                self.blocked = None;
            }
        }
    }

    fn blocked<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.blocked.is_none() {
            let since = Instant::now();
            self.blocked = Some(Blocked { since, bytes: 0 });
            self.exchange.goes_on(since);
        }
        if self.is_late(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read its answer",
            )));
        }
        Poll::Pending
    }

    /// The client has closed its side. Pending until the answer is there; an error once the client proves to be gone.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let now = Instant::now();
            if self.exchange.is(RECEIVING) || self.exchange.is(WAITING) {
                // hyper may have the request in full, before the service has begun with it or has seen its body's end.
                let until = *self.cut_off.get_or_insert(now + REQUEST_END);
                if now >= until {
                    return Poll::Ready(Ok(()));
                }
                self.timer.as_mut().reset((now + REQUEST_END / 10).min(until));
                self.armed = false;
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            if self.exchange.is(ANSWERING_OLD) {
                return Poll::Pending;
            }
            let (next, pause) = *self.half_closed.get_or_insert((now, FIRST_PROBE_PAUSE));
            if now < next {
                self.timer.as_mut().reset(next);
                // The other deadlines set it again.
                self.armed = false;
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            self.half_closed = Some((now + pause, (pause * 2).min(LONGEST_PROBE_PAUSE)));
            // Never within an answer to an earlier request.
            if self.unflushed || self.blocked.is_some() {
                continue;
            }
            match Pin::new(&mut self.inner).poll_write(cx, PROBE) {
                Poll::Ready(Ok(count)) if count == PROBE.len() => {
                    if let Poll::Ready(Err(error)) = Pin::new(&mut self.inner).poll_flush(cx) {
                        return Poll::Ready(Err(error));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // A part of a probe cannot be taken back. Its client reads nothing.
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Poll::Pending => {}
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let filled = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > filled => {
                if this.exchange.is(WAITING) && !this.in_head {
                    this.in_head = true;
                    this.goes_on();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) if buffer.remaining() > 0 && (this.in_head || !this.exchange.is(WAITING)) => {
                this.poll_half_closed(cx)
            }
            Poll::Pending if this.is_late(cx) => {
                if this.in_head || this.blocked.is_some() {
                    let error =
                        io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long");
                    return Poll::Ready(Err(error));
                }
                // As if an idle client had closed the connection, so that it is closed in order.
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Pending => self.blocked(cx),
            polled @ Poll::Ready(_) => {
                if let Poll::Ready(Ok(count)) = polled {
                    self.written(count);
                }
                polled
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write_vectored(cx, slices) {
            Poll::Pending => self.blocked(cx),
            polled @ Poll::Ready(_) => {
                if let Poll::Ready(Ok(count)) = polled {
                    self.written(count);
                }
                polled
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Pending => self.blocked(cx),
            polled @ Poll::Ready(_) => {
                self.blocked = None;
                self.unflushed = false;
                self.arm(cx);
                polled
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_shutdown(cx) {
            Poll::Pending => self.blocked(cx),
            polled @ Poll::Ready(_) => polled,
        }
    }
}
