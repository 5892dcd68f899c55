//! The error that a client gets, rendered as a problem document (RFC 9457).
//!
//! The domain has error types of its own ([`ModelError`], [`SelectError`], [`PoolError`]); the
//! `From` impls here turn them into a [`Code`] and a detail with the name of the field.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use batching::Refusal;
use classifier::{ImageError, InputKind, RunError, TextError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalog::SelectError;
pub use crate::code::Code;
use crate::cpu::PoolError;
use crate::engine::LaneError;
use crate::model::ModelError;

/// Most characters of the client's own text that an error repeats.
const MAX_QUOTED: usize = 100;
/// Longest detail in bytes. Bounds error messages of libraries that repeat the client's text.
const MAX_DETAIL: usize = 2_000;

/// Quotes text of the client for an error: control characters escaped, cut after 100 characters.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

/// Cuts the client's text in a serde message to 100 characters. Serde repeats a key or value in
/// full, between backticks or quotation marks, followed by `, expected`.
pub fn shortened(message: &str) -> String {
    let longest = |mark: char| {
        let start = message.find(mark)? + 1;
        let end = message[start..].rfind(&format!("{mark}, expected"))? + start;
        Some((start, end))
    };
    let (start, end) = match (longest('`'), longest('"')) {
        // The first mark opens the client's text, which may contain the other one.
        (Some(one), Some(other)) => one.min(other),
        (Some(range), None) | (None, Some(range)) => range,
        (None, None) => return cut(message.to_owned()),
    };
    match message[start..end].char_indices().nth(MAX_QUOTED) {
        Some((length, _)) => cut(format!(
            "{}{}…{}",
            &message[..start],
            &message[start..start + length],
            &message[end..]
        )),
        None => cut(message.to_owned()),
    }
}

fn cut(mut detail: String) -> String {
    if detail.len() > MAX_DETAIL {
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        detail.push('…');
        detail.shrink_to_fit();
    }
    detail
}

/// An error response before [`http::observe`](crate::http::observe) has written its body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Error {
    pub code: Code,
    /// The field, what was expected and what was found.
    pub detail: String,
    /// Cause of an internal error. It is logged and not sent.
    pub cause: Option<String>,
    /// Overrides [`Code::retry_after`] where the wait is known.
    pub retry_after: Option<Duration>,
    /// Part of the request's body is unread, so the connection cannot be reused.
    pub body_unread: bool,
}

/// `application/problem+json` of RFC 9457 with the extension members `code` and `request_id`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem<'a> {
    /// `urn:classifyd:error:` followed by the code.
    #[schema(example = "urn:classifyd:error:invalid_text")]
    pub r#type: String,
    /// Short description of the code.
    #[schema(example = "Invalid text")]
    pub title: &'a str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// The field, what was expected and what was found.
    #[schema(example = "body: invalid UTF-8 at byte 0")]
    pub detail: &'a str,
    /// Machine-readable reason.
    pub code: Code,
    /// The `X-Request-Id` header.
    #[schema(example = "5f0c1d2e00000001")]
    pub request_id: &'a str,
}

impl Error {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: cut(detail.into()),
            cause: None,
            retry_after: None,
            body_unread: false,
        }
    }

    #[must_use]
    pub fn with_body_unread(self) -> Self {
        Self {
            body_unread: true,
            ..self
        }
    }

    pub fn invalid_request(detail: impl ToString) -> Self {
        Self::new(Code::InvalidRequest, detail.to_string())
    }

    /// A fault of the server. The cause is logged with the request id, which the client gets.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self {
            cause: Some(cause.to_string()),
            ..Self::new(
                Code::Internal,
                "the cause is in the server's log under this request ID",
            )
        }
    }

    /// The `Retry-After` header, rounded up to whole seconds.
    pub fn retry_after(&self) -> Option<HeaderValue> {
        match self.retry_after {
            Some(wait) => Some(HeaderValue::from(
                wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
            )),
            None => self.code.retry_after().map(HeaderValue::from_static),
        }
    }

    pub fn problem<'a>(&'a self, request_id: &'a str) -> Problem<'a> {
        Problem {
            r#type: format!("urn:classifyd:error:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
        }
    }
}

impl From<batching::Error<LaneError>> for Error {
    fn from(error: batching::Error<LaneError>) -> Self {
        match error {
            batching::Error::Refused(refusal) => refusal.into(),
            batching::Error::Inner(error) => error.into(),
            batching::Error::Expired => Self::deadline(),
            other => Self::internal(other),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooLarge { weight, max_weight } => Self::new(
                Code::TooManyInputs,
                format!("inputs: expected at most {max_weight}, found {weight}"),
            ),
            Refusal::Full { capacity } => {
                Self::new(Code::QueueFull, format!("the queue is full ({capacity} inputs)"))
            }
            Refusal::TooLate { wait } => Self::new(
                Code::QueueFull,
                format!("expected wait in the queue: {wait:?}, which is past the request's deadline"),
            ),
            Refusal::Closed => Self::draining(),
            Refusal::Unavailable => Self::no_lane(),
            other => Self::internal(other),
        }
    }
}

