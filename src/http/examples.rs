//! Example inputs of a model, to try it with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use classifier::{InputKind, image};
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use super::App;
use super::document::{EncodedImage, problems, unknown_model};
use super::models::ModelProblems;
use super::path::PathOf;
use crate::http::error::{Code, Error, quoted};
use crate::model::{Example, Model};

/// Example inputs of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Examples<'a> {
    /// Golden samples of the model. Empty if its directory has none.
    examples: Vec<ExampleDescription<'a>>,
}

/// An example input.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExampleDescription<'a> {
    /// Name of the example, part of its URL.
    #[schema(example = "7_0.png")]
    name: &'a str,
    /// The true label.
    #[schema(example = "7")]
    label: &'a str,
    /// The content type to send it with.
    #[schema(example = "image/png")]
    media_type: &'static str,
}

/// List the example inputs of a model.
#[utoipa::path(get, path = "/v1/models/{name}/examples", tag = "models", operation_id = "list_examples",
    params(("name" = String, Path, description = "Name of the model.", example = "digits")),
    responses((status = 200, description = "The examples.", body = Examples<'_>), ModelProblems)
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    PathOf(name): PathOf<String>,
) -> Result<Response, Error> {
    let catalog = app.catalog.load();
    let model = catalog.get(&name)?;
    let examples = model.examples.iter().map(|example| ExampleDescription {
        name: &example.name,
        label: &example.label,
        media_type: media_type(model, example),
    });
    let examples = examples.collect();
    Ok(Json(Examples { examples }).into_response())
}

/// Get an example input.
#[utoipa::path(get, path = "/v1/models/{name}/examples/{example}", tag = "models", operation_id = "show_example",
    params(
        ("name" = String, Path, description = "Name of the model.", example = "digits"),
        ("example" = String, Path, description = "Name of the example.", example = "7_0.png"),
    ),
    responses(
        (status = 200, description = "The encoded image, or the text in UTF-8.", content(
            (EncodedImage = "image/png"), (EncodedImage = "image/jpeg"), (EncodedImage = "image/webp"), (EncodedImage = "image/gif"),
            (EncodedImage = "image/bmp"), (String = "text/plain; charset=utf-8"),
        )),
        ExampleProblems,
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    PathOf((name, example)): PathOf<(String, String)>,
) -> Result<Response, Error> {
    let catalog = app.catalog.load();
    let model = catalog.get(&name)?;
    let found = model.examples.iter().find(|found| found.name == example);
    let found = found.ok_or_else(|| unknown_example(&name, &example))?;
    let media_type = media_type(model, found);
    Ok(([(CONTENT_TYPE, media_type)], found.content.clone()).into_response())
}

fn media_type(model: &Model, example: &Example) -> &'static str {
    match model.kind() {
        InputKind::Text => "text/plain; charset=utf-8",
        // The golden samples were decoded at start-up, so the type is known.
        InputKind::Image => image::media_type(&example.content).unwrap_or("application/octet-stream"),
    }
}

fn unknown_example(model: &str, found: &str) -> Error {
    Error::new(
        Code::NotFound,
        format!(
            "example: expected one of GET /v1/models/{model}/examples, found {}",
            quoted(found)
        ),
    )
}

struct ExampleProblems;

impl IntoResponses for ExampleProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([unknown_model(), unknown_example("digits", "nope")])
    }
}
