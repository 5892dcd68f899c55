//! The form `application/json`.
//!
//! The OpenAPI schema is derived from the types that are read. `inputs` is read by visitors and not
//! by a derived `untagged` implementation, because that one loses the path in error messages
//! (`inputs[3].image`).

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use classifier::InputKind;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{Form, Options};
use crate::http::error::{Code, Error, shortened};
use crate::model::Input;
use crate::priority::RequestPriority;

/// Most characters of a path in an error message.
const MAX_PATH: usize = 100;
/// Most inputs that are kept in memory. Further ones are only counted: no model takes that many.
const MAX_KEPT: usize = 65_536;

/// The body of a request in the JSON form.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRequest<'a> {
    /// Name of the model.
    #[serde(default)]
    #[schema(example = "digits")]
    model: Option<String>,
    #[serde(borrow)]
    inputs: Inputs<'a>,
    /// Number of labels to return for each input, best first.
    #[serde(default, deserialize_with = "whole_number")]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, format = Int64, example = 3)]
    top_k: Option<u32>,
    /// Time limit in milliseconds, at most the server's own.
    #[serde(default, deserialize_with = "whole_number")]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, format = Int64, example = 500)]
    timeout_ms: Option<u32>,
    /// Order in which waiting requests are served.
    #[serde(default)]
    priority: Option<RequestPriority>,
}

/// An integer in the sense of JSON Schema, where 3.0 is one too.
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

pub(super) fn read(bytes: &[u8]) -> Result<(Options, Vec<Input>), Error> {
    // Serde would also accept an array of the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::invalid_request("body: expected a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let request: ClassifyRequest<'_> =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            // "." is the whole body, "?" a place that the parser did not reach.
            let field = if path == "." || path == "?" { "body" } else { &path };
            let reason = shortened(&error.inner().to_string());
            Error::invalid_request(format!("{}: {reason}", shortened_path(field)))
        })?;
    deserializer
        .end()
        .map_err(|error| Error::invalid_request(format!("body: expected one JSON object: {error}")))?;
    let options = Options {
        model: request.model,
        top_k: request.top_k,
        timeout_ms: request.timeout_ms,
        priority: request.priority,
    };
    let inputs = match request.inputs {
        Inputs::One(input) => vec![input.decode(0)?],
        Inputs::Many(list) => list.decode()?,
    };
    Ok((options, inputs))
}

/// Cuts a path: its last part may be an unknown key of any length.
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
            _ => return Err("expected a data: URI with ;base64, before the data".to_owned()),
        },
    };
    let decoded = ENGINE.decode(data);
    decoded
        .map(Bytes::from)
        .map_err(|error| format!("expected base64: {error}"))
}

/// One input, or a list of them.
// `Serialize` is derived so that `untagged` holds for the schema; the visitor below reads the type.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Inputs<'a> {
    One(JsonInput<'a>),
    Many(InputList<'a>),
}

/// A text, as a string or in an object, or an image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum JsonInput<'a> {
    /// A text.
    String(Cow<'a, str>),
    /// A text.
    Text(TextInput<'a>),
    /// An image.
    Image(ImageInput<'a>),
}

// Strings are borrowed from the body where nothing is escaped.

/// A text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextInput<'a> {
    /// The text.
    #[schema(example = "A wonderful film, I was moved to tears.")]
    text: Cow<'a, str>,
}

/// An image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageInput<'a> {
    /// The encoded image in base64, bare or as a data: URI.
    #[schema(content_encoding = "base64")]
    image: Cow<'a, str>,
}

#[derive(Debug, Serialize)]
pub struct InputList<'a> {
    kept: Vec<JsonInput<'a>>,
    /// Number of inputs after the first [`MAX_KEPT`].
    more: usize,
}

impl PartialSchema for InputList<'_> {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(Ref::from_schema_name("JsonInput"))
            .min_items(Some(1))
            .description(Some(
                "At least one input and at most `max_inputs` of the model; all images or all texts.",
            ))
            .into()
    }
}

impl ToSchema for InputList<'_> {
    fn name() -> Cow<'static, str> {
        "InputList".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((JsonInput::name().into_owned(), JsonInput::schema()));
        JsonInput::schemas(schemas);
    }
}

impl JsonInput<'_> {
    fn decode(self, at: usize) -> Result<Input, Error> {
        match self {
            Self::String(text) | Self::Text(TextInput { text }) => Ok(Input::Text(text.into_owned())),
            Self::Image(ImageInput { image }) => decode_base64(&image).map(Input::Image).map_err(|detail| {
                Error::invalid_request(format!("{}: {detail}", Form::Json.field(InputKind::Image, at)))
            }),
        }
    }
}

impl InputList<'_> {
    fn decode(self) -> Result<Vec<Input>, Error> {
        if self.more > 0 {
            let found = self.kept.len() + self.more;
            return Err(Error::new(
                Code::TooManyInputs,
                format!("inputs: expected at most {MAX_KEPT}, found {found}"),
            ));
        }
        let inputs = self.kept.into_iter().enumerate();
        inputs.map(|(at, input)| input.decode(at)).collect()
    }
}

const EXPECTED_INPUT: &str = r#"a string, {"text": "..."} or {"image": "<base64 or data: URI>"}"#;

impl<'de: 'a, 'a> Deserialize<'de> for Inputs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{EXPECTED_INPUT}, or a list of them")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        InputVisitor.visit_borrowed_str(text).map(Inputs::One)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        InputVisitor.visit_str(text).map(Inputs::One)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        InputVisitor.visit_map(map).map(Inputs::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut list = InputList {
            kept: Vec::new(),
            more: 0,
        };
        while list.kept.len() < MAX_KEPT {
            let Some(input) = sequence.next_element()? else {
                return Ok(Inputs::Many(list));
            };
            list.kept.push(input);
        }
        while sequence.next_element::<de::IgnoredAny>()?.is_some() {
            list.more += 1;
        }
        Ok(Inputs::Many(list))
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
        Ok(JsonInput::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(JsonInput::String(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut input = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let value = match key.as_ref() {
                "text" => JsonInput::Text(TextInput {
                    text: map.next_value::<BorrowedStr<'de>>()?.0,
                }),
                "image" => JsonInput::Image(ImageInput {
                    image: map.next_value::<BorrowedStr<'de>>()?.0,
                }),
                _ => return Err(de::Error::unknown_field(&key, &["text", "image"])),
            };
            if input.replace(value).is_some() {
                return Err(de::Error::custom(format!(
                    "expected {EXPECTED_INPUT}, found two fields"
                )));
            }
        }
        input.ok_or_else(|| de::Error::custom(format!("expected {EXPECTED_INPUT}, found {{}}")))
    }
}

/// Serde borrows a `Cow` only if a field attribute says so.
#[derive(Deserialize)]
struct BorrowedStr<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_input_of_the_schema_is_read_alone_and_in_a_list() {
        let input = |input: JsonInput<'_>| serde_json::to_value(input).unwrap();
        let text = || Cow::Borrowed("bm8=");
        for input in [
            input(JsonInput::String(text())),
            input(JsonInput::Text(TextInput { text: text() })),
            input(JsonInput::Image(ImageInput { image: text() })),
        ] {
            for inputs in [json!(input), json!([input, input])] {
                let body = json!({ "inputs": inputs }).to_string();
                let (_, read) = read(body.as_bytes()).unwrap();
                assert_eq!(read.len(), inputs.as_array().map_or(1, Vec::len), "{body}");
            }
        }
    }
}
