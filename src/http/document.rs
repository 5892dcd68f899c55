//! The OpenAPI document: its general part, and the problem responses that routes share.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Header, Ref, RefOr};
use utoipa::{OpenApi, ToSchema};

use super::App;
use super::error::{Code, Error, Problem};
use crate::catalog::SelectError;

/// Request ID of the examples.
const REQUEST_ID: &str = "5f0c1d2e00000001";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "classifyd",
        description = "Classifies images and texts with ONNX models. POST one to `/v1/classify`, get labels with scores.\n\n\
            Every error is a problem document (RFC 9457). Unknown paths get 404 `not_found`. Methods that a path does not list \
            get 405 `method_not_allowed` with an `Allow` header.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "This server.")),
    tags(
        (name = "classify", description = "Images and texts in, labels with scores out."),
        (name = "models", description = "The loaded models."),
        (name = "probes", description = "For orchestrators and Prometheus."),
        (name = "pages", description = "The playground and this document."),
    ),
    components(schemas(Code, Problem<'_>))
)]
pub(super) struct Document;

/// An encoded image.
#[derive(ToSchema)]
#[schema(as = Picture, value_type = String, format = Binary)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) struct EncodedImage(Vec<u8>);

/// The example of a `model_not_found`.
pub(super) fn unknown_model() -> Error {
    Error::from(SelectError::Unknown {
        name: "nope".to_owned(),
        loaded: "digits, fashion, images, sentiment".to_owned(),
    })
}

/// Responses with a problem document, by status, with these errors as examples.
pub(super) fn problems(
    examples: impl IntoIterator<Item = Error>,
) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let mut by_status: BTreeMap<String, Vec<Error>> = BTreeMap::new();
    for error in examples {
        let status = error.code.status().as_str().to_owned();
        by_status.entry(status).or_default().push(error);
    }
    by_status
        .into_iter()
        .map(|(status, examples)| (status, RefOr::T(problem_response(&examples))))
        .collect()
}

fn problem_response(examples: &[Error]) -> utoipa::openapi::Response {
    let codes: Vec<String> = examples
        .iter()
        .map(|error| format!("`{}`", error.code.as_str()))
        .collect();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples.iter().map(|error| {
            let value = serde_json::to_value(error.problem(REQUEST_ID)).ok();
            let example = ExampleBuilder::new().summary(error.code.title()).value(value);
            (error.code.as_str(), example.build())
        }));
    let mut response = ResponseBuilder::new()
        .description(codes.join(", "))
        .header(
            "X-Request-Id",
            header(Type::String, "Identifies the request in the server's log."),
        )
        .content("application/problem+json", content.build());
    let has = |wanted: fn(Code) -> bool| examples.iter().any(|error| wanted(error.code));
    if has(|code| code.retry_after().is_some() || code == Code::RateLimited) {
        let retry_after = header(Type::Integer, "Seconds to wait before a retry.");
        response = response.header("Retry-After", retry_after);
    }
    if has(|code| code == Code::Unauthorized) {
        let challenge = header(Type::String, "How to send the API key.");
        response = response.header("WWW-Authenticate", challenge);
    }
    response.build()
}

fn header(r#type: Type, description: &str) -> Header {
    let mut header = Header::new(ObjectBuilder::new().schema_type(r#type).build());
    header.description = Some(description.to_owned());
    header
}

/// This document as JSON.
#[utoipa::path(get, path = "/openapi.json", tag = "pages", responses(
    (status = 200, description = "The OpenAPI document.", content_type = "application/json", body = Object)
))]
pub(super) async fn json(State(_): State<Arc<App>>) -> Response {
    static TEXT: LazyLock<Result<Bytes, String>> = LazyLock::new(|| {
        let text = super::document().to_json();
        text.map(Bytes::from).map_err(|error| error.to_string())
    });
    respond("application/json", &TEXT)
}

/// This document as YAML.
#[utoipa::path(get, path = "/openapi.yaml", tag = "pages", responses(
    (status = 200, description = "The OpenAPI document.", content_type = "application/yaml", body = Object)
))]
pub(super) async fn yaml(State(_): State<Arc<App>>) -> Response {
    static TEXT: LazyLock<Result<Bytes, String>> = LazyLock::new(|| {
        let text = super::document().to_yaml();
        text.map(Bytes::from).map_err(|error| error.to_string())
    });
    respond("application/yaml", &TEXT)
}

fn respond(content_type: &'static str, text: &Result<Bytes, String>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, content_type)], text.clone()).into_response(),
        Err(error) => Error::internal(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batching::Refusal;

    /// No client can cause these errors. `tests/server/openapi.rs` compares the other examples with
    /// responses.
    #[test]
    fn the_examples_for_an_unavailable_model_match_the_errors() {
        let document = serde_json::to_value(crate::http::document()).unwrap();
        for (path, method, error) in [
            ("/v1/classify", "post", Error::from(Refusal::Unavailable)),
            ("/readyz", "get", crate::http::probes::not_running("digits")),
        ] {
            let response = &document["paths"][path][method]["responses"]["503"];
            let example =
                &response["content"]["application/problem+json"]["examples"]["model_unavailable"]["value"];
            assert_eq!(*example, serde_json::to_value(error.problem(REQUEST_ID)).unwrap());
        }
    }
}
