//! The form `multipart/form-data`.

use std::str::FromStr;

use bytes::Bytes;
use classifier::InputKind;

use super::{Form, Options, RequestPriority, check_charset, text};
use crate::http::error::{Error, quoted, shortened};
use crate::model::Input;

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
                    "body: expected the parts image, text, model, top_k, timeout_ms and priority, found {}",
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
