//! The time limits of a connection, and the handling of half-closed connections.
//!
//! hyper has one limit for reading a head, which includes idle time, and none for writing. This
//! wrapper around the stream has three: how long a connection may be idle, how long a head may take
//! from its first byte, and how long a client may take to read a response. They cost one reading of
//! the clock for each read and write; the timer is reset only when it fires.
//!
//! A client that closes its writing side after a request may still read, as `nc -N` does. A client
//! that has disconnected looks the same until something is sent to it. While such a request is
//! being processed, the wrapper therefore sends `100 Continue` from time to time, which HTTP/1.1
//! allows before any response. A disconnected client replies with a reset, and its work is dropped.

mod exchange;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::exchange::Exchange;
use self::exchange::{ANSWERING_OLD, RECEIVING, WAITING};

/// Lowest rate in bytes per second at which a client must read a response that does not fit into
/// the socket's buffer. Without it, a client could hold its connection by reading a byte now and
/// then.
const LEAST_RATE: u64 = 1024;

/// Sent to a client that may have disconnected.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Pause before the second probe. It doubles with each probe.
const FIRST_PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How long a request of a half-closed connection may take to be seen as complete by the service.
const REQUEST_END: Duration = Duration::from_millis(50);
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// How long a connection may be idle.
    pub keep_alive: Duration,
    /// How long the head of a request may take from its first byte.
    pub header: Duration,
    /// How long a response may make too little progress.
    pub write: Duration,
}

/// A response that the client reads more slowly than it is written.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    since: Instant,
    /// Bytes written since.
    bytes: u64,
}

#[derive(Debug)]
pub struct Stream<S> {
    inner: S,
    limits: StreamLimits,
    exchange: Arc<Exchange>,
    /// Start of the idle time or of the head.
    since: Instant,
    /// Part of a head has arrived.
    in_head: bool,
    blocked: Option<Blocked>,
    /// Bytes were written and not flushed.
    unflushed: bool,
    /// Half-closed while the request is being processed: time of the next probe, and the pause
    /// after it.
    half_closed: Option<(Instant, Duration)>,
    /// Half-closed before the request is known to be complete: when it counts as cut off.
    cut_off: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// The timer will fire.
    armed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
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

    /// When the stream must have made progress.
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

    /// Whether the deadline has passed. If not, the task is woken at the deadline.
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

    /// Wakes the task at the deadline. After writing a response, hyper does not poll for reading
    /// again if it has done so before.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let Some(deadline) = self.deadline() else { return };
        if self.half_closed.is_some() || self.cut_off.is_some() {
            // hyper does not know yet that the client has closed its side.
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
                "the client does not read the response",
            )));
        }
        Poll::Pending
    }

    /// The client has closed its side. Pending until the response is ready; an error if the client
    /// turns out to have disconnected.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let now = Instant::now();
            if self.exchange.is(RECEIVING) || self.exchange.is(WAITING) {
                // hyper may have the complete request before the service has started or has seen
                // the end of the body.
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
                // The other deadlines reset the timer.
                self.armed = false;
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            self.half_closed = Some((now + pause, (pause * 2).min(LONGEST_PROBE_PAUSE)));
            // A probe must not land inside the response to an earlier request.
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
                // A partial probe cannot be taken back, and its client reads nothing.
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
                    let error = io::Error::new(io::ErrorKind::TimedOut, "the request's head took too long");
                    return Poll::Ready(Err(error));
                }
                // Treated as closed by the client, so that hyper closes the connection cleanly.
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
