//! One error for all that a client can be told, and its rendering as a problem document (RFC 9457).

use std::time::Duration;

use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use classifier::{ImageError, RunError, TextError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cpu::PoolError;
use crate::engine::LaneError;
use batching::Refusal;

/// The reasons for which a request can be refused or fail. The one place that lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Malformed request: unknown key, wrong type, broken JSON or multipart.
    InvalidRequest,
    /// No model was named, and several could be meant.
    ModelRequired,
    /// No model of this name is loaded.
    ModelNotFound,
    /// An API key is needed, and none that is known came.
    Unauthorized,
    /// The API key does not allow what was asked, or none is needed and so none allows it.
    Forbidden,
    /// The client, or its API key, has asked too often.
    RateLimited,
    /// No such route.
    NotFound,
    /// The route does not take this method.
    MethodNotAllowed,
    /// The `Host` is none that the server answers to.
    MisdirectedRequest,
    /// The path, with its query, is longer than the limit.
    UriTooLong,
    /// The head of the request is longer than the limit, or has more headers.
    HeaderTooLarge,
    /// The body is longer than the limit.
    PayloadTooLarge,
    /// More inputs in one request than a batch may hold.
    TooManyInputs,
    /// The content type is none that the model takes.
    UnsupportedMediaType,
    /// The picture cannot be decoded.
    InvalidImage,
    /// The picture has more pixels than the limit.
    ImageTooLarge,
    /// The text cannot be used.
    InvalidText,
    /// The model's queue is full.
    QueueFull,
    /// The server is shutting down.
    Draining,
    /// No lane of the model is running.
    ModelUnavailable,
    /// The deadline passed.
    DeadlineExceeded,
    /// A fault of the server.
    Internal,
}

impl Code {
    /// Those with which a classification ends when a model was found for it.
    pub const OF_A_MODEL: [Self; 10] = [
        Self::InvalidRequest,
        Self::TooManyInputs,
        Self::UnsupportedMediaType,
        Self::InvalidImage,
        Self::ImageTooLarge,
        Self::InvalidText,
        Self::QueueFull,
        Self::ModelUnavailable,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// As it stands in the `code` member and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ModelRequired => "model_required",
            Self::ModelNotFound => "model_not_found",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate_limited",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::MisdirectedRequest => "misdirected_request",
            Self::UriTooLong => "uri_too_long",
            Self::HeaderTooLarge => "header_too_large",
            Self::PayloadTooLarge => "payload_too_large",
            Self::TooManyInputs => "too_many_inputs",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidImage => "invalid_image",
            Self::ImageTooLarge => "image_too_large",
            Self::InvalidText => "invalid_text",
            Self::QueueFull => "queue_full",
            Self::Draining => "draining",
            Self::ModelUnavailable => "model_unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::ModelRequired => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::ModelNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::MisdirectedRequest => StatusCode::MISDIRECTED_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::PayloadTooLarge | Self::TooManyInputs => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidImage | Self::ImageTooLarge | Self::InvalidText => StatusCode::UNPROCESSABLE_ENTITY,
            Self::QueueFull | Self::Draining | Self::ModelUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The code in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is malformed",
            Self::ModelRequired => "The request must name a model",
            Self::ModelNotFound => "There is no such model",
            Self::Unauthorized => "An API key is needed",
            Self::Forbidden => "The API key does not allow this",
            Self::RateLimited => "There were too many requests",
            Self::NotFound => "There is no such route",
            Self::MethodNotAllowed => "The route does not take this method",
            Self::MisdirectedRequest => "The server does not answer to this host",
            Self::UriTooLong => "The path is too long",
            Self::HeaderTooLarge => "The head of the request is too long",
            Self::PayloadTooLarge => "The body is too long",
            Self::TooManyInputs => "There are too many inputs",
            Self::UnsupportedMediaType => "The content type is not supported",
            Self::InvalidImage => "The picture cannot be decoded",
            Self::ImageTooLarge => "The picture is too large",
            Self::InvalidText => "The text cannot be used",
            Self::QueueFull => "The server is busy",
            Self::Draining => "The server is shutting down",
            Self::ModelUnavailable => "The model is not running",
            Self::DeadlineExceeded => "The deadline has passed",
            Self::Internal => "The server failed",
        }
    }

    /// Seconds after which to try again, where that makes sense.
    pub fn retry_after(self) -> Option<&'static str> {
        match self {
            // A queue drains in milliseconds, but the header knows only seconds.
            Self::QueueFull | Self::Draining => Some("1"),
            // The first reload of a lane comes after a second, the next ones later.
            Self::ModelUnavailable => Some("5"),
            _ => None,
        }
    }
}

/// Most characters of a client's own that an error repeats.
const MAX_QUOTED: usize = 100;
/// Longest detail of an error, in bytes. It bounds what libraries say of a request in words of their own.
const MAX_DETAIL: usize = 2_000;

/// What a client sent, as an error repeats it: in quotes, with control characters escaped, and at most 100 characters of it.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

