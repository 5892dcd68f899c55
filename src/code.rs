//! The error codes of the API. One table gives each code its name, HTTP status and title.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$comment:meta])* $code:ident = $name:tt, $status:ident, $title:literal;)*) => {
        /// Why a request was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
        pub enum Code {
            $($(#[$comment])* #[serde(rename = $name)] $code,)*
        }

        impl Code {
            /// The `code` member of a problem document, also a label in the metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)*
                }
            }

            pub fn status(self) -> StatusCode {
                match self {
                    $(Self::$code => StatusCode::$status,)*
                }
            }

            /// The `title` member of a problem document.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$code => $title,)*
                }
            }
        }
    };
}

codes! {
    /// Unknown field, wrong type, broken JSON or multipart, unreadable request head.
    InvalidRequest = "invalid_request", BAD_REQUEST, "Invalid request";
    /// The request names no model and several accept this kind of input.
    ModelRequired = "model_required", BAD_REQUEST, "Model name required";
    ModelNotFound = "model_not_found", NOT_FOUND, "Model not found";
    Unauthorized = "unauthorized", UNAUTHORIZED, "Missing or unknown API key";
    /// The API key, or the lack of one, does not permit what the request asks for.
    Forbidden = "forbidden", FORBIDDEN, "Not permitted";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    NotFound = "not_found", NOT_FOUND, "Not found";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The `Host` is not one that this server accepts.
    MisdirectedRequest = "misdirected_request", MISDIRECTED_REQUEST, "Host not allowed";
    UriTooLong = "uri_too_long", URI_TOO_LONG, "URI too long";
    HeaderTooLarge = "header_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "Request header too large";
    PayloadTooLarge = "payload_too_large", PAYLOAD_TOO_LARGE, "Request body too large";
    TooManyInputs = "too_many_inputs", PAYLOAD_TOO_LARGE, "Too many inputs";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    InvalidImage = "invalid_image", UNPROCESSABLE_ENTITY, "Image cannot be decoded";
    ImageTooLarge = "image_too_large", UNPROCESSABLE_ENTITY, "Image too large";
    InvalidText = "invalid_text", UNPROCESSABLE_ENTITY, "Invalid text";
    /// A queue or a memory budget is full, or the request could not be done by its deadline.
    QueueFull = "queue_full", SERVICE_UNAVAILABLE, "Server busy";
    Draining = "draining", SERVICE_UNAVAILABLE, "Server shutting down";
    /// No lane of the model is running.
    ModelUnavailable = "model_unavailable", SERVICE_UNAVAILABLE, "Model unavailable";
    DeadlineExceeded = "deadline_exceeded", GATEWAY_TIMEOUT, "Deadline exceeded";
    /// A fault of the server. The cause is logged.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal server error";
}

impl Code {
    /// The codes with which a classification can end after its model was found.
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

    /// The `Retry-After` header in seconds, for codes where a retry makes sense.
    pub fn retry_after(self) -> Option<&'static str> {
        match self {
            // A queue drains in milliseconds, but the header has a resolution of one second.
            Self::QueueFull | Self::Draining => Some("1"),
            // A lane first reloads after one second and then less often.
            Self::ModelUnavailable => Some("5"),
            _ => None,
        }
    }
}
