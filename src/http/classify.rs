//! `POST /v1/classify`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use classifier::{ImageError, InputKind, TextError, WrongKind, output};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use super::App;
use super::document::{EncodedImage, problems, unknown_model};
use super::flow;
use super::guard::{HighestPriority, priority_refused};
use super::payload::{self, Form, Options, Payload};
use crate::budget::{Budget, Share};
use crate::catalog::{Catalog, SelectError};
use crate::fmt;
use crate::http::error::{Code, Error};
use crate::model::{Input, Model, Outcome, Stages, Terms};
use crate::telemetry::access::{RequestStats, StageTimes};
use crate::telemetry::spans::SpanRef;
use batching::{Flow, Refusal};

/// Labels for each input where the request does not say.
const DEFAULT_TOP_K: u32 = 5;

/// A handwritten seven in base64.
fn example_image() -> String {
    STANDARD.encode(include_bytes!("../../models/digits/1/golden/7_0.png"))
}

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

/// Why a classification is refused or fails.
struct ClassifyProblems;

impl IntoResponses for ClassifyProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([
            Error::invalid_request("top_k: expected at least 1, found 0"),
            priority_refused(),
            Error::from(SelectError::Ambiguous {
                kind: InputKind::Image,
                candidates: "digits, fashion, images".to_owned(),
            }),
            unknown_model(),
            Error::new(
                Code::PayloadTooLarge,
                "body: expected at most 16777216 bytes, found 16777217",
            ),
            Error::from(Refusal::TooLarge {
                weight: 33,
                max_weight: 32,
            }),
            payload::unsupported_media_type("\"image/tiff\""),
            Error::image(
                "body",
                &ImageError::UnknownFormat {
                    found: hex::encode(b"no image"),
                },
            ),
            Error::image(
                "body",
                &ImageError::TooLarge {
                    width: 16_385,
                    height: 1,
                    max_side: 16_384,
                    max_pixels: 33_554_432,
                },
            ),
            Error::text("body", &TextError::NotUtf8 { at: 0 }),
            Error::internal("example"),
            Error::from(Refusal::Full { capacity: 1 }),
            Error::draining(),
            Error::from(Refusal::Unavailable),
            Error::deadline(),
        ])
    }
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
        (EncodedImage = "image/png"),
        (EncodedImage = "image/jpeg"),
        (EncodedImage = "image/webp"),
        (EncodedImage = "image/gif"),
        (EncodedImage = "image/bmp"),
        (String = "text/plain", example = "A wonderful film, I was moved to tears."),
        (payload::ClassifyForm = "multipart/form-data",
            example = json!({
                "model": "sentiment",
                "text": ["A wonderful film, I was moved to tears.", "Two hours of boredom, badly acted."],
                "top_k": 1,
            }),
            // The default as well, but Swagger UI wants to be told.
            encoding(("text" = (explode = true)))
        ),
        (payload::ClassifyRequest<'_> = "application/json", examples(
            ("text" = (summary = "A text", value = json!({"inputs": "A wonderful film, I was moved to tears."}))),
            ("texts" = (summary = "Two texts", value = json!({
                "model": "sentiment",
                "inputs": ["A wonderful film, I was moved to tears.", {"text": "Two hours of boredom, badly acted."}],
                "top_k": 1,
            }))),
            ("picture" = (summary = "A handwritten seven", value = json!({
                "model": "digits", "inputs": [{"image": example_image()}], "top_k": 2,
            }))),
        )),
    )),
    responses(
        (status = 200, description = "Labels with scores.", body = Classification<'_>,
            headers(
                ("X-Request-Id" = String, description = "Names the request in the log."),
                ("Server-Timing" = String, description = "Milliseconds in each stage: decode, queue and inference."),
            ),
            examples(
                ("text" = (summary = "A text", value = json!({
                    "model": "sentiment", "version": "1",
                    "results": [{"label": "positive", "score": 0.994, "top": [
                        {"label": "positive", "score": 0.994}, {"label": "negative", "score": 0.006},
                    ]}],
                }))),
                ("texts" = (summary = "Two texts", value = json!({
                    "model": "sentiment", "version": "1",
                    "results": [
                        {"label": "positive", "score": 0.994, "top": [{"label": "positive", "score": 0.994}]},
                        {"label": "negative", "score": 0.995, "top": [{"label": "negative", "score": 0.995}]},
                    ],
                }))),
                ("picture" = (summary = "A handwritten seven", value = json!({
                    "model": "digits", "version": "1",
                    "results": [{"label": "7", "score": 1.0, "top": [
                        {"label": "7", "score": 1.0}, {"label": "2", "score": 0.0},
                    ]}],
                }))),
            )
        ),
        ClassifyProblems,
    )
)]
pub async fn classify(State(app): State<Arc<App>>, request: Request) -> Result<Response, Error> {
    let arrived = Instant::now();
    let longest = app.config.request_timeout.0;
    let (parts, body) = request.into_parts();
    let flow = flow::of(&parts, &app.config.trusted_proxies.0);
    let max_body = app.config.max_body.0.as_u64();
    let reading = async {
        let options = match Options::from_query(parts.uri.query()) {
            Ok(options) => options,
            Err(error) => return Err(payload::refuse(error, body, max_body, arrived + longest).await),
        };
        let body_deadline = arrived + options.timeout(longest);
        payload::read(
            &parts.headers,
            options,
            body,
            max_body,
            body_deadline,
            &app.bodies,
            app.body_memory.share(flow),
        )
        .await
    };
    // Most bodies are there already.
    let payload = tokio::select! {
        biased;
        payload = reading => payload?,
        () = app.draining.over() => return Err(Error::draining().with_body_unread()),
    };
    let highest = parts
        .extensions
        .get::<HighestPriority>()
        .copied()
        .unwrap_or_default();
    highest.check(payload.options.priority.unwrap_or_default())?;
    let model = find(&app.catalog.load(), &payload)?;
    let charge = |units| match &app.guard {
        Some(guard) => guard.charge(&parts, units),
        None => Ok(()),
    };
    // The request itself was counted before its body was read.
    charge(payload.inputs.len().saturating_sub(1) as u64)?;
    let charge_pixels = |pixels| charge(pixels / PIXELS_OF_A_REQUEST);
    // The body may have asked for less time than the query, and the model may have a limit of its own.
    let deadline = arrived + payload.options.timeout(model.request_timeout);
    let top_k = payload.options.top_k.unwrap_or(DEFAULT_TOP_K);
    let inputs = payload.inputs.len();
    let span = parts.extensions.get::<SpanRef>().cloned().unwrap_or_default();
    let terms = Terms {
        priority: payload.options.priority.unwrap_or_default().into(),
        flow,
        deadline,
        span: &span,
    };
    let outcome = run(&app, &model, payload, charge_pixels, terms).await;
    let answered = outcome.and_then(|outcome| respond(&app, &model, flow, outcome, top_k));
    let (mut response, stages) = match answered {
        Ok((response, stages)) => (response, Some(stages)),
        Err(error) => {
            app.metrics
                .rejected
                .with_label_values(&[model.name.as_str(), error.code.as_str()])
                .inc();
            (error.into_response(), None)
        }
    };
    response.extensions_mut().insert(RequestStats {
        model: model.name.clone(),
        version: model.version.clone(),
        inputs,
        stages,
    });
    Ok(response)
}

