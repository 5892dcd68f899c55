//! The three ways to send a classification: raw, multipart and JSON.

mod json;
mod multipart;
mod options;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use classifier::InputKind;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

pub use self::options::{Options, RequestPriority};
use crate::budget::Share;
use crate::cpu::Pool;
use crate::http::error::{Code, Error, quoted};
use crate::model::Input;

/// JSON of at most so many bytes is read where the request is, which takes less than a hop to another thread.
const INLINE_JSON: usize = 16 * 1024;

/// The pieces in which a body that does not come at once is kept: each as long as those before it, within these lengths.
const FIRST_PIECE: usize = 16 * 1024;
const LONGEST_PIECE: usize = 256 * 1024;

/// How a request was sent, which decides how its inputs are called in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The body is the input.
    Raw,
    /// `multipart/form-data`.
    Multipart,
    /// `application/json`.
    Json,
}

impl Form {
    /// Name of an input.
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

/// A classification as it was sent.
#[derive(Debug)]
pub struct Payload {
    /// How it was sent.
    pub form: Form,
    /// Out of query and body.
    pub options: Options,
    /// In their order; at least one.
    pub inputs: Vec<Input>,
    /// The memory that the body takes. To be kept until the request has ended.
    pub memory: Share,
}

/// What the content type says.
enum Kind {
    Image,
    Text,
    Json,
    Multipart { boundary: String },
}

const EXPECTED_TYPES: &str = "image/png, image/jpeg, image/webp, image/gif, image/bmp, text/plain, application/json or multipart/form-data";

/// Reads a request's body, at most `max_body` bytes of it, until `deadline`. Long JSON is read in `pool`. What arrives is taken out
/// of `memory`; a body for which there is none left is refused.
pub async fn read(
    headers: &HeaderMap,
    options: Options,
    body: Body,
    max_body: u64,
    deadline: Instant,
    pool: &Pool,
    mut memory: Share,
) -> Result<Payload, Error> {
    let kind = match kind(headers) {
        Ok(kind) => kind,
        Err(error) => return Err(refuse(error, body, max_body, deadline).await),
    };
    let bytes = read_body(headers, body, max_body, deadline, &mut memory).await?;
    let (form, body_options, inputs) = match kind {
        Kind::Image => (Form::Raw, Options::default(), vec![Input::Image(bytes)]),
        Kind::Text => (
            Form::Raw,
            Options::default(),
            vec![Input::Text(text("body", &bytes)?)],
        ),
        Kind::Json => {
            let (options, inputs) = if bytes.len() <= INLINE_JSON {
                json::read(&bytes)?
            } else {
                timeout_at(deadline, pool.run(move || json::read(&bytes)))
                    .await
                    .map_err(|_| Error::deadline())???
            };
            (Form::Json, options, inputs)
        }
        Kind::Multipart { boundary } => {
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

/// The error of a request that is refused before its body was read. A body of up to twice the allowed length is read all
/// the same: a client that is still sending would see its connection reset instead of the answer.
pub async fn refuse(error: Error, body: Body, max_body: u64, deadline: Instant) -> Error {
    let limit = usize::try_from(max_body.saturating_mul(2)).unwrap_or(usize::MAX);
    let mut rest = Limited::new(body, limit);
    let discarded = timeout_at(deadline, async {
        while let Some(frame) = rest.frame().await {
            frame?;
        }
        Ok::<_, axum::BoxError>(())
    });
    match discarded.await {
        Ok(Ok(())) => error,
        _ => error.with_body_unread(),
    }
}

pub(super) fn unsupported_media_type(found: &str) -> Error {
    Error::new(
        Code::UnsupportedMediaType,
        format!("Content-Type: expected {EXPECTED_TYPES}, found {found}"),
    )
}

fn kind(headers: &HeaderMap) -> Result<Kind, Error> {
    let unsupported = unsupported_media_type;
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Err(unsupported("none"));
    };
    let value = value
        .to_str()
        .map_err(|_| unsupported("bytes that are not ASCII"))?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    let is = |expected: &str| essence.eq_ignore_ascii_case(expected);
    if ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"]
        .into_iter()
        .any(is)
    {
        return Ok(Kind::Image);
    }
    if is("application/json") {
        return Ok(Kind::Json);
    }
    if is("text/plain") {
        check_charset("Content-Type", value)?;
        return Ok(Kind::Text);
    }
    if is("multipart/form-data") {
        let boundary = multer::parse_boundary(value).map_err(|error| {
            Error::invalid_request(format!(
                "Content-Type: expected a boundary, found {}: {error}",
                quoted(value)
            ))
        })?;
        return Ok(Kind::Multipart { boundary });
    }
    Err(unsupported(&quoted(value)))
}

async fn read_body(
    headers: &HeaderMap,
    body: Body,
    max_body: u64,
    deadline: Instant,
    memory: &mut Share,
) -> Result<Bytes, Error> {
    let too_long = |found: &str| {
        Error::new(
            Code::PayloadTooLarge,
            format!("body: expected at most {max_body} bytes, found {found}"),
        )
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = announced.filter(|length| *length > max_body) {
        return Err(refuse(too_long(&length.to_string()), body, max_body, deadline).await);
    }
    let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
    let longest = announced.map_or(limit, |length| limit.min(length as usize));
    match timeout_at(deadline, collect(Limited::new(body, limit), longest, memory)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(Broken::NoMemory)) => {
            let error = Error::new(
                Code::QueueFull,
                format!(
                    "the bodies of the requests in flight take as much of the {} bytes (body_memory) as those of one client may",
                    memory.limit()
                ),
            );
            Err(error.with_body_unread())
        }
        Ok(Err(Broken::Body(error))) if error.is::<LengthLimitError>() => {
            Err(too_long("more").with_body_unread())
        }
        Ok(Err(Broken::Body(error))) => {
            Err(Error::invalid_request(format!("body: it broke off: {error}")).with_body_unread())
        }
        Err(_) => Err(Error::new(
            Code::DeadlineExceeded,
            "body: it did not arrive before the deadline of the request",
        )
        .with_body_unread()),
    }
}

/// Why a body was not read to its end.
enum Broken {
    Body(axum::BoxError),
    NoMemory,
}

/// The whole body in one piece of memory: kept as they came, chunks of one byte would take forty times their length.
async fn collect(mut body: Limited<Body>, longest: usize, share: &mut Share) -> Result<Bytes, Broken> {
    let mut first = Bytes::new();
    let mut pieces = Pieces::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Broken::Body)?.into_data() else {
            continue;
        };
        if first.is_empty() && pieces.length == 0 {
            // Most bodies come in one frame, which needs no copy.
            if !share.grow_to(data.len() as u64) {
                return Err(Broken::NoMemory);
            }
            first = data;
            continue;
        }
        pieces.add(&std::mem::take(&mut first), longest, share)?;
        pieces.add(&data, longest, share)?;
    }
    if first.is_empty() {
        Ok(pieces.join())
    } else {
        Ok(first)
    }
}

/// What has come of a body so far. Pieces, because one that grows leaves as much behind as it takes: a client that sends slowly would
/// hold twice what is counted.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Vec<u8>>,
    length: usize,
}

