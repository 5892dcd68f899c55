//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use classifier::Preprocessor;
use classifier::bundle::{Measured, ProblemType};
use classifier::text::Truncation;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::error::{Error, Problem};
use crate::model::Model;

/// All loaded models.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// Sorted by name.
    models: Vec<ModelDescription>,
}

/// One loaded model: what it takes, what it gives, how it runs.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDescription {
    /// Name of its folder.
    #[schema(example = "digits")]
    name: String,
    /// Version that is served.
    #[schema(example = "1")]
    version: String,
    /// `image-classification` or `text-classification`.
    #[schema(example = "image-classification")]
    task: &'static str,
    /// `single_label_classification` or `multi_label_classification`.
    #[schema(value_type = String, example = "single_label_classification")]
    problem_type: ProblemType,
    /// In the order of the outputs.
    labels: Vec<String>,
    /// Axes of a picture without the batch axis; of an image classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!([1, 28, 28]))]
    input_shape: Option<[usize; 3]>,
    /// How texts are cut and padded; of a text classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<TextDescription>,
    /// Most inputs in one request.
    #[schema(example = 32)]
    max_inputs: u32,
    /// Where it runs.
    #[schema(example = "cpu")]
    provider: &'static str,
    /// Sessions that run side by side.
    lanes: usize,
    /// Threads that a run uses when nothing else runs.
    threads: usize,
    /// Why so many.
    lanes_reason: String,
    /// Whether a lane is there to run a request.
    available: bool,
    /// What it was measured on, if its directory says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({"dataset": "MNIST", "split": "test", "samples": 10000, "accuracy": 0.995}))]
    measured: Option<Measured>,
}

/// What a text classifier does to a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextDescription {
    /// Most tokens that are looked at.
    #[schema(example = 512)]
    max_length: usize,
    /// What is kept of a longer text: `head`, `tail` or `head_tail`.
    #[schema(value_type = String, example = "head")]
    truncation: Truncation,
    /// Numbers of tokens that texts are padded to.
    #[schema(example = json!([16, 32, 64, 128, 256, 512]))]
    buckets: Vec<usize>,
}

impl ModelDescription {
    fn new(model: &Model) -> Self {
        let plan = model.plan();
        let (task, input_shape, text) = match &model.bundle.preprocessor {
            Preprocessor::Image(preprocessor) => ("image-classification", Some(preprocessor.shape()), None),
            Preprocessor::Text(tokenizer) => {
                let text = TextDescription {
                    max_length: tokenizer.max_length(),
                    truncation: tokenizer.truncation(),
                    buckets: tokenizer.buckets().to_vec(),
                };
                ("text-classification", None, Some(text))
            }
        };
        Self {
            name: model.name.clone(),
            version: model.version.clone(),
            task,
            problem_type: model.bundle.problem_type,
            labels: model.bundle.labels.clone(),
            input_shape,
            text,
            max_inputs: model.max_batch,
            provider: model.provider(),
            lanes: plan.lanes,
            threads: plan.threads_of_a_lone_run(crate::cpu::available()),
            lanes_reason: plan.reason.clone(),
            available: model.is_available(),
            measured: model.bundle.serving.measured.clone(),
        }
    }
}

/// List the loaded models.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses(
    (status = 200, description = "All loaded models.", body = Models)
))]
pub async fn list(State(app): State<Arc<App>>) -> Json<Models> {
    let models = app.catalog.models().map(ModelDescription::new).collect();
    Json(Models { models })
}

/// Describe one model.
#[utoipa::path(get, path = "/v1/models/{name}", tag = "models",
    params(("name" = String, Path, description = "Name of the model.", example = "digits")),
    responses(
        (status = 200, description = "The model.", body = ModelDescription),
        (status = 404, description = "`model_not_found`", body = Problem<'_>, content_type = "application/problem+json"),
    )
)]
pub async fn show(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<ModelDescription>, Error> {
    app.catalog
        .get(&name)
        .map(|model| Json(ModelDescription::new(model)))
}
