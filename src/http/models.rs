//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use classifier::Preprocessor;
use classifier::bundle::{Measured, ProblemType};
use classifier::text::Truncation;
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use super::App;
use super::document::{problems, unknown_model};
use super::path::PathOf;
use crate::cure;
use crate::http::error::Error;
use crate::model::Model;

/// All loaded models.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// In the order of their names.
    models: Vec<ModelDescription>,
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDescription {
    /// Name of the model, which is the name of its directory.
    #[schema(example = "digits")]
    name: String,
    /// The version that is served.
    #[schema(example = "1")]
    version: String,
    /// The kind of input and output.
    task: Task,
    /// `single_label_classification` or `multi_label_classification`.
    #[schema(value_type = String, example = "single_label_classification")]
    problem_type: ProblemType,
    /// The labels in the order of the outputs.
    labels: Vec<String>,
    /// Image classifiers only: shape of an image as channels, height and width.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = json!([1, 28, 28]))]
    input_shape: Option<[usize; 3]>,
    /// Text classifiers only: how texts are truncated and padded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<TextDescription>,
    /// Maximum number of inputs in a request.
    #[schema(example = 32)]
    max_inputs: u32,
    /// Execution provider: `cpu`, `cuda` or `tensorrt`.
    #[schema(example = "cpu")]
    provider: &'static str,
    /// On a GPU only: index of the GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    device_id: Option<u32>,
    /// On a GPU only: number of graph nodes by execution provider.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    nodes: BTreeMap<String, usize>,
    /// Why `device = "auto"` fell back to this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fallback: Option<String>,
    /// Number of sessions that run batches in parallel.
    lanes: usize,
    /// Threads of a run while no other run is active.
    threads: usize,
    /// Why this number of lanes and threads was chosen.
    lanes_reason: String,
    /// Whether a lane can run requests.
    available: bool,
    /// Whether the latest runs failed in a row. Reset by the next successful run.
    degraded: bool,
    /// Measured accuracy, if the model directory states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    measured: Option<Accuracy>,
}

/// Kind of input and output.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    ImageClassification,
    TextClassification,
}

/// Measured accuracy of a model.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the field's name is what clients see")]
pub struct Accuracy {
    /// Name of the data set.
    #[schema(example = "MNIST")]
    dataset: String,
    /// Part of the data set, such as `test`.
    #[schema(example = "test")]
    split: String,
    /// Number of samples.
    #[schema(example = 10000)]
    samples: u64,
    /// Fraction of the samples that was labelled correctly, between 0 and 1.
    #[schema(example = 0.9962)]
    accuracy: f64,
}

impl From<&Measured> for Accuracy {
    fn from(measured: &Measured) -> Self {
        Self {
            dataset: measured.dataset.clone(),
            split: measured.split.clone(),
            samples: measured.samples,
            accuracy: measured.accuracy,
        }
    }
}

/// How a text classifier truncates and pads texts.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextDescription {
    /// Maximum number of tokens that are used.
    #[schema(example = 768)]
    max_length: usize,
    /// The part of a longer text that is used: `head`, `tail` or `head_tail`.
    #[schema(value_type = String, example = "head_tail")]
    truncation: Truncation,
    /// Lengths in tokens to which texts are padded.
    #[schema(example = json!([64, 128, 192, 256, 384, 512, 768]))]
    buckets: Vec<usize>,
}

impl ModelDescription {
    fn new(model: &Model) -> Self {
        let (plan, placement) = (model.plan(), model.placement());
        let (task, input_shape, text) = match &model.bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                (Task::ImageClassification, Some(preprocessor.shape()), None)
            }
            Preprocessor::Text(tokenizer) => {
                let text = TextDescription {
                    max_length: tokenizer.max_length(),
                    truncation: tokenizer.truncation(),
                    buckets: tokenizer.buckets().to_vec(),
                };
                (Task::TextClassification, None, Some(text))
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
            provider: placement.provider.name(),
            device_id: placement.device_id,
            nodes: placement.nodes.clone(),
            fallback: cure::fallback(placement),
            lanes: plan.lanes,
            threads: plan.threads_of_a_lone_run(crate::cpu::available()),
            lanes_reason: plan.reason.clone(),
            available: model.is_available(),
            degraded: model.is_degraded(),
            measured: model.bundle.serving.measured.as_ref().map(Accuracy::from),
        }
    }
}

/// List the loaded models.
#[utoipa::path(get, path = "/v1/models", tag = "models", operation_id = "list_models", responses(
    (status = 200, description = "All loaded models.", body = Models)
))]
pub async fn list(State(app): State<Arc<App>>) -> Json<Models> {
    let catalog = app.catalog.load();
    let models = catalog
        .models()
        .map(|model| ModelDescription::new(model))
        .collect();
    Json(Models { models })
}

pub(super) struct ModelProblems;

impl IntoResponses for ModelProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([unknown_model()])
    }
}

/// Describe one model.
#[utoipa::path(get, path = "/v1/models/{name}", tag = "models", operation_id = "show_model",
    params(("name" = String, Path, description = "Name of the model.", example = "digits")),
    responses(
        (status = 200, description = "The model.", body = ModelDescription),
        ModelProblems,
    )
)]
pub async fn show(
    State(app): State<Arc<App>>,
    PathOf(name): PathOf<String>,
) -> Result<Json<ModelDescription>, Error> {
    let catalog = app.catalog.load();
    Ok(Json(ModelDescription::new(catalog.get(&name)?)))
}
