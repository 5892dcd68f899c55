use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::service::Ticket;
use super::{Answer, Error, Refusal};

pin_project! {
    /// Resolves when the batch that the request was part of has run, or at the request's deadline.
    ///
    /// Dropping it withdraws the request.
    #[must_use = "the request is withdrawn when its future is dropped"]
    pub struct ResponseFuture<I, O, E> {
        ticket: Result<Ticket<I, O, E>, Refusal>,
        deadline: Instant,
        // Set up when the request really waits: most that run on their caller's task never do.
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl<I, O, E> ResponseFuture<I, O, E> {
    pub(super) fn new(ticket: Result<Ticket<I, O, E>, Refusal>, deadline: Instant) -> Self {
        Self {
            ticket,
            deadline,
            sleep: None,
        }
    }
}

impl<I, O, E> Future for ResponseFuture<I, O, E> {
    type Output = Result<Answer<O>, Error<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let ticket = match this.ticket {
            Ok(ticket) => ticket,
            Err(refusal) => return Poll::Ready(Err((*refusal).into())),
        };
        if let Poll::Ready(answer) = ticket.poll(cx) {
            return Poll::Ready(answer);
        }
        if ticket.has_turn() {
            return Poll::Pending;
        }
        // The queue drops expired requests only when it forms a batch; a caller must hear of it while all lanes are busy.
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(*this.deadline)));
        }
        match this.sleep.as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| Err(Error::Expired)),
            None => Poll::Pending,
        }
    }
}
