use std::time::Duration;

/// How much a queue holds, how large a batch is, and how long a batch may wait for more requests.
///
/// ```
/// use std::time::Duration;
///
/// use batching::Limits;
///
/// // Batches of up to 8, at most 64 requests waiting. The rest has defaults.
/// let limits = Limits::new(8, 64).max_wait(Duration::from_millis(2));
/// assert_eq!(limits.fill_weight, 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Largest weight of a batch, and so of a request.
    pub max_weight: u32,
    /// A batch that weighs this much takes no other request. By default `max_weight`.
    ///
    /// Set it to 1 where a batch is not faster than its members one after the other: then small
    /// batches reply earlier.
    pub fill_weight: u32,
    /// Largest weight that waits in the queue. Requests beyond it are refused with
    /// [`Refusal::Full`](crate::Refusal::Full).
    pub capacity: u32,
    /// How long a batch that is not full may wait for more requests, counted from when its first
    /// one was queued. By default zero: a ready inner service never waits.
    pub max_wait: Duration,
    /// Largest weight of a batch that a caller runs on its own task; see
    /// [`CallerRunsWorker`](crate::CallerRunsWorker). By default zero: callers run nothing.
    pub caller_weight: u32,
}

impl Limits {
    /// Batches of up to `max_weight`, and a queue that holds `capacity` beside the batches that
    /// run.
    #[must_use]
    pub const fn new(max_weight: u32, capacity: u32) -> Self {
        Self {
            max_weight,
            fill_weight: max_weight,
            capacity,
            max_wait: Duration::ZERO,
            caller_weight: 0,
        }
    }

    /// Sets [`fill_weight`](Self::fill_weight).
    #[must_use]
    pub const fn fill_weight(self, fill_weight: u32) -> Self {
        Self { fill_weight, ..self }
    }

    /// Sets [`max_wait`](Self::max_wait).
    #[must_use]
    pub const fn max_wait(self, max_wait: Duration) -> Self {
        Self { max_wait, ..self }
    }

    /// Sets [`caller_weight`](Self::caller_weight).
    #[must_use]
    pub const fn caller_weight(self, caller_weight: u32) -> Self {
        Self {
            caller_weight,
            ..self
        }
    }
}

/// Which requests run first. Requests of equal priority share the service equally between their
/// [flows](crate::Flow), and those of one flow run in the order in which they came.
///
/// The order is strict: under lasting overload, requests of low priority wait until their deadline.
/// In a full queue, a request displaces the newest requests of lower priorities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    /// 0 for the priority that runs first, and so on: an index into arrays that have one entry for
    /// each priority.
    pub(crate) fn rank(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }
}
