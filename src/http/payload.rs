//! The three ways to send a classification: raw, multipart and JSON.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use classifier::Kind as InputKind;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, timeout_at};

use crate::batch::Priority;
use crate::error::{Code, Error};
use crate::model::Input;

/// What may stand in the query, in JSON and in a multipart form alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
// Without examples: Swagger UI would send them along with those of the body, which say other things.
pub struct Options {
    /// Name of the model. May be left out where one loaded model takes this kind of input, or a default is configured.
    pub model: Option<String>,
    /// How many labels to list for each input, best first. Default: 5.
    #[param(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub top_k: Option<u32>,
    /// Shortens the server's time limit, in milliseconds.
    #[param(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub timeout_ms: Option<u32>,
    /// Who goes first when requests wait. Default: normal.
    #[param(inline)]
    pub priority: Option<RequestPriority>,
}

/// Who goes first when requests wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestPriority {
    /// Before all others.
    High,
    /// As usual.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl From<RequestPriority> for Priority {
    fn from(priority: RequestPriority) -> Self {
        match priority {
            RequestPriority::High => Self::High,
            RequestPriority::Normal => Self::Normal,
            RequestPriority::Low => Self::Low,
        }
    }
}

impl FromStr for RequestPriority {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

impl Options {
    /// The options of the query string.
    pub fn from_query(query: Option<&str>) -> Result<Self, Error> {
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Ok(Self::default());
        };
        let options: Self = serde_urlencoded::from_str(query).map_err(|error| {
            Error::invalid_request(format!(
                "query: expected model, top_k, timeout_ms or priority, found {query:?}: {error}"
            ))
        })?;
        options.check()
    }

    fn check(self) -> Result<Self, Error> {
        if self.top_k == Some(0) {
            return Err(Error::invalid_request("top_k: expected at least 1, found 0"));
        }
        if self.timeout_ms == Some(0) {
            return Err(Error::invalid_request("timeout_ms: expected at least 1, found 0"));
        }
        Ok(self)
    }

    /// Both together. What stands in both must be the same.
    fn merge(self, other: Self) -> Result<Self, Error> {
        fn one<T: PartialEq + fmt::Debug>(
            key: &str,
            query: Option<T>,
            body: Option<T>,
        ) -> Result<Option<T>, Error> {
            match (query, body) {
                (Some(query), Some(body)) if query != body => Err(Error::invalid_request(format!(
                    "{key}: expected the same in the query and in the body, found {query:?} and {body:?}"
                ))),
                (query, body) => Ok(query.or(body)),
            }
        }
        Ok(Self {
            model: one("model", self.model, other.model)?,
            top_k: one("top_k", self.top_k, other.top_k)?,
            timeout_ms: one("timeout_ms", self.timeout_ms, other.timeout_ms)?,
            priority: one("priority", self.priority, other.priority)?,
        })
    }

    /// How long the request may take, given what the server allows.
    pub fn timeout(&self, longest: Duration) -> Duration {
        self.timeout_ms.map_or(longest, |milliseconds| {
            Duration::from_millis(milliseconds.into()).min(longest)
        })
    }
}

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
#[derive(Debug, PartialEq, Eq)]
pub struct Payload {
    /// How it was sent.
    pub form: Form,
    /// Out of query and body.
    pub options: Options,
    /// In their order; at least one.
    pub inputs: Vec<Input>,
}

/// What the content type says.
enum Kind {
    Image,
    Text,
    Json,
    Multipart { boundary: String },
}

const EXPECTED_TYPES: &str = "image/png, image/jpeg, image/webp, image/gif, image/bmp, text/plain, application/json or multipart/form-data";

