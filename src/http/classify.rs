//! `POST /v1/classify`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use classifier::{Kind, WrongKind, output};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::App;
use super::payload::{self, Form, Options, Payload, RequestPriority};
use crate::catalog::Catalog;
use crate::error::{Code, Error, Problem};
use crate::model::{Classified, Input, Model};
use crate::telemetry::access::{self, Stages};
use crate::telemetry::spans::SpanRef;

/// Labels for each input where the request does not say.
const DEFAULT_TOP_K: u32 = 5;

/// Headers of an answer: two from here, the length from axum, the others from `http::observe` and `http::headers`.
const ANSWER_HEADERS: usize = 8;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classification<'a> {
    /// Name of the model that answered.
    #[schema(example = "digits")]
    model: &'a str,
    /// Its version.
    #[schema(example = "1")]
    version: &'a str,
    /// One entry for each input, in their order.
    results: Vec<Labelled<'a>>,
}

/// The labels of one input.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labelled<'a> {
    /// The label with the highest score.
    #[schema(example = "7")]
    label: &'a str,
    /// Its score, between 0 and 1.
    #[schema(example = 0.9991)]
    score: f32,
    /// The best labels, best first.
    top: Vec<Scored<'a>>,
    /// There, and true, for a text that is longer than the model takes: only a part of it was looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A label with its score.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Scored<'a> {
    /// The label.
    #[schema(example = "7")]
    label: &'a str,
    /// Between 0 and 1.
    #[schema(example = 0.9991)]
    score: f32,
}

/// The body of a request in the JSON form.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "documents what payload::read_json reads")]
pub struct ClassifyRequest {
    /// Name of the model.
    #[schema(example = "digits")]
    model: Option<String>,
    /// One input, or a list of them: a text, `{"text": "..."}` or `{"image": "<base64 or data: URI>"}`.
    #[schema(value_type = Object, example = json!([{"image": "iVBORw0KGgo..."}]))]
    inputs: serde_json::Value,
    /// How many labels to list for each input, best first.
    #[schema(minimum = 1, example = 3)]
    top_k: Option<u32>,
    /// Shortens the server's time limit, in milliseconds.
    #[schema(minimum = 1, example = 500)]
    timeout_ms: Option<u64>,
    /// Who goes first when requests wait.
    priority: Option<RequestPriority>,
}

/// The body of a request in the multipart form.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "documents what payload::read_multipart reads")]
pub struct ClassifyForm {
    /// An encoded picture; may be repeated.
    #[schema(value_type = Vec<String>, format = Binary)]
    image: Vec<Vec<u8>>,
    /// A text in UTF-8; may be repeated. A form holds pictures or texts.
    text: Vec<String>,
    /// Name of the model.
    model: Option<String>,
    /// How many labels to list for each input, best first.
    top_k: Option<u32>,
    /// Shortens the server's time limit, in milliseconds.
    timeout_ms: Option<u64>,
    /// Who goes first when requests wait.
    priority: Option<RequestPriority>,
}

