//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use classifier::bundle::{Measured, ProblemType};
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
    /// `image-classification`.
    #[schema(example = "image-classification")]
    task: &'static str,
    /// `single_label_classification` or `multi_label_classification`.
    #[schema(value_type = String, example = "single_label_classification")]
    problem_type: ProblemType,
    /// In the order of the outputs.
    labels: Vec<String>,
    /// Axes of the input without the batch axis.
    #[schema(example = json!([1, 28, 28]))]
    input_shape: [usize; 3],
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

impl ModelDescription {
    fn new(model: &Model) -> Self {
        let plan = model.plan();
        Self {
            name: model.name.clone(),
            version: model.version.clone(),
            task: "image-classification",
            problem_type: model.bundle.problem_type,
            labels: model.bundle.labels.clone(),
            input_shape: model.bundle.preprocessor.shape(),
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
