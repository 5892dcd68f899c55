//! The form `application/json`.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use classifier::InputKind;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Form, Options, RequestPriority};
use crate::http::error::{Code, Error, shortened};
use crate::model::Input;

/// Most characters of a place in the body that an error names.
const MAX_PATH: usize = 100;
/// Most inputs that are kept. No model takes as many in one request; the rest is only counted.
const MAX_KEPT: usize = 65_536;

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

/// The options and inputs of a JSON object.
pub(super) fn read(bytes: &[u8]) -> Result<(Options, Vec<Input>), Error> {
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
        let reason = shortened(&error.inner().to_string());
        Error::invalid_request(format!("{}: {reason}", shortened_path(field)))
    })?;
    deserializer
        .end()
        .map_err(|error| Error::invalid_request(format!("body: expected one JSON object: {error}")))?;
    if payload.inputs.more > 0 {
        let found = payload.inputs.kept.len() + payload.inputs.more;
        return Err(Error::new(
            Code::TooManyInputs,
            format!("inputs: expected at most {MAX_KEPT}, found {found}"),
        ));
    }
    let options = Options {
        model: payload.model,
        top_k: payload.top_k,
        timeout_ms: payload.timeout_ms,
        priority: payload.priority,
    };
    let inputs = payload
        .inputs
        .kept
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

/// Where in the body an error is. The last part may be a key that the client made up.
fn shortened_path(path: &str) -> String {
    match path.char_indices().nth(MAX_PATH) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
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
struct JsonInputs<'a> {
    kept: Vec<JsonInput<'a>>,
    /// How many came behind those.
    more: usize,
}

impl<'a> From<JsonInput<'a>> for JsonInputs<'a> {
    fn from(input: JsonInput<'a>) -> Self {
        Self {
            kept: vec![input],
            more: 0,
        }
    }
}

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
        InputVisitor.visit_borrowed_str(text).map(JsonInputs::from)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        InputVisitor.visit_str(text).map(JsonInputs::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        InputVisitor.visit_map(map).map(JsonInputs::from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut inputs = JsonInputs {
            kept: Vec::new(),
            more: 0,
        };
        while inputs.kept.len() < MAX_KEPT {
            let Some(input) = sequence.next_element()? else {
                return Ok(inputs);
            };
            inputs.kept.push(input);
        }
        while sequence.next_element::<de::IgnoredAny>()?.is_some() {
            inputs.more += 1;
        }
        Ok(inputs)
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