/// Reads a request's body, at most `max_body` bytes of it, until `deadline`.
pub async fn read(
    headers: &HeaderMap,
    options: Options,
    body: Body,
    max_body: u64,
    deadline: Instant,
) -> Result<Payload, Error> {
    let kind = match kind(headers) {
        Ok(kind) => kind,
        Err(error) => return Err(refuse(error, body, max_body, deadline).await),
    };
    let bytes = read_body(headers, body, max_body, deadline).await?;
    let (form, body_options, inputs) = match kind {
        Kind::Image => (Form::Raw, Options::default(), vec![Input::Image(bytes)]),
        Kind::Text => (
            Form::Raw,
            Options::default(),
            vec![Input::Text(text("body", &bytes)?)],
        ),
        Kind::Json => {
            let (options, inputs) = read_json(&bytes)?;
            (Form::Json, options, inputs)
        }
        Kind::Multipart { boundary } => {
            let (options, inputs) = read_multipart(boundary, bytes).await?;
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
                "Content-Type: expected a boundary, found {value:?}: {error}"
            ))
        })?;
        return Ok(Kind::Multipart { boundary });
    }
    Err(unsupported(&format!("{value:?}")))
}

async fn read_body(
    headers: &HeaderMap,
    body: Body,
    max_body: u64,
    deadline: Instant,
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
    match timeout_at(deadline, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long("more").with_body_unread()),
        Ok(Err(error)) => {
            Err(Error::invalid_request(format!("body: it broke off: {error}")).with_body_unread())
        }
        Err(_) => Err(Error::new(
            Code::DeadlineExceeded,
            "body: it did not arrive before the deadline of the request",
        )
        .with_body_unread()),
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
                format!("{field}: expected charset=utf-8, found {content_type:?}"),
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

async fn read_multipart(boundary: String, bytes: Bytes) -> Result<(Options, Vec<Input>), Error> {
    let broken =
        |error: multer::Error| Error::invalid_request(format!("body: expected multipart/form-data: {error}"));
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
    let mut parts = multer::Multipart::new(stream, boundary);
    let mut options = Options::default();
    let mut inputs = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or_default().to_owned();
        let content_type = part.content_type().map(ToString::to_string);
        let content = part.bytes().await.map_err(broken)?;
        match name.as_str() {
            "image" => inputs.push(Input::Image(content)),
            "text" => {
                let field = Form::Multipart.field(InputKind::Text, inputs.len());
                if let Some(content_type) = content_type {
                    check_charset(&field, &content_type)?;
                }
                inputs.push(Input::Text(text(&field, &content)?));
            }
            "model" => set_once(&mut options.model, &name, text(&name, &content)?)?,
            "top_k" => set_once(&mut options.top_k, &name, number(&name, content)?)?,
            "timeout_ms" => set_once(&mut options.timeout_ms, &name, number(&name, content)?)?,
            "priority" => set_once(&mut options.priority, &name, priority(&name, content)?)?,
            _ => {
                return Err(Error::invalid_request(format!(
                    "body: expected the parts image, text, model, top_k, timeout_ms and priority, found {name:?}"
                )));
            }
        }
    }
    Ok((options, inputs))
}

fn set_once<T>(option: &mut Option<T>, name: &str, value: T) -> Result<(), Error> {
    if option.replace(value).is_some() {
        return Err(Error::invalid_request(format!(
            "{name}: expected one part, found several"
        )));
    }
    Ok(())
}

fn number<T: FromStr>(name: &str, content: Bytes) -> Result<T, Error> {
    let written = text(name, &content)?;
    written
        .trim()
        .parse()
        .map_err(|_| Error::invalid_request(format!("{name}: expected a whole number, found {written:?}")))
}

fn priority(name: &str, content: Bytes) -> Result<RequestPriority, Error> {
    let written = text(name, &content)?;
    written.trim().parse().map_err(|_| {
        Error::invalid_request(format!("{name}: expected high, normal or low, found {written:?}"))
    })
}

/// The JSON form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPayload<'a> {
    #[serde(default)]
    model: Option<String>,
    #[serde(default, deserialize_with = "whole_number")]
    top_k: Option<u32>,
    #[serde(default, deserialize_with = "whole_number")]
    timeout_ms: Option<u32>,
    #[serde(default)]
    priority: Option<RequestPriority>,
    #[serde(borrow)]
    inputs: JsonInputs<'a>,
}

/// An integer as JSON Schema understands it: 3.0 is one as well.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let is_whole = |value: &f64| value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(value);
    match number.as_f64().filter(is_whole) {
        Some(value) => Ok(Some(value as u32)),
        None => Err(de::Error::invalid_value(
            de::Unexpected::Other(&number.to_string()),
            &"a whole number of at most 4294967295",
        )),
    }
}

