use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot::error::TryRecvError;

use crate::caller_runs::Phase;
use crate::message::ReplyReceiver;
use crate::queue::Queue;
use crate::{BatchReply, Error, Refusal};

/// A queued request as its caller holds it.
///
/// Dropping it before the reply came takes the request out of the queue, or out of the batch that
/// runs. The [phases](Phase) are part of the protocol that [`caller_runs`](crate::caller_runs)
/// describes.
pub(crate) struct Ticket<I, O, E> {
    queue: Queue<I, O, E>,
    id: u64,
    reply: ReplyReceiver<O, E>,
    phase: Phase,
    has_replied: bool,
}

impl<I, O, E> Ticket<I, O, E> {
    pub(crate) fn new(queue: Queue<I, O, E>, id: u64, reply: ReplyReceiver<O, E>, phase: Phase) -> Self {
        Self {
            queue,
            id,
            reply,
            phase,
            has_replied: false,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<BatchReply<O>, Error<E>>> {
        loop {
            match self.phase {
                Phase::GiveWay => {
                    self.phase = Phase::TryToRun;
                    self.queue.give_way(cx);
                    return Poll::Pending;
                }
                Phase::TryToRun => {
                    // The receiver has no waker yet, so a reply that this very call sends wakes
                    // nobody.
                    let has_run = self.reply.is_empty() && self.queue.run_as_caller();
                    if let Some(reply) = self.take_reply() {
                        self.leave_to_workers();
                        return Poll::Ready(reply);
                    }
                    if has_run {
                        // The batch held only requests that were ahead of this one. Try again.
                        self.phase = Phase::GiveWay;
                    } else {
                        self.leave_to_workers();
                    }
                }
                Phase::Wait => {
                    let received = ready!(Pin::new(&mut self.reply).poll(cx));
                    return Poll::Ready(self.finish(received.ok()));
                }
            }
        }
    }

    /// Whether this caller is still to come: whether it will look for a batch to run.
    pub(crate) fn may_still_run(&self) -> bool {
        self.phase != Phase::Wait
    }

    fn take_reply(&mut self) -> Option<Result<BatchReply<O>, Error<E>>> {
        match self.reply.try_recv() {
            Ok(reply) => Some(self.finish(Some(reply))),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(self.finish(None)),
        }
    }

    fn finish(
        &mut self,
        received: Option<Result<BatchReply<O>, Error<E>>>,
    ) -> Result<BatchReply<O>, Error<E>> {
        self.has_replied = true;
        // A sender that is dropped without a reply belonged to a worker that was dropped in the
        // middle of a batch.
        received.unwrap_or(Err(Error::Refused(Refusal::Unavailable)))
    }

    fn leave_to_workers(&mut self) {
        if self.may_still_run() {
            self.phase = Phase::Wait;
            self.queue.caller_has_come();
        }
    }
}

impl<I, O, E> Drop for Ticket<I, O, E> {
    fn drop(&mut self) {
        if !self.has_replied {
            self.queue.abandon(self.id);
        }
        self.leave_to_workers();
    }
}
