//! The OpenAPI document: what it says beside the routes, and the problem responses that routes have in common.

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
use crate::error::{Code, Error, Problem};

/// The request id of the examples.
const REQUEST_ID: &str = "5f0c1d2e00000001";

/// What the document says that belongs to no route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "classifyd",
        description = "Classifies images and texts with ONNX models. POST one to `/v1/classify`, get labels with scores.\n\n\
            Every error is a problem document (RFC 9457). A path that is not listed here is answered with 404 `not_found`, a \
            method that its path does not list with 405 `method_not_allowed` and an `Allow` header.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "This server.")),
    tags(
        (name = "classify", description = "Pictures and texts in, labels with scores out."),
        (name = "models", description = "What is loaded."),
        (name = "probes", description = "For orchestrators and Prometheus."),
        (name = "pages", description = "For people: the playground, and this document."),
    ),
    components(schemas(Code, Problem<'_>))
)]
pub(super) struct Document;

/// An encoded picture.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "documents bodies that are pictures")]
pub(super) struct Picture(Vec<u8>);

/// Responses with a problem, and for each code an example with this detail.
pub(super) fn problems(examples: &[(Code, &str)]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let mut by_status: BTreeMap<String, Vec<(Code, &str)>> = BTreeMap::new();
    for &(code, detail) in examples {
        by_status
            .entry(code.status().as_str().to_owned())
            .or_default()
            .push((code, detail));
    }
    by_status
        .into_iter()
        .map(|(status, examples)| (status, RefOr::T(problem_response(&examples))))
        .collect()
}

fn problem_response(examples: &[(Code, &str)]) -> utoipa::openapi::Response {
    let codes: Vec<String> = examples
        .iter()
        .map(|(code, _)| format!("`{}`", code.as_str()))
        .collect();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples.iter().map(|&(code, detail)| {
            let error = Error::new(code, detail);
            let value = serde_json::to_value(error.problem(REQUEST_ID)).ok();
            let example = ExampleBuilder::new().summary(code.title()).value(value);
            (code.as_str(), example.build())
        }));
    let mut response = ResponseBuilder::new()
        .description(codes.join(", "))
        .header(
            "X-Request-Id",
            header(Type::String, "Names the request in the log."),
        )
        .content("application/problem+json", content.build());
    let has = |wanted: fn(Code) -> bool| examples.iter().any(|&(code, _)| wanted(code));
    if has(|code| code.retry_after().is_some() || code == Code::RateLimited) {
        let retry_after = header(Type::Integer, "Seconds after which to try again.");
        response = response.header("Retry-After", retry_after);
    }
    if has(|code| code == Code::Unauthorized) {
        let challenge = header(Type::String, "How to send the key.");
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
    use crate::engine::LaneError;
    use batching::Refusal;

    /// What no client can provoke; the other examples are compared with answers in `tests/server/openapi.rs`.
    #[test]
    fn the_examples_of_a_model_that_is_not_running_are_what_the_code_says() {
        let document = serde_json::to_value(crate::http::document()).unwrap();
        let unavailable: batching::Error<LaneError> = batching::Error::Refused(Refusal::Unavailable);
        for (path, method, error) in [
            ("/v1/classify", "post", Error::from(unavailable)),
            ("/readyz", "get", crate::http::probes::not_running("digits")),
        ] {
            let response = &document["paths"][path][method]["responses"]["503"];
            let example =
                &response["content"]["application/problem+json"]["examples"]["model_unavailable"]["value"];
            assert_eq!(*example, serde_json::to_value(error.problem(REQUEST_ID)).unwrap());
        }
    }
}
