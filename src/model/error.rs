use classifier::{ImageError, InputKind, RunError, TextError, WrongKind};

use crate::cpu::PoolError;
use crate::engine::LaneError;

/// Why a request got no scores. `input` is the index of the input at fault.
#[derive(Debug)]
pub enum ModelError<C> {
    Image {
        input: usize,
        error: ImageError,
    },
    Text {
        input: usize,
        error: TextError,
    },
    /// Decoding the input takes more bytes than all decoding together may (`decode_memory`).
    InputMemory {
        input: usize,
        kind: InputKind,
        memory: u64,
        limit: u64,
    },
    /// The images of the request have more pixels together than `max_request_pixels`.
    Pixels {
        pixels: u64,
        limit: u64,
    },
    WrongKind(WrongKind),
    Pool(PoolError),
    /// The queue does not admit the request.
    Refused(batching::Refusal),
    Batch(batching::Error<LaneError>),
    /// The caller's `charge` refused the cost of the request.
    Charge(C),
    Deadline,
    /// [`Model::abort`](super::Model::abort) was called.
    Aborted,
    /// The graph's outputs are not usable as scores.
    Outputs {
        model: String,
        error: RunError,
    },
}

impl<C> From<WrongKind> for ModelError<C> {
    fn from(error: WrongKind) -> Self {
        Self::WrongKind(error)
    }
}

impl<C> From<PoolError> for ModelError<C> {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

impl<C> From<batching::Error<LaneError>> for ModelError<C> {
    fn from(error: batching::Error<LaneError>) -> Self {
        Self::Batch(error)
    }
}