fn read_json(bytes: &[u8]) -> Result<(Options, Vec<Input>), Error> {
    // Serde would also take an array with the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::invalid_request(
            "body: expected a JSON object, found something else",
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let payload: JsonPayload<'_> = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        // "." is the whole, "?" a place that the parser did not get to.
        let field = if path == "." || path == "?" { "body" } else { &path };
        Error::invalid_request(format!("{field}: {}", error.inner()))
    })?;
    deserializer
        .end()
        .map_err(|error| Error::invalid_request(format!("body: expected one JSON object: {error}")))?;
    let options = Options {
        model: payload.model,
        top_k: payload.top_k,
        timeout_ms: payload.timeout_ms,
        priority: payload.priority,
    };
    let inputs = payload
        .inputs
        .0
        .into_iter()
        .enumerate()
        .map(|(at, input)| match input {
            JsonInput::Text(text) => Ok(Input::Text(text.into_owned())),
            JsonInput::Image(encoded) => decode_base64(&encoded).map(Input::Image).map_err(|detail| {
                Error::invalid_request(format!("{}: {detail}", Form::Json.field(InputKind::Image, at)))
            }),
        });
    Ok((options, inputs.collect::<Result<_, _>>()?))
}

/// Base64 with or without padding, bare or as a `data:` URI.
fn decode_base64(encoded: &str) -> Result<Bytes, String> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let data = match encoded.strip_prefix("data:") {
        None => encoded,
        Some(uri) => match uri.split_once(',') {
            Some((media_type, data)) if media_type.ends_with(";base64") => data,
            _ => return Err("expected a data: URI with ;base64, before its data, found none".to_owned()),
        },
    };
    let decoded = ENGINE.decode(data);
    decoded
        .map(Bytes::from)
        .map_err(|error| format!("expected base64: {error}"))
}

/// One input or a list.
#[derive(Debug)]
struct JsonInputs<'a>(Vec<JsonInput<'a>>);

/// A text, or the base64 of a picture; borrowed from the body where nothing is escaped.
#[derive(Debug)]
enum JsonInput<'a> {
    Text(Cow<'a, str>),
    Image(Cow<'a, str>),
}

const EXPECTED_INPUT: &str = r#"a string, {"text": "..."} or {"image": "<base64 or data: URI>"}"#;

impl<'de: 'a, 'a> Deserialize<'de> for JsonInputs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = JsonInputs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{EXPECTED_INPUT}, or a list of them")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        InputVisitor
            .visit_borrowed_str(text)
            .map(|input| JsonInputs(vec![input]))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        InputVisitor.visit_str(text).map(|input| JsonInputs(vec![input]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        InputVisitor.visit_map(map).map(|input| JsonInputs(vec![input]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut inputs = Vec::new();
        while let Some(input) = sequence.next_element()? {
            inputs.push(input);
        }
        Ok(JsonInputs(inputs))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonInput<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = JsonInput<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED_INPUT)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(JsonInput::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(JsonInput::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut input = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let value = match key.as_ref() {
                "text" => JsonInput::Text(map.next_value::<BorrowedStr<'de>>()?.0),
                "image" => JsonInput::Image(map.next_value::<BorrowedStr<'de>>()?.0),
                _ => return Err(de::Error::unknown_field(&key, &["text", "image"])),
            };
            if input.replace(value).is_some() {
                return Err(de::Error::custom(format!(
                    "expected {EXPECTED_INPUT}, found two of them in one"
                )));
            }
        }
        input.ok_or_else(|| de::Error::custom(format!("expected {EXPECTED_INPUT}, found {{}}")))
    }
}

/// Serde borrows a `Cow` only where an attribute of a struct's field says so.
#[derive(Deserialize)]
struct BorrowedStr<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_with(
        content_type: &str,
        query: Option<&str>,
        body: impl Into<Body>,
    ) -> Result<Payload, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        let deadline = Instant::now() + Duration::from_secs(1);
        read(&headers, Options::from_query(query)?, body.into(), 1000, deadline).await
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
