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
    /// What it does.
    task: Task,
    /// `single_label_classification` or `multi_label_classification`.
    #[schema(value_type = String, example = "single_label_classification")]
    problem_type: ProblemType,
    /// In the order of the outputs.
    labels: Vec<String>,
    /// Axes of a picture without the batch axis; of an image classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = json!([1, 28, 28]))]
    input_shape: Option<[usize; 3]>,
    /// How texts are cut and padded; of a text classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<TextDescription>,
    /// Most inputs in one request.
    #[schema(example = 32)]
    max_inputs: u32,
    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    #[schema(example = "cpu")]
    provider: &'static str,
    /// Which GPU, of a model that runs on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    device_id: Option<u32>,
    /// How many nodes of its graph run where, of a model on a GPU.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    nodes: BTreeMap<String, usize>,
    /// Why it does not run on something better, where `device = "auto"` fell back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fallback: Option<String>,
    /// Sessions that run side by side.
    lanes: usize,
    /// Threads that a run uses when nothing else runs.
    threads: usize,
    /// Why so many.
    lanes_reason: String,
    /// Whether a lane is there to run a request.
    available: bool,
    /// Whether its latest runs failed, one after the other. The next one that succeeds ends that.
    degraded: bool,
    /// What it was measured on, if its directory says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    measured: Option<Accuracy>,
}

/// What a model does.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Pictures in, labels out.
    ImageClassification,
    /// Texts in, labels out.
    TextClassification,
}

/// What a model was measured on.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the field's name is what clients see")]
pub struct Accuracy {
    /// Name of the data set.
    #[schema(example = "MNIST")]
    dataset: String,
    /// Part of the data set.
    #[schema(example = "test")]
    split: String,
    /// How many samples were measured.
    #[schema(example = 10000)]
    samples: u64,
    /// Part of them that was labelled right, between 0 and 1.
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

/// What a text classifier does to a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextDescription {
    /// Most tokens that are looked at.
    #[schema(example = 768)]
    max_length: usize,
    /// What is kept of a longer text: `head`, `tail` or `head_tail`.
    #[schema(value_type = String, example = "head_tail")]
    truncation: Truncation,
    /// Numbers of tokens that texts are padded to.
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

/// Why a model cannot be described.
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