/// So many pixels count as one more request: decoding them takes some milliseconds of CPU time, more than all the rest of a small one.
const PIXELS_OF_A_REQUEST: u64 = 1_000_000;

async fn run(
    app: &App,
    model: &Model,
    payload: Payload,
    charge: impl Fn(u64) -> Result<(), Error>,
    terms: Terms<'_>,
) -> Result<Outcome, Error> {
    let Payload {
        form,
        inputs,
        memory: _memory,
        ..
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
    let _rows = rows(
        &app.queue_memory,
        terms.flow,
        inputs.len() as u64,
        model.row_memory(),
    )?;
    let outcome = model.classify(inputs, charge, terms).await;
    outcome.map_err(|error| Error::from_model(error, |input| form.field(kind, input)))
}

/// Memory for the rows of a request, until it has been run. One that takes more than there is gets all of it.
fn rows(memory: &Budget, flow: Flow, inputs: u64, of_a_row: u64) -> Result<Share, Error> {
    let mut share = memory.share(flow);
    let wanted = inputs.saturating_mul(of_a_row);
    if share.grow_to(wanted.min(memory.limit())) {
        return Ok(share);
    }
    Err(Error::new(
        Code::QueueFull,
        format!(
            "the inputs in flight take {} of the {} bytes that they may (queue_memory), and these take {wanted}",
            memory.used(),
            memory.limit()
        ),
    ))
}

/// Longest answer that is not counted: it fits into what a connection takes anyway.
const SHORT_ANSWER: usize = 4 * 1024;

/// The body of an answer. A long one is counted until it is written, for there is no saying when its client reads it.
fn answer(memory: &Budget, flow: Flow, bytes: Vec<u8>) -> Result<Bytes, Error> {
    if bytes.len() <= SHORT_ANSWER {
        return Ok(bytes.into());
    }
    let mut share = memory.share(flow);
    if share.grow_to(bytes.len() as u64) {
        return Ok(Bytes::from_owner(Counted {
            bytes,
            _memory: share,
        }));
    }
    Err(Error::new(
        Code::QueueFull,
        format!(
            "bodies and answers in flight take {} of the {} bytes that they may (body_memory), and this answer takes {}",
            memory.used(),
            memory.limit(),
            bytes.len()
        ),
    ))
}

/// An answer with the memory that it takes.
struct Counted {
    bytes: Vec<u8>,
    _memory: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The model that a request names. Where it names none, its first input decides.
fn find(catalog: &Catalog, payload: &Payload) -> Result<Arc<Model>, Error> {
    if let Some(name) = &payload.options.model {
        return Ok(Arc::clone(catalog.get(name)?));
    }
    let kind = payload.inputs.first().map_or(InputKind::Image, Input::kind);
    catalog.for_kind(kind)?.map(Arc::clone).ok_or_else(|| {
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

fn respond(
    app: &App,
    model: &Model,
    flow: Flow,
    outcome: Outcome,
    top_k: u32,
) -> Result<(Response, StageTimes), Error> {
    let labels = &model.bundle.labels;
    let results = outcome.results.iter().map(|result| {
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
    let mut response = Response::new(Body::from(answer(&app.body_memory, flow, body)?));
    let headers = response.headers_mut();
    // Room for those that the layers add, so that the map does not grow.
    headers.reserve(ANSWER_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(timing) = HeaderValue::try_from(server_timing(&outcome.stages)) {
        headers.insert(SERVER_TIMING, timing);
    }
    Ok((response, stage_times(outcome.stages)))
}

fn stage_times(stages: Stages) -> StageTimes {
    let Stages {
        started,
        decode,
        queue,
        inference,
        batch_size,
        batch,
    } = stages;
    StageTimes {
        started,
        decode,
        queue,
        inference,
        batch_size,
        batch,
    }
}

/// The `Server-Timing` header: milliseconds of each stage.
fn server_timing(stages: &Stages) -> Vec<u8> {
    let mut text = Vec::with_capacity(64);
    for (name, duration) in [
        ("decode;dur=", stages.decode),
        (", queue;dur=", stages.queue),
        (", inference;dur=", stages.inference),
    ] {
        text.extend_from_slice(name.as_bytes());
        fmt::push_milliseconds(&mut text, duration);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_is_counted_until_it_is_written() {
        let memory = Budget::new(64 * 1024);
        let short = answer(&memory, Flow::default(), vec![0; SHORT_ANSWER]).unwrap();
        assert_eq!((short.len(), memory.used()), (SHORT_ANSWER, 0));
        let long = answer(&memory, Flow::default(), vec![0; 40 * 1024]).unwrap();
        assert_eq!((long.len(), memory.used()), (40 * 1024, 40 * 1024));
        assert_eq!(
            answer(&memory, Flow::default(), vec![0; 40 * 1024])
                .unwrap_err()
                .code,
            Code::QueueFull
        );
        let part = long.slice(1..2);
        drop(long);
        assert_eq!(memory.used(), 40 * 1024);
        drop(part);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn rows_beyond_the_memory_for_them_are_refused_and_a_large_request_is_taken_alone() {
        let memory = Budget::new(100 * 1024);
        let alone = rows(&memory, Flow(1), 32, 600 * 1024).unwrap();
        let error = rows(&memory, Flow(2), 1, 1024).unwrap_err();
        assert_eq!(error.code, Code::QueueFull);
        assert!(error.detail.contains("102400"), "{}", error.detail);
        drop(alone);
        let _some = rows(&memory, Flow(1), 3, 30 * 1024).unwrap();
        assert!(rows(&memory, Flow(2), 1, 30 * 1024).is_err());
        assert!(rows(&memory, Flow(2), 1, 10 * 1024).is_ok());
    }
}
