//! `/livez`, `/readyz` and `/metrics`. They take no lock that a run can hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, interval};
use utoipa::IntoResponses;
use utoipa::openapi::RefOr;

use super::App;
use super::document::problems;
use crate::http::error::{Code, Error};

/// A heartbeat task on the threads that serve requests, to detect when they are stuck.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Latest beat, in milliseconds since the start.
    last: AtomicU64,
}

const BEAT: Duration = Duration::from_secs(1);

/// The threads count as stuck after this time without a beat.
const STUCK: Duration = Duration::from_secs(10);

impl Pulse {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Beats forever. Must run on the threads that serve requests.
    pub async fn keep(&self) {
        let mut beats = interval(BEAT);
        loop {
            beats.tick().await;
            self.last.store(self.now(), Ordering::Relaxed);
        }
    }

    fn has_stopped(&self) -> bool {
        let age = self.now().saturating_sub(self.last.load(Ordering::Relaxed));
        Duration::from_millis(age) > STUCK
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

struct LiveProblems;

impl IntoResponses for LiveProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([Error::internal("example")])
    }
}

/// Check that the process is alive.
#[utoipa::path(get, path = "/livez", tag = "probes", responses(
    (status = 200, description = "OK.", body = String, content_type = "text/plain", example = "alive\n"),
    LiveProblems
))]
pub async fn livez(State(app): State<Arc<App>>) -> Result<&'static str, Error> {
    // With admin_listen this runs on a separate thread, so answering proves nothing about the
    // others.
    if app.pulse.has_stopped() {
        return Err(Error::internal("the threads that serve requests are stuck"));
    }
    Ok("alive\n")
}

struct ReadyProblems;

impl IntoResponses for ReadyProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([draining(), not_running("digits")])
    }
}

/// Check that the server is ready for traffic.
#[utoipa::path(get, path = "/readyz", tag = "probes", responses(
    (status = 200, description = "OK.", body = String, content_type = "text/plain", example = "ready\n"),
    ReadyProblems
))]
pub async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Error> {
    ready(&app).map(|()| "ready\n")
}

fn ready(app: &App) -> Result<(), Error> {
    if app.draining.has_started() {
        return Err(draining());
    }
    match app.catalog.load().models().find(|model| !model.is_available()) {
        Some(model) => Err(not_running(&model.name)),
        None => Ok(()),
    }
}

fn draining() -> Error {
    Error::new(Code::Draining, "the server is shutting down")
}

pub(super) fn not_running(model: &str) -> Error {
    let detail = format!("no lane of model {model:?} is running");
    Error::new(Code::ModelUnavailable, detail)
}

/// The metrics in the text format of Prometheus.
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
    app.metrics.set_decoding(app.workers.usage());
    app.metrics
        .set_server(ready(&app).is_ok(), app.telemetry.writer.dropped());
    app.metrics.set_budgets(&app.body_memory, &app.queue_memory);
    let text = app.metrics.render().map_err(Error::internal)?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pulse_that_nobody_keeps_stops() {
        let pulse = Pulse::new();
        let kept = tokio::time::timeout(3 * STUCK, pulse.keep()).await;
        assert!(kept.is_err(), "for ever");
        assert!(!pulse.has_stopped());
        tokio::time::sleep(STUCK.saturating_sub(BEAT)).await;
        assert!(!pulse.has_stopped(), "it may be late");
        tokio::time::sleep(2 * BEAT).await;
        assert!(pulse.has_stopped());
    }
}
