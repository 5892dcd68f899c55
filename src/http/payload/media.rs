//! The `Content-Type` of a request.
//!
//! It is parsed here and not with the crate `mime`: only the part before the first `;` and two
//! parameters matter, and small mistakes in the rest, such as `image/png;`, must not be errors.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use classifier::image::FORMATS;

use crate::http::error::{Code, Error, quoted};

/// The form of a body, according to its content type.
pub(super) enum ContentType {
    Image,
    Text,
    Json,
    Multipart { boundary: String },
}

impl ContentType {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let Some(value) = headers.get(CONTENT_TYPE) else {
            return Err(unsupported_media_type("none"));
        };
        let value = value
            .to_str()
            .map_err(|_| unsupported_media_type("bytes that are not ASCII"))?;
        let essence = value.split(';').next().unwrap_or_default().trim();
        let is = |expected: &str| essence.eq_ignore_ascii_case(expected);
        // The format itself is found from the first bytes.
        if FORMATS.iter().any(|format| is(format.media_type)) {
            return Ok(Self::Image);
        }
        if is("application/json") {
            return Ok(Self::Json);
        }
        if is("text/plain") {
            check_charset("Content-Type", value)?;
            return Ok(Self::Text);
        }
        if is("multipart/form-data") {
            let boundary = multer::parse_boundary(value).map_err(|error| {
                Error::invalid_request(format!(
                    "Content-Type: expected a boundary, found {}: {error}",
                    quoted(value)
                ))
            })?;
            return Ok(Self::Multipart { boundary });
        }
        Err(unsupported_media_type(&quoted(value)))
    }
}

/// Texts are read as UTF-8, which includes ASCII. Any other character set is refused.
pub(super) fn check_charset(field: &str, content_type: &str) -> Result<(), Error> {
    let parameters = content_type
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='));
    let mut charsets = parameters
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'));
    let is_utf8 = |charset: &str| {
        let known = ["utf-8", "utf8", "us-ascii"];
        known.iter().any(|known| charset.eq_ignore_ascii_case(known))
    };
    if charsets.all(is_utf8) {
        return Ok(());
    }
    Err(Error::new(
        Code::UnsupportedMediaType,
        format!("{field}: expected charset=utf-8, found {}", quoted(content_type)),
    ))
}

/// `found` is the content type in quotes, or `none`.
pub(in crate::http) fn unsupported_media_type(found: &str) -> Error {
    let images = FORMATS.map(|format| format.media_type).join(", ");
    Error::new(
        Code::UnsupportedMediaType,
        format!(
            "Content-Type: expected {images}, text/plain, application/json or multipart/form-data, found {found}"
        ),
    )
}
