//! The form `multipart/form-data`.

use std::str::FromStr;

use bytes::Bytes;
use classifier::InputKind;
use serde::Deserialize;
use utoipa::ToSchema;

use super::media::check_charset;
use super::{Form, Options, text};
use crate::http::error::{Error, quoted, shortened};
use crate::model::Input;
use crate::priority::RequestPriority;

/// The body of a request in the multipart form.
// `read` takes the parts in any order, so it needs no such struct; a test compares the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub struct ClassifyForm {
    /// An encoded image; may be repeated. A form holds images or texts, at least one.
    #[schema(value_type = Option<Vec<String>>, format = Binary, nullable = false, example = json!([]))]
    image: Option<Vec<Vec<u8>>>,
    /// A text in UTF-8; may be repeated.
    #[schema(nullable = false, example = json!(["A wonderful film, I was moved to tears.", "Two hours of boredom, badly acted."]))]
    text: Option<Vec<String>>,
    /// Name of the model.
    #[schema(nullable = false, example = "sentiment")]
    model: Option<String>,
    /// Number of labels to return for each input, best first.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, format = Int64, nullable = false, example = 1)]
    top_k: Option<u32>,
    /// Time limit in milliseconds, at most the server's own.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, format = Int64, nullable = false, example = 500)]
    timeout_ms: Option<u32>,
    /// Order in which waiting requests are served.
    #[schema(nullable = false)]
    priority: Option<RequestPriority>,
}

/// The options and inputs of a form.
pub(super) async fn read(boundary: String, bytes: Bytes) -> Result<(Options, Vec<Input>), Error> {
    let broken = |error: multer::Error| {
        Error::invalid_request(format!(
            "body: expected multipart/form-data: {}",
            shortened(&error.to_string())
        ))
    };
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
                    "body: expected the parts image, text, model, top_k, timeout_ms or priority, found {}",
                    quoted(&name)
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
    written.trim().parse().map_err(|_| {
        Error::invalid_request(format!(
            "{name}: expected a whole number, found {}",
            quoted(&written)
        ))
    })
}

fn priority(name: &str, content: Bytes) -> Result<RequestPriority, Error> {
    let written = text(name, &content)?;
    written.trim().parse().map_err(|_| {
        Error::invalid_request(format!(
            "{name}: expected high, normal or low, found {}",
            quoted(&written)
        ))
    })
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[tokio::test]
    async fn the_schema_lists_exactly_the_parts_that_are_read() {
        let schema = serde_json::to_value(ClassifyForm::schema()).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        for (name, value) in [
            ("image", "bytes"),
            ("text", "a text"),
            ("model", "digits"),
            ("top_k", "1"),
            ("timeout_ms", "1"),
            ("priority", "low"),
            ("other", "1"),
        ] {
            let form =
                format!("--b\r\ncontent-disposition: form-data; name={name}\r\n\r\n{value}\r\n--b--\r\n");
            let read = read("b".to_owned(), form.into()).await;
            assert_eq!(read.is_ok(), properties.contains_key(name), "{name}: {read:?}");
        }
        assert_eq!(properties.len(), 6);
    }
}