impl Pieces {
    /// Takes memory for a piece whenever the last one is full.
    fn add(&mut self, mut data: &[u8], longest: usize, share: &mut Share) -> Result<(), Broken> {
        while !data.is_empty() {
            let room = self
                .pieces
                .last()
                .map_or(0, |piece| piece.capacity() - piece.len());
            if room == 0 {
                // No longer than what is to come, unless the client sends more than it has said.
                let left = longest.saturating_sub(self.length).max(data.len());
                let capacity = self.length.clamp(FIRST_PIECE, LONGEST_PIECE).min(left);
                if !share.grow_to((self.length + capacity) as u64) {
                    return Err(Broken::NoMemory);
                }
                self.pieces.push(Vec::with_capacity(capacity));
                continue;
            }
            let (now, rest) = data.split_at(room.min(data.len()));
            if let Some(last) = self.pieces.last_mut() {
                last.extend_from_slice(now);
            }
            self.length += now.len();
            data = rest;
        }
        Ok(())
    }

    fn join(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.pop().unwrap_or_default().into();
        }
        let mut whole = Vec::with_capacity(self.length);
        for piece in self.pieces {
            whole.extend_from_slice(&piece);
        }
        whole.into()
    }
}

/// Texts are read as UTF-8, of which ASCII is a part. Any other character set is refused rather than read wrongly.
fn check_charset(field: &str, content_type: &str) -> Result<(), Error> {
    let parameters = content_type
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='));
    let charset = parameters
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'));
    for charset in charset {
        if !["utf-8", "utf8", "us-ascii"]
            .iter()
            .any(|known| charset.eq_ignore_ascii_case(known))
        {
            return Err(Error::new(
                Code::UnsupportedMediaType,
                format!("{field}: expected charset=utf-8, found {}", quoted(content_type)),
            ));
        }
    }
    Ok(())
}

fn text(field: &str, bytes: &[u8]) -> Result<String, Error> {
    classifier::text::decode(bytes)
        .map(str::to_owned)
        .map_err(|error| Error::text(field, &error))
}

#[cfg(test)]
mod tests;
