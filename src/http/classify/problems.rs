use std::collections::BTreeMap;

use batching::Refusal;
use classifier::{ImageError, InputKind, TextError};
use utoipa::IntoResponses;
use utoipa::openapi::RefOr;

use crate::catalog::SelectError;
use crate::http::document::{problems, unknown_model};
use crate::http::error::{Code, Error};
use crate::http::guard::priority_refused;
use crate::http::payload;

/// The errors of a classification, with examples.
pub(super) struct ClassifyProblems;

impl IntoResponses for ClassifyProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([
            Error::invalid_request("top_k: expected at least 1, found 0"),
            priority_refused(),
            Error::from(SelectError::Ambiguous {
                kind: InputKind::Image,
                candidates: "digits, fashion, images".to_owned(),
            }),
            unknown_model(),
            Error::new(
                Code::PayloadTooLarge,
                "body: expected at most 16777216 bytes, found 16777217",
            ),
            Error::from(Refusal::TooLarge {
                weight: 33,
                max_weight: 32,
            }),
            payload::unsupported_media_type("\"image/tiff\""),
            Error::image(
                "body",
                &ImageError::UnknownFormat {
                    found: hex::encode(b"no image"),
                },
            ),
            Error::image(
                "body",
                &ImageError::TooLarge {
                    width: 16_385,
                    height: 1,
                    max_side: 16_384,
                    max_pixels: 33_554_432,
                },
            ),
            Error::text("body", &TextError::NotUtf8 { at: 0 }),
            Error::internal("example"),
            Error::from(Refusal::Full { capacity: 1 }),
            Error::draining(),
            Error::from(Refusal::Unavailable),
            Error::deadline(),
        ])
    }
}
