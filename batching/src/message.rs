use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Error, Flow, Priority};

/// What a caller hands in.
#[derive(Debug, Clone)]
pub struct Submission<I> {
    /// What the inner service gets.
    pub input: I,
    /// Part of a batch's weight that it takes, at least 1.
    pub weight: u32,
    /// Only requests of one bucket run together: texts of about one length, say. 0 where all may.
    pub bucket: u32,
    /// Who goes first.
    pub priority: Priority,
    /// Whose it is: within a priority, flows share equally.
    pub flow: Flow,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// What a caller gets back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<O> {
    /// What the inner service gave for this input.
    pub output: O,
    /// From being queued to being taken into a batch.
    pub queued: Duration,
    /// From there until the inner service had answered.
    pub ran: Duration,
    /// Weight of the batch that it was part of.
    pub batch_weight: u32,
}

/// What the inner service gets: inputs that were queued when it was ready, in their order.
#[derive(Debug)]
pub struct Batch<I> {
    /// At least one.
    pub inputs: Vec<I>,
    /// Sum of their weights.
    pub weight: u32,
    pub(super) abandonment: Arc<Abandonment>,
}

impl<I> Batch<I> {
    /// Has `interrupt` called, on any thread, once every caller of this batch has gone. At most one can be set; a later
    /// one takes its place. It is called at once if that has happened already, and never after the batch was answered.
    pub fn on_abandoned(&self, interrupt: impl FnOnce() + Send + 'static) {
        self.abandonment.set(Box::new(interrupt));
    }
}

/// The caller's end of an answer.
pub(super) type Answered<O, E> = oneshot::Sender<Result<Answer<O>, Error<E>>>;

/// A queued request: what goes into the batch, and where its answer goes.
pub(super) struct Message<I, O, E> {
    pub(super) input: I,
    pub(super) answer: Answered<O, E>,
}

/// Tells the inner service that nobody waits for a running batch any more.
#[derive(Default)]
pub(super) struct Abandonment(Mutex<AbandonmentState>);

#[derive(Default)]
enum AbandonmentState {
    #[default]
    Wanted,
    Watched(Box<dyn FnOnce() + Send>),
    Abandoned,
}

impl Abandonment {
    fn set(&self, interrupt: Box<dyn FnOnce() + Send>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, AbandonmentState::Abandoned) {
            drop(state);
            interrupt();
        } else {
            *state = AbandonmentState::Watched(interrupt);
        }
    }

    pub(super) fn abandon(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, AbandonmentState::Abandoned);
        drop(state);
        if let AbandonmentState::Watched(interrupt) = before {
            interrupt();
        }
    }
}

impl fmt::Debug for Abandonment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Abandonment")
    }
}
