//! The three forms of a classification request: raw, multipart and JSON.

mod body;
mod json;
mod media;
mod multipart;
mod options;
#[cfg(test)]
mod tests;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use classifier::InputKind;
use tokio::time::{Instant, timeout_at};

pub use self::body::refuse;
pub use self::json::ClassifyRequest;
use self::media::ContentType;
pub(super) use self::media::unsupported_media_type;
pub use self::multipart::ClassifyForm;
pub use self::options::Options;
use crate::budget::Share;
use crate::cpu::Pool;
use crate::http::error::Error;
use crate::model::Input;

/// Longest JSON that is parsed on the request's task. Up to here that is faster than a switch to
/// another thread.
const INLINE_JSON: usize = 16 * 1024;

/// How a request was sent. Decides how errors name its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The body is the input.
    Raw,
    Multipart,
    Json,
}

impl Form {
    /// The name of an input in error messages.
    pub fn field(self, kind: InputKind, at: usize) -> String {
        match (self, kind) {
            (Self::Raw, _) => "body".to_owned(),
            (Self::Multipart, InputKind::Image) => format!("image[{at}]"),
            (Self::Multipart, InputKind::Text) => format!("text[{at}]"),
            (Self::Json, InputKind::Image) => format!("inputs[{at}].image"),
            (Self::Json, InputKind::Text) => format!("inputs[{at}]"),
        }
    }
}

/// A classification request as it was sent.
#[derive(Debug)]
pub struct Payload {
    pub form: Form,
    /// Options of the query and the body together.
    pub options: Options,
    /// At least one input, in the order of the request.
    pub inputs: Vec<Input>,
    /// The memory of the body. Must be kept until the request has ended.
    pub memory: Share,
}

/// Reads a request.
///
/// The body must arrive by `deadline`, have at most `max_body` bytes, and fit into `memory`. Long
/// JSON is parsed in `pool`.
pub async fn read(
    headers: &HeaderMap,
    options: Options,
    body: Body,
    max_body: u64,
    deadline: Instant,
    pool: &Pool,
    mut memory: Share,
) -> Result<Payload, Error> {
    let content_type = match ContentType::of(headers) {
        Ok(content_type) => content_type,
        Err(error) => return Err(refuse(error, body, max_body, deadline).await),
    };
    let bytes = body::read(headers, body, max_body, deadline, &mut memory).await?;
    let (form, body_options, inputs) = match content_type {
        ContentType::Image => (Form::Raw, Options::default(), vec![Input::Image(bytes)]),
        ContentType::Text => {
            let text = text("body", &bytes)?;
            (Form::Raw, Options::default(), vec![Input::Text(text)])
        }
        ContentType::Json => {
            let (options, inputs) = read_json(bytes, deadline, pool).await?;
            (Form::Json, options, inputs)
        }
        ContentType::Multipart { boundary } => {
            let (options, inputs) = multipart::read(boundary, bytes).await?;
            (Form::Multipart, options, inputs)
        }
    };
    if inputs.is_empty() {
        let field = if form == Form::Json {
            "inputs"
        } else {
            "image or text"
        };
        return Err(Error::invalid_request(format!(
            "{field}: expected at least one, found none"
        )));
    }
    let options = options.merge(body_options.check()?)?;
    Ok(Payload {
        form,
        options,
        inputs,
        memory,
    })
}

async fn read_json(bytes: Bytes, deadline: Instant, pool: &Pool) -> Result<(Options, Vec<Input>), Error> {
    if bytes.len() <= INLINE_JSON {
        return json::read(&bytes);
    }
    timeout_at(deadline, pool.run(move || json::read(&bytes)))
        .await
        .map_err(|_| Error::deadline())??
}

fn text(field: &str, bytes: &[u8]) -> Result<String, Error> {
    classifier::text::decode(bytes)
        .map(str::to_owned)
        .map_err(|error| Error::text(field, &error))
}