impl From<LaneError> for Error {
    fn from(error: LaneError) -> Self {
        match error {
            // A run is interrupted when its clients have all gone, and they read no response, or
            // when the drain ends.
            LaneError::Run(RunError::Interrupted) => Self::draining(),
            LaneError::Lost(_) => Self::no_lane(),
            // The lane has already split the batch: this request alone is too large.
            LaneError::Run(RunError::OutOfMemory(_)) => Self::new(
                Code::ModelUnavailable,
                "the request does not fit into the memory of the model's device; send fewer inputs or retry later",
            ),
            error => Self::internal(error),
        }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Full => Self::new(
                Code::QueueFull,
                "too many inputs are waiting to be read, decoded or tokenised",
            ),
            PoolError::TooLarge { memory, limit } => Self::new(
                Code::ImageTooLarge,
                format!(
                    "expected an input that takes at most {limit} bytes to decode, found one that takes {memory}"
                ),
            ),
            PoolError::Late { wait } => Self {
                retry_after: Some(wait),
                ..Self::new(
                    Code::QueueFull,
                    format!("expected wait for decoding: {wait:?}, which is past the request's deadline"),
                )
            },
            PoolError::Panicked => Self::internal("reading, decoding or tokenising panicked"),
        }
    }
}

impl From<SelectError> for Error {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Unknown { name, loaded } => Self::new(
                Code::ModelNotFound,
                format!("model: expected one of {loaded}, found {}", quoted(&name)),
            ),
            SelectError::Ambiguous { kind, candidates } => Self::new(
                Code::ModelRequired,
                format!("model: expected one of the models that take {kind} ({candidates}), found none"),
            ),
        }
    }
}

impl Error {
    /// The error of a model that was given inputs; `field` names an input in the request by its
    /// index.
    pub fn from_model(error: ModelError<Self>, field: impl Fn(usize) -> String) -> Self {
        match error {
            ModelError::Image { input, error } => Self::image(&field(input), &error),
            ModelError::Text { input, error } => Self::text(&field(input), &error),
            ModelError::InputMemory {
                input,
                kind,
                memory,
                limit,
            } => {
                let (what, code) = match kind {
                    InputKind::Image => ("an image", Code::ImageTooLarge),
                    InputKind::Text => ("a text", Code::InvalidText),
                };
                let field = field(input);
                let detail = format!(
                    "{field}: expected {what} that takes at most {limit} bytes of memory to decode (decode_memory), \
                     found one that takes {memory}"
                );
                Self::new(code, detail)
            }
            ModelError::Pixels { pixels, limit } => Self::new(
                Code::ImageTooLarge,
                format!("inputs: expected at most {limit} pixels in all images together, found {pixels}"),
            ),
            ModelError::WrongKind(error) => Self::invalid_request(error),
            ModelError::Pool(error) => error.into(),
            ModelError::Refused(refusal) => refusal.into(),
            ModelError::Batch(error) => error.into(),
            ModelError::Charge(error) => error,
            ModelError::Deadline => Self::deadline(),
            ModelError::Aborted => Self::draining(),
            ModelError::Outputs { model, error } => Self::internal(format!("model {model}: {error}")),
        }
    }

    /// An image that cannot be used; `field` is its place in the request.
    pub fn image(field: &str, error: &ImageError) -> Self {
        let code = match error {
            ImageError::TooLarge { .. } => Code::ImageTooLarge,
            _ => Code::InvalidImage,
        };
        Self::new(code, format!("{field}: {error}"))
    }

    /// A text that cannot be used; `field` is its place in the request.
    pub fn text(field: &str, error: &TextError) -> Self {
        Self::new(Code::InvalidText, format!("{field}: {error}"))
    }

    pub fn deadline() -> Self {
        Self::new(
            Code::DeadlineExceeded,
            "no result by the request's deadline (timeout_ms, or request_timeout of the server)",
        )
    }

    /// The server ends before the request has its response.
    pub fn draining() -> Self {
        Self::new(
            Code::Draining,
            "the server is shutting down; send the request to another server",
        )
    }

    fn no_lane() -> Self {
        Self::new(
            Code::ModelUnavailable,
            "no lane of the model is running; the server keeps trying to start one",
        )
    }
}

impl IntoResponse for Error {
    /// Sets the status and leaves the error in the extensions:
    /// [`http::observe`](crate::http::observe) knows the request id and writes the body.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if self.code == Code::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"classifyd\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_client_is_quoted_and_cut() {
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(quoted(&"é".repeat(100)), format!("{:?}", "é".repeat(100)));
        let long = quoted(&"é".repeat(1_000_000));
        assert_eq!(long.matches('é').count(), 100);
        assert!(long.ends_with("…\""), "{long}");
        // Each is escaped with eight characters.
        assert!(quoted(&"\u{200b}".repeat(1_000_000)).len() < 1_000);
    }

    #[test]
    fn long_client_text_in_a_serde_message_is_cut() {
        let short = "unknown field `topk`, expected one of `model`, `inputs` at line 1 column 8";
        assert_eq!(shortened(short), short);
        for sent in [
            "x".repeat(10_000),
            "x`".repeat(5_000),
            "`, expected `".repeat(900),
        ] {
            let message = format!("unknown field `{sent}`, expected `text` or `image` at line 1 column 8");
            let short = shortened(&message);
            assert!(short.len() < 300, "{short}");
            assert!(short.ends_with(" at line 1 column 8"), "{short}");
        }
        let message = format!("invalid type: string \"{}\", expected u32", "x".repeat(10_000));
        assert_eq!(shortened(&message).matches('x').count(), 100 + 1);
    }

    #[test]
    fn a_detail_has_a_maximum_length() {
        let error = Error::invalid_request("é".repeat(1_000_000));
        assert!(error.detail.len() < 2_100, "{}", error.detail.len());
    }
}
