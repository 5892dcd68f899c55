use std::fmt;
use std::time::Duration;

/// Why a request was not queued, or was taken out of the queue without being run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The request weighs more than a batch may, so it could never run.
    TooLarge {
        /// Weight of the request.
        weight: u32,
        /// Largest weight of a batch.
        max_weight: u32,
    },
    /// The queue is full, or a request of higher priority or of another flow took this one's room.
    Full {
        /// Largest weight that the queue holds.
        capacity: u32,
    },
    /// The requests ahead of it are expected to take until after its deadline.
    TooLate {
        /// How long the request would take, queue included.
        wait: Duration,
    },
    /// The queue was closed.
    Closed,
    /// No worker is running, or the worker that had the request was dropped before it replied.
    Unavailable,
}

/// Why a request has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E> {
    /// It was never run.
    Refused(Refusal),
    /// Its deadline passed.
    Expired,
    /// The inner service failed it.
    Inner(E),
}

impl<E> From<Refusal> for Error<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { weight, max_weight } => {
                write!(
                    f,
                    "the request weighs {weight}, but a batch holds at most {max_weight}"
                )
            }
            Self::Full { capacity } => write!(f, "the queue is full (capacity {capacity})"),
            Self::TooLate { wait } => {
                write!(
                    f,
                    "the request would take about {wait:?}, longer than its deadline allows"
                )
            }
            Self::Closed => f.write_str("the queue is closed"),
            Self::Unavailable => f.write_str("no worker is running"),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Expired => f.write_str("the deadline passed"),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Error<E> {}
