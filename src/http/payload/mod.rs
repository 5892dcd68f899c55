//! The three ways to send a classification: raw, multipart and JSON.

mod json;
mod multipart;
mod options;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use classifier::Kind as InputKind;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

pub use self::options::{Options, RequestPriority};
use crate::budget::Share;
use crate::cpu::Pool;
use crate::error::{Code, Error, quoted};
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

fn kind(headers: &HeaderMap) -> Result<Kind, Error> {
    let unsupported = |found: &str| {
        Error::new(
            Code::UnsupportedMediaType,
            format!("Content-Type: expected {EXPECTED_TYPES}, found {found}"),
        )
    };
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::budget::Budget;
    use crate::cpu::Workers;
    use batching::Flow;

    async fn read_with(
        content_type: &str,
        query: Option<&str>,
        body: impl Into<Body>,
    ) -> Result<Payload, Error> {
        read_up_to(1000, content_type, query, body).await
    }

    async fn read_up_to(
        max_body: u64,
        content_type: &str,
        query: Option<&str>,
        body: impl Into<Body>,
    ) -> Result<Payload, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        let deadline = Instant::now() + Duration::from_secs(1);
        let options = Options::from_query(query)?;
        read(
            &headers,
            options,
            body.into(),
            max_body,
            deadline,
            &Workers::start(1, 0).unwrap().pool(1),
            Budget::new(64 * 1024 * 1024).share(Flow::default()),
        )
        .await
    }

    #[test]
    fn a_body_in_parts_is_kept_whole_and_takes_little_more_than_its_length() {
        let budget = Budget::new(64 * 1024 * 1024);
        for length in [1, 20_000, 300_000, 3_000_000] {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for (longest, most) in [(length, length), (usize::MAX, length + LONGEST_PIECE)] {
                for part in [7, 10_000, 1_000_000] {
                    let mut share = budget.share(Flow::default());
                    let mut pieces = Pieces::default();
                    for data in body.chunks(part) {
                        assert!(pieces.add(data, longest, &mut share).is_ok());
                    }
                    let taken = budget.used();
                    assert!(
                        (length as u64..=most as u64).contains(&taken),
                        "{taken} for {length}"
                    );
                    assert_eq!(pieces.join(), body);
                }
            }
        }
    }

    fn image(bytes: &'static [u8]) -> Input {
        Input::Image(Bytes::from_static(bytes))
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(name, content): &(&str, &str)| {
            format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
        };
        parts.iter().map(part).collect::<String>() + "--XX--\r\n"
    }

    #[tokio::test]
    async fn raw_bodies_take_their_options_from_the_query() {
        let payload = read_with("image/png", Some("model=digits&top_k=3"), "picture")
            .await
            .unwrap();
        assert_eq!(payload.inputs, [image(b"picture")]);
        assert_eq!(payload.options.model.as_deref(), Some("digits"));
        assert_eq!(payload.options.top_k, Some(3));
        let payload = read_with("Text/Plain; charset=utf-8", None, "a film")
            .await
            .unwrap();
        assert_eq!(payload.inputs, [Input::Text("a film".into())]);
    }

    #[tokio::test]
    async fn json_takes_one_input_or_a_list_in_every_shape() {
        for (body, expected) in [
            (r#"{"inputs": "a film"}"#, vec![Input::Text("a film".into())]),
            (
                r#"{"inputs": {"text": "a\tfilm"}}"#,
                vec![Input::Text("a\tfilm".into())],
            ),
            (
                r#"{"inputs": {"image": "cGljdHVyZQ=="}}"#,
                vec![image(b"picture")],
            ),
            (r#"{"inputs": {"image": "cGljdHVyZQ"}}"#, vec![image(b"picture")]),
            (
                r#"{"inputs": {"image": "cGljdHVy\u005aQ=="}}"#,
                vec![image(b"picture")],
            ),
            (
                r#"{"inputs": [{"image": "data:image/png;base64,cGljdHVyZQ=="}, "b"], "model": null}"#,
                vec![image(b"picture"), Input::Text("b".into())],
            ),
        ] {
            let payload = read_with("application/json", None, body).await.unwrap();
            assert_eq!(payload.inputs, expected, "{body}");
        }
    }

    #[tokio::test]
    async fn long_json_is_read_like_short_json() {
        let text = "a film ".repeat(INLINE_JSON);
        let read = |body: String| read_up_to(u64::MAX, "application/json", None, body);
        let payload = read(format!(r#"{{"inputs": "{text}", "top_k": 3}}"#))
            .await
            .unwrap();
        assert_eq!(payload.options.top_k, Some(3));
        assert_eq!(payload.inputs, [Input::Text(text.clone())]);
        let error = read(format!(r#"{{"inputs": "{text}", "topk": 3}}"#))
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest);
        assert!(error.to_string().contains("topk"), "{error}");
    }

    #[tokio::test]
    async fn multipart_takes_pictures_and_options_in_any_order() {
        let body = form(&[
            ("image", "one"),
            ("top_k", "2"),
            ("image", "two"),
            ("model", "digits"),
        ]);
        let payload = read_with("multipart/form-data; boundary=XX", None, body)
            .await
            .unwrap();
        assert_eq!(payload.inputs, [image(b"one"), image(b"two")]);
        assert_eq!(payload.options.top_k, Some(2));
        assert_eq!(payload.options.model.as_deref(), Some("digits"));
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let json = "application/json";
        let multipart = "multipart/form-data; boundary=XX";
        let cases: Vec<(&str, Option<&str>, String, Code, &str)> = vec![
            (
                "application/xml",
                None,
                "x".into(),
                Code::UnsupportedMediaType,
                "found \"application/xml\"",
            ),
            (
                "image/tiff",
                None,
                "x".into(),
                Code::UnsupportedMediaType,
                "image/png",
            ),
            (
                "multipart/form-data",
                None,
                "x".into(),
                Code::InvalidRequest,
                "boundary",
            ),
            (
                "image/png",
                Some("topk=3"),
                "x".into(),
                Code::InvalidRequest,
                "topk",
            ),
            (
                "image/png",
                Some("top_k=x"),
                "x".into(),
                Code::InvalidRequest,
                "top_k=x",
            ),
            (
                "image/png",
                Some("top_k=0"),
                "x".into(),
                Code::InvalidRequest,
                "top_k: expected at least 1",
            ),
            (
                "image/png",
                Some("timeout_ms=0"),
                "x".into(),
                Code::InvalidRequest,
                "timeout_ms",
            ),
            (
                "image/png",
                None,
                "x".repeat(1001),
                Code::PayloadTooLarge,
                "at most 1000 bytes",
            ),
            (json, None, "{".into(), Code::InvalidRequest, "body: EOF"),
            (json, None, "[]".into(), Code::InvalidRequest, "a JSON object"),
            (
                json,
                None,
                "{}".into(),
                Code::InvalidRequest,
                "missing field `inputs`",
            ),
            (
                json,
                None,
                r#"{"inputs": []}"#.into(),
                Code::InvalidRequest,
                "inputs: expected at least one",
            ),
            (
                json,
                None,
                r#"{"inputs": 7}"#.into(),
                Code::InvalidRequest,
                "inputs: invalid type",
            ),
            (
                json,
                None,
                r#"{"inputs": [{}]}"#.into(),
                Code::InvalidRequest,
                "inputs[0]: expected a string",
            ),
            (
                json,
                None,
                r#"{"inputs": {"img": ""}}"#.into(),
                Code::InvalidRequest,
                "unknown field `img`",
            ),
            (
                json,
                None,
                r#"{"inputs": [{"image": "a", "text": "b"}]}"#.into(),
                Code::InvalidRequest,
                "found two",
            ),
            (
                json,
                None,
                r#"{"inputs": ["a", {"image": "*"}]}"#.into(),
                Code::InvalidRequest,
                "inputs[1].image: expected base64",
            ),
            (
                json,
                None,
                r#"{"inputs": {"image": "data:image/png,abc"}}"#.into(),
                Code::InvalidRequest,
                "inputs[0].image: expected a data: URI with ;base64",
            ),
            (
                json,
                None,
                r#"{"inputs": "a"} x"#.into(),
                Code::InvalidRequest,
                "one JSON object",
            ),
            (
                json,
                None,
                r#"{"inputs": "a", "topk": 1}"#.into(),
                Code::InvalidRequest,
                "topk",
            ),
            (
                json,
                None,
                r#"{"inputs": "a", "top_k": -1}"#.into(),
                Code::InvalidRequest,
                "top_k: invalid value",
            ),
            (
                json,
                None,
                r#"{"inputs": "a", "timeout_ms": 1.5}"#.into(),
                Code::InvalidRequest,
                "timeout_ms: invalid value: 1.5, expected a whole number",
            ),
            (
                json,
                Some("model=a"),
                r#"{"inputs": "a", "model": "b"}"#.into(),
                Code::InvalidRequest,
                "model: expected the same",
            ),
            (json, None, "[".repeat(900), Code::InvalidRequest, "body"),
            (
                multipart,
                None,
                form(&[("picture", "x")]),
                Code::InvalidRequest,
                "found \"picture\"",
            ),
            (
                multipart,
                None,
                form(&[("top_k", "many")]),
                Code::InvalidRequest,
                "top_k: expected a whole number",
            ),
            (
                json,
                None,
                r#"{"inputs": "a", "priority": "urgent"}"#.into(),
                Code::InvalidRequest,
                "priority: unknown variant `urgent`",
            ),
            (
                multipart,
                None,
                form(&[("priority", "urgent")]),
                Code::InvalidRequest,
                "priority: expected high, normal or low",
            ),
            (
                multipart,
                None,
                form(&[("model", "a"), ("model", "b")]),
                Code::InvalidRequest,
                "found several",
            ),
            (
                multipart,
                None,
                form(&[("model", "a")]),
                Code::InvalidRequest,
                "image or text: expected at least one",
            ),
            (
                multipart,
                None,
                "--XX\r\nbroken".into(),
                Code::InvalidRequest,
                "multipart/form-data",
            ),
        ];
        for (content_type, query, body, code, part) in cases {
            let error = read_with(content_type, query, body.clone()).await.unwrap_err();
            assert_eq!(error.code, code, "{content_type} {query:?} {body}: {error}");
            assert!(
                error.detail.contains(part),
                "{content_type} {query:?} {body}: {error}"
            );
        }
        let error = read_with("text/plain", None, &b"\xff"[..]).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidText);
    }

    proptest::proptest! {
        #[test]
        fn no_body_whatever_is_a_panic_or_a_fault_of_ours(
            content_type in proptest::sample::select(vec![
                "application/json", "multipart/form-data; boundary=XX", "text/plain", "text/plain;charset=\"UTF-8\"",
                "text/plain; charset=", "text/plain; charset=utf-16", "text/plain;;=;charset",
            ]),
            parts in proptest::collection::vec(proptest::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"inputs\"", "\"image\"", "\"text\"", "\"model\"", "\"top_k\"", "null", "-1",
                "1e999", "\"data:image/png;base64,AAAA\"", "\"\\ud800\"", "\u{0}", "--XX", "--XX--", "\r\n", "\r\n\r\n",
                "Content-Disposition: form-data; name=\"image\"", "Content-Disposition: form-data; name=\"top_k\"",
                "Content-Disposition: form-data; name=\"text\"", "Content-Type: text/plain; charset=koi8-r", "\u{feff}", "<br />", "🍌",
            ]), 0..40),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..20),
        ) {
            let mut body = parts.concat().into_bytes();
            body.extend(noise);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            match runtime.block_on(read_with(content_type, None, body)) {
                Ok(payload) => proptest::prop_assert!(!payload.inputs.is_empty()),
                Err(error) => proptest::prop_assert!(
                    matches!(
                        error.code,
                        Code::InvalidRequest | Code::InvalidText | Code::PayloadTooLarge | Code::UnsupportedMediaType
                    ),
                    "{}", error
                ),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up_at_the_deadline() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let error = read_with("image/png", None, body).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
    }
}
