//! `/livez`, `/readyz` and `/metrics`: they touch no queue, no lane and no lock that a run can hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::RefOr;

use super::App;
use super::document::problems;
use crate::error::{Code, Error};

/// Whether the process is alive.
#[utoipa::path(get, path = "/livez", tag = "probes", responses(
    (status = 200, description = "It is.", body = String, content_type = "text/plain", example = "alive\n")
))]
pub async fn livez() -> &'static str {
    "alive\n"
}

/// Why new traffic is not welcome.
struct ReadyProblems;

impl IntoResponses for ReadyProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems(&[
            (Code::Draining, "the server is shutting down"),
            (Code::ModelUnavailable, "no lane of model \"digits\" is running"),
        ])
    }
}

/// Whether new traffic is welcome.
#[utoipa::path(get, path = "/readyz", tag = "probes", responses(
    (status = 200, description = "It is.", body = String, content_type = "text/plain", example = "ready\n"),
    ReadyProblems
))]
pub async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Error> {
    ready(&app).map(|()| "ready\n")
}

fn ready(app: &App) -> Result<(), Error> {
    if app.draining.has_started() {
        return Err(Error::new(Code::Draining, "the server is shutting down"));
    }
    match app.catalog.load().models().find(|model| !model.is_available()) {
        Some(model) => Err(not_running(&model.name)),
        None => Ok(()),
    }
}

pub(super) fn not_running(model: &str) -> Error {
    let detail = format!("no lane of model {model:?} is running");
    Error::new(Code::ModelUnavailable, detail)
}

/// The metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "probes", responses(
    (status = 200, description = "The metrics.", body = String, content_type = "text/plain; version=0.0.4")
))]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Error> {
    for model in app.catalog.load().models() {
        app.metrics.set_model(
            &model.name,
            model.queue_depth(),
            model.queue_capacity,
            model.lanes(),
            model.is_degraded(),
        );
    }
    app.metrics
        .set_server(ready(&app).is_ok(), app.telemetry.writer.dropped());
    let text = app.metrics.render().map_err(Error::internal)?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
