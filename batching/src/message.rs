use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{Error, Flow, Priority};

/// A request as a caller submits it: the input, and how it is to be queued.
///
/// ```
/// use std::time::Duration;
///
/// use batching::{Flow, Priority, Submission};
///
/// let submission = Submission::new("a long text")
///     .weight(3)
///     .bucket(128)
///     .priority(Priority::High)
///     .flow(Flow(17))
///     .timeout(Duration::from_millis(500));
/// assert_eq!(submission.input, "a long text");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Submission<I> {
    /// The part of the request that the inner service gets.
    pub input: I,
    /// Its share of a batch's weight. By default 1; 0 counts as 1.
    pub weight: u32,
    /// Only requests of the same bucket run together, for example texts of about the same length.
    /// By default 0.
    pub bucket: u32,
    /// Which requests run before it.
    pub priority: Priority,
    /// The client that it belongs to. Requests of equal priority share the service equally between
    /// flows.
    pub flow: Flow,
    /// When the caller stops waiting. A request that has not run by then fails with
    /// [`Error::Expired`]. By default never.
    pub deadline: Option<Instant>,
}

impl<I> Submission<I> {
    /// A request of weight 1 with normal priority and no deadline.
    pub fn new(input: I) -> Self {
        Self {
            input,
            weight: 1,
            bucket: 0,
            priority: Priority::default(),
            flow: Flow::default(),
            deadline: None,
        }
    }

    /// Sets its share of a batch's weight.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Lets it run with requests of the same bucket only.
    #[must_use]
    pub fn bucket(self, bucket: u32) -> Self {
        Self { bucket, ..self }
    }

    /// Sets which requests run before it.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Sets which client it belongs to.
    #[must_use]
    pub fn flow(self, flow: Flow) -> Self {
        Self { flow, ..self }
    }

    /// Sets when the caller stops waiting: an `Instant` of tokio or of the standard library.
    #[must_use]
    pub fn deadline(self, deadline: impl Into<Instant>) -> Self {
        Self {
            deadline: Some(deadline.into()),
            ..self
        }
    }

    /// Sets the deadline to this time from now.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            // A time that no clock can show is never.
            deadline: Instant::now().checked_add(timeout),
            ..self
        }
    }
}

/// The output for one request, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchReply<O> {
    /// The inner service's output for this request.
    pub output: O,
    /// How long the request waited until it was taken into a batch.
    pub queued: Duration,
    /// How long the inner service took for the batch.
    pub ran: Duration,
    /// Weight of the batch, this request included.
    pub batch_weight: u32,
}

/// Requests that run together, as the inner service gets them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Batch<I> {
    /// The inputs in the order of the queue. Never empty.
    pub inputs: Vec<I>,
    /// Sum of the requests' weights.
    pub weight: u32,
    pub(crate) abandonment: Arc<Abandonment>,
}

impl<I> Batch<I> {
    /// A batch without a queue, and its callers: for tests of an inner service.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// use batching::Batch;
    ///
    /// let (batch, callers) = Batch::with_callers(vec!["a", "b"], 2);
    /// let interrupted = Arc::new(AtomicBool::new(false));
    /// let flag = Arc::clone(&interrupted);
    /// batch.on_abandoned(move || flag.store(true, Ordering::Relaxed));
    /// callers.all_leave();
    /// assert!(interrupted.load(Ordering::Relaxed));
    /// ```
    pub fn with_callers(inputs: Vec<I>, weight: u32) -> (Self, BatchCallers) {
        let abandonment = Arc::new(Abandonment::default());
        let callers = BatchCallers(Arc::clone(&abandonment));
        let batch = Self {
            inputs,
            weight,
            abandonment,
        };
        (batch, callers)
    }

    /// Calls `interrupt` once every caller of this batch has gone, so that the inner service can
    /// stop a run that nobody waits for.
    ///
    /// It is called on the thread of the last caller, at once if all callers have gone already, and
    /// never after the batch was replied to. A second call replaces the first `interrupt`.
    pub fn on_abandoned(&self, interrupt: impl FnOnce() + Send + 'static) {
        self.abandonment.set(Box::new(interrupt));
    }
}

/// The callers of a [`Batch`] that was made by [`Batch::with_callers`].
#[derive(Debug)]
pub struct BatchCallers(Arc<Abandonment>);

impl BatchCallers {
    /// Does what happens when the last caller of a batch goes.
    pub fn all_leave(&self) {
        self.0.abandon();
    }
}

/// Sends a request's reply to its caller.
pub(crate) type ReplySender<O, E> = oneshot::Sender<Result<BatchReply<O>, Error<E>>>;
/// The caller's end of a [`ReplySender`].
pub(crate) type ReplyReceiver<O, E> = oneshot::Receiver<Result<BatchReply<O>, Error<E>>>;

/// A queued request: the part that goes into the batch, and the way back to the caller.
pub(crate) struct Message<I, O, E> {
    pub(crate) input: I,
    pub(crate) reply: ReplySender<O, E>,
}

/// Tells the inner service that nobody waits for a running batch any more.
#[derive(Default)]
pub(crate) struct Abandonment(Mutex<AbandonmentState>);

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

    pub(crate) fn abandon(&self) {
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
