use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::ticket::Ticket;
use crate::{BatchReply, Error, Refusal};

pin_project! {
    /// The future of a [`BatchService`](crate::BatchService): resolves when the batch with the
    /// request has run, or at the request's deadline.
    ///
    /// Dropping it withdraws the request. With a [`CallerRunsWorker`](crate::CallerRunsWorker)
    /// behind the queue it must be polled when it is woken, or dropped: other requests may depend
    /// on it to run them.
    #[must_use = "the request is withdrawn when its future is dropped"]
    pub struct ResponseFuture<I, O, E> {
        ticket: Result<Ticket<I, O, E>, Refusal>,
        deadline: Option<Instant>,
        // Made when the request has to wait for a worker. Most requests that run on their caller's
        // task never do.
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl<I, O, E> ResponseFuture<I, O, E> {
    pub(crate) fn new(ticket: Result<Ticket<I, O, E>, Refusal>, deadline: Option<Instant>) -> Self {
        Self {
            ticket,
            deadline,
            sleep: None,
        }
    }
}

impl<I, O, E> Future for ResponseFuture<I, O, E> {
    type Output = Result<BatchReply<O>, Error<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let ticket = match this.ticket {
            Ok(ticket) => ticket,
            Err(refusal) => return Poll::Ready(Err((*refusal).into())),
        };
        if let Poll::Ready(reply) = ticket.poll(cx) {
            return Poll::Ready(reply);
        }
        if ticket.may_still_run() {
            return Poll::Pending;
        }
        // The queue looks at deadlines only when it forms a batch. While all workers are busy the
        // caller finds out here.
        if this.sleep.is_none()
            && let Some(deadline) = *this.deadline
        {
            this.sleep.set(Some(sleep_until(deadline)));
        }
        match this.sleep.as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| Err(Error::Expired)),
            None => Poll::Pending,
        }
    }
}

impl<I, O, E> fmt::Debug for ResponseFuture<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
