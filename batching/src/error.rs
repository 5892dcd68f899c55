use std::fmt;
use std::time::Duration;

/// Why a request was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It weighs more than any batch may.
    TooLarge {
        /// Weight of the request.
        weight: u32,
        /// Largest weight of a batch.
        max_weight: u32,
    },
    /// The queue holds as much as it may.
    Full {
        /// Largest weight that the queue holds.
        capacity: u32,
    },
    /// What waits takes longer than the request may: it would expire before it is run.
    TooLate {
        /// How long the queue is expected to need.
        wait: Duration,
    },
    /// The queue was closed: no more work is taken.
    Closed,
    /// No worker is there to take the request.
    Unavailable,
}

/// Why a request got no answer from the inner service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error<E> {
    /// It was never queued.
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
                    "a request of weight {weight} fits no batch of at most {max_weight}"
                )
            }
            Self::Full { capacity } => write!(f, "the queue is full (capacity {capacity})"),
            Self::TooLate { wait } => write!(f, "the queue needs about {wait:?}, which is past the deadline"),
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