/// Classify one or more inputs.
///
/// Send a picture or a text as it is, with its content type; or several as multipart/form-data; or JSON. The model need not be
/// named where one loaded model takes that kind of input, or a default is configured for it.
#[utoipa::path(
    post,
    path = "/v1/classify",
    tag = "classify",
    params(Options),
    request_body(content(
        (Vec<u8> = "image/png"),
        (Vec<u8> = "image/jpeg"),
        (Vec<u8> = "image/webp"),
        (Vec<u8> = "image/gif"),
        (Vec<u8> = "image/bmp"),
        (String = "text/plain"),
        (ClassifyForm = "multipart/form-data"),
        (ClassifyRequest = "application/json"),
    )),
    responses(
        (status = 200, description = "Labels with scores.", body = Classification<'_>),
        (status = 400, description = "`invalid_request`, `model_required`", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 404, description = "`model_not_found`", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 413, description = "`payload_too_large`, `too_many_inputs`", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_image`, `image_too_large`, `invalid_text`", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 500, description = "`internal`", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 503, description = "`queue_full`, `draining`, `model_unavailable`; with Retry-After", body = Problem<'_>, content_type = "application/problem+json"),
        (status = 504, description = "`deadline_exceeded`", body = Problem<'_>, content_type = "application/problem+json"),
    )
)]
pub async fn classify(State(app): State<Arc<App>>, request: Request) -> Result<Response, Error> {
    let arrived = Instant::now();
    let longest = app.config.request_timeout.0;
    let (parts, body) = request.into_parts();
    let max_body = app.config.max_body.as_u64();
    let options = match Options::from_query(parts.uri.query()) {
        Ok(options) => options,
        Err(error) => return Err(payload::refuse(error, body, max_body, arrived + longest).await),
    };
    let body_deadline = arrived + options.timeout(longest);
    let payload = payload::read(&parts.headers, options, body, max_body, body_deadline).await?;
    let model = match &payload.options.model {
        Some(name) => app.catalog.get(name)?,
        None => choose(&app.catalog, &payload)?,
    };
    // The body may have asked for less time than the query, and the model may have a limit of its own.
    let deadline = arrived + payload.options.timeout(model.request_timeout);
    let top_k = payload.options.top_k.unwrap_or(DEFAULT_TOP_K);
    let inputs = payload.inputs.len();
    let span = parts.extensions.get::<SpanRef>().cloned().unwrap_or_default();
    let classified = run(model, payload, deadline, &span).await;
    let (mut response, stages) = match classified.and_then(|classified| respond(model, classified, top_k)) {
        Ok((response, stages)) => (response, Some(stages)),
        Err(error) => {
            app.metrics
                .rejected
                .with_label_values(&[model.name.as_str(), error.code.as_str()])
                .inc();
            (error.into_response(), None)
        }
    };
    response.extensions_mut().insert(access::Classified {
        model: model.name.clone(),
        version: model.version.clone(),
        inputs,
        stages,
    });
    Ok(response)
}

async fn run(
    model: &Model,
    payload: Payload,
    deadline: Instant,
    span: &SpanRef,
) -> Result<Classified, Error> {
    let Payload {
        form,
        inputs,
        options,
    } = payload;
    if inputs.len() > model.max_batch as usize {
        return Err(Error::new(
            Code::TooManyInputs,
            format!(
                "inputs: expected at most {}, found {}",
                model.max_batch,
                inputs.len()
            ),
        ));
    }
    let kind = model.kind();
    if let Some(at) = inputs.iter().position(|input| input.kind() != kind) {
        let detail = format!("{}, model {:?}", WrongKind { takes: kind }, model.name);
        return Err(wrong_kind(form, &inputs, at, &detail));
    }
    let field = |at| form.field(kind, at);
    let priority = options.priority.unwrap_or_default().into();
    model.classify(inputs, field, priority, deadline, span).await
}

/// The model for a request that names none: its first input decides.
fn choose<'a>(catalog: &'a Catalog, payload: &Payload) -> Result<&'a Model, Error> {
    let kind = payload.inputs.first().map_or(Kind::Image, Input::kind);
    catalog.for_kind(kind)?.ok_or_else(|| {
        let detail = format!(
            "found {kind}, which none of the loaded models takes ({})",
            catalog.names()
        );
        wrong_kind(payload.form, &payload.inputs, 0, &detail)
    })
}

/// An input that its model does not take. Where the body is the input, its content type is what is wrong.
fn wrong_kind(form: Form, inputs: &[Input], at: usize, detail: &str) -> Error {
    let field = form.field(inputs[at].kind(), at);
    let detail = format!("{field}: {detail}");
    match form {
        Form::Raw => Error::new(Code::UnsupportedMediaType, detail),
        Form::Multipart | Form::Json => Error::invalid_request(detail),
    }
}

fn respond(model: &Model, classified: Classified, top_k: u32) -> Result<(Response, Stages), Error> {
    let labels = &model.bundle.labels;
    let results = classified.results.iter().map(|result| {
        let scores = &result.scores;
        let top = output::top_k(scores, top_k as usize);
        let listed = |&at: &usize| Scored {
            label: &labels[at],
            score: scores[at],
        };
        let best = top[0];
        model.metrics.predictions[best].inc();
        Labelled {
            label: &labels[best],
            score: scores[best],
            top: top.iter().map(listed).collect(),
            truncated: result.truncated,
        }
    });
    let classification = Classification {
        model: &model.name,
        version: &model.version,
        results: results.collect(),
    };
    let body = serde_json::to_vec(&classification).map_err(Error::internal)?;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    // Room for those that the layers add, so that the map does not grow.
    headers.reserve(ANSWER_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(timing) = HeaderValue::try_from(server_timing(&classified.stages)) {
        headers.insert(SERVER_TIMING, timing);
    }
    Ok((response, classified.stages))
}

/// Milliseconds of each stage, as browsers show them.
fn server_timing(stages: &Stages) -> String {
    let mut text = String::with_capacity(64);
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let _ = write!(
        text,
        "decode;dur={:.3}, queue;dur={:.3}, inference;dur={:.3}",
        milliseconds(stages.decode),
        milliseconds(stages.queue),
        milliseconds(stages.inference)
    );
    text
}