/// A message of serde with at most 100 characters of what the client sent. Serde repeats a key or a value whole, between
/// backticks or quotation marks, and says behind it what it expected.
pub fn shortened(message: &str) -> String {
    let longest = |mark: char| {
        let start = message.find(mark)? + 1;
        let end = message[start..].rfind(&format!("{mark}, expected"))? + start;
        Some((start, end))
    };
    let (start, end) = match (longest('`'), longest('"')) {
        // The first mark begins what was sent; others may stand within it.
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

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Error {
    /// The reason.
    pub code: Code,
    /// Which field, what was expected, what came.
    pub detail: String,
    /// What only the log is told.
    pub cause: Option<String>,
    /// When to try again, where that is known better than by the reason alone.
    pub retry_after: Option<Duration>,
    /// Whether a part of the request's body was left unread, so that the connection cannot take another request.
    pub body_unread: bool,
}

/// `application/problem+json`, as RFC 9457 defines it, with `code` and `request_id` beside its own members.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem<'a> {
    /// `urn:classifyd:error:` and the code.
    #[schema(example = "urn:classifyd:error:invalid_text")]
    pub r#type: String,
    /// The code in words.
    #[schema(example = "The text cannot be used")]
    pub title: &'a str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// Which field, what was expected, what came.
    #[schema(example = "body: invalid UTF-8 at byte 0")]
    pub detail: &'a str,
    /// The reason, for programs.
    pub code: Code,
    /// As in the `X-Request-Id` header.
    #[schema(example = "5f0c1d2e00000001")]
    pub request_id: &'a str,
}

impl Error {
    /// An error with this reason.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: cut(detail.into()),
            cause: None,
            retry_after: None,
            body_unread: false,
        }
    }

    /// The same error for a request whose body was left unread.
    #[must_use]
    pub fn with_body_unread(self) -> Self {
        Self {
            body_unread: true,
            ..self
        }
    }

    /// Malformed request.
    pub fn invalid_request(detail: impl ToString) -> Self {
        Self::new(Code::InvalidRequest, detail.to_string())
    }

    /// A fault of ours: the cause is logged beside the request id, of which the client hears.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self {
            cause: Some(cause.to_string()),
            ..Self::new(
                Code::Internal,
                "the cause is in the server's log under this request id",
            )
        }
    }

    /// A picture that cannot be used, in this field of the request.
    pub fn image(field: &str, error: &ImageError) -> Self {
        let code = match error {
            ImageError::TooLarge { .. } => Code::ImageTooLarge,
            _ => Code::InvalidImage,
        };
        Self::new(code, format!("{field}: {error}"))
    }

    /// A text that cannot be used, in this field of the request.
    pub fn text(field: &str, error: &TextError) -> Self {
        Self::new(Code::InvalidText, format!("{field}: {error}"))
    }

    /// The deadline passed.
    pub fn deadline() -> Self {
        Self::new(
            Code::DeadlineExceeded,
            "no answer was ready by the deadline of the request (timeout_ms, or the server's request_timeout)",
        )
    }

    /// As in the `Retry-After` header, which knows only whole seconds.
    pub fn retry_after(&self) -> Option<HeaderValue> {
        match self.retry_after {
            Some(wait) => Some(HeaderValue::from(
                wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
            )),
            None => self.code.retry_after().map(HeaderValue::from_static),
        }
    }

    /// The document that the client gets.
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
            batching::Error::Refused(Refusal::TooLarge { weight, max_weight }) => Self::new(
                Code::TooManyInputs,
                format!("inputs: expected at most {max_weight}, found {weight}"),
            ),
            batching::Error::Refused(Refusal::Full { capacity }) => Self::new(
                Code::QueueFull,
                format!("{capacity} inputs wait already, which is as many as may"),
            ),
            batching::Error::Refused(Refusal::TooLate { wait }) => Self::new(
                Code::QueueFull,
                format!("what waits takes about {wait:?}, and the request's deadline comes before that"),
            ),
            // A run is interrupted when all its callers have gone, who hear nothing any more, or at the end of the drain.
            batching::Error::Refused(Refusal::Closed)
            | batching::Error::Inner(LaneError::Run(RunError::Interrupted)) => Self::draining(),
            batching::Error::Refused(Refusal::Unavailable) | batching::Error::Inner(LaneError::Lost(_)) => {
                Self::new(
                    Code::ModelUnavailable,
                    "no lane of the model is running; one is started again when its session can be loaded",
                )
            }
            // Alone as well, for batches that do not fit are run in parts.
            batching::Error::Inner(LaneError::Run(RunError::OutOfMemory(_))) => Self::new(
                Code::ModelUnavailable,
                "the memory of the model's device does not hold this request; send fewer inputs in one, or try again later",
            ),
            batching::Error::Expired => Self::deadline(),
            batching::Error::Inner(error) => Self::internal(error),
            other => Self::internal(other),
        }
    }
}

impl Error {
    /// The server ends before the request has its answer.
    pub fn draining() -> Self {
        Self::new(
            Code::Draining,
            "the server is shutting down; send the request to another one",
        )
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Full => Self::new(
                Code::QueueFull,
                "too many inputs wait to be read, decoded or tokenised",
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
                    format!(
                        "the inputs that wait to be decoded take about {wait:?}, and the request's deadline comes before that"
                    ),
                )
            },
            PoolError::Panicked => Self::internal("reading, decoding or tokenising panicked"),
        }
    }
}

impl IntoResponse for Error {
    /// Status and the error itself, out of which [`crate::http::observe`] writes the body: it knows the request id.
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
    fn what_a_client_sent_is_repeated_in_part() {
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(quoted(&"é".repeat(100)), format!("{:?}", "é".repeat(100)));
        let long = quoted(&"é".repeat(1_000_000));
        assert_eq!(long.matches('é').count(), 100);
        assert!(long.ends_with("…\""), "{long}");
        // Each is escaped with eight characters.
        assert!(quoted(&"\u{200b}".repeat(1_000_000)).len() < 1_000);
    }

    #[test]
    fn messages_of_serde_are_repeated_in_part() {
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
    fn no_detail_is_long() {
        let error = Error::invalid_request("é".repeat(1_000_000));
        assert!(error.detail.len() < 2_100, "{}", error.detail.len());
    }
}
