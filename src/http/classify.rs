//! `POST /v1/classify`.

mod problems;
mod response;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use classifier::{InputKind, WrongKind};
use tokio::time::Instant;

use self::problems::ClassifyProblems;
use self::response::{Classification, respond};
use super::App;
use super::document::EncodedImage;
use super::flow;
use super::guard::HighestPriority;
use super::payload::{self, Form, Options, Payload};
use crate::budget::{Budget, Share};
use crate::catalog::Catalog;
use crate::http::error::{Code, Error};
use crate::model::{Input, Model, Outcome, Stages, Terms};
use crate::telemetry::access::{RequestStats, StageTimes};
use crate::telemetry::spans::SpanRef;
use batching::Flow;

/// Default of `top_k`.
const DEFAULT_TOP_K: u32 = 5;

/// A handwritten seven in base64.
fn example_image() -> String {
    STANDARD.encode(include_bytes!("../../models/digits/1/golden/7_0.png"))
}

/// Classify one or more inputs.
///
/// Send one image or text as the raw body, or several inputs as multipart/form-data or JSON.
/// The model can be left out if only one model, or a default model, takes this kind of input.
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
            // This is the default, but Swagger UI ignores the default.
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
                ("X-Request-Id" = String, description = "Identifies the request in the server's log."),
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
    let (parts, body) = request.into_parts();
    let flow = flow::of(&parts, &app.config.trusted_proxies.0);
    let payload = receive(&app, &parts, body, flow, arrived).await?;
    let priority = payload.options.priority.unwrap_or_default();
    let highest = parts.extensions.get::<HighestPriority>().copied();
    highest.unwrap_or_default().check(priority)?;
    let model = find(&app.catalog.load(), &payload)?;
    let charge = |units| match &app.guard {
        Some(guard) => guard.charge(&parts, units),
        None => Ok(()),
    };
    // The request itself was charged before its body was read.
    charge(payload.inputs.len().saturating_sub(1) as u64)?;
    let charge_pixels = |pixels| charge(pixels / PIXELS_OF_A_REQUEST);
    let span = parts.extensions.get::<SpanRef>().cloned().unwrap_or_default();
    let terms = Terms {
        priority: priority.into(),
        flow,
        // The body may set a shorter timeout than the query, and the model may have its own.
        deadline: arrived + payload.options.timeout(model.request_timeout),
        span: &span,
    };
    let top_k = payload.options.top_k.unwrap_or(DEFAULT_TOP_K);
    let inputs = payload.inputs.len();
    let responded = match run(&app, &model, payload, charge_pixels, terms).await {
        Ok(outcome) => {
            respond(&app, &model, flow, &outcome, top_k).map(|response| (response, outcome.stages))
        }
        Err(error) => Err(error),
    };
    let (mut response, stages) = match responded {
        Ok((response, stages)) => (response, Some(stage_times(stages))),
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

/// Reads the query and the body. Gives up when the drain of a shutdown ends.
async fn receive(
    app: &App,
    parts: &Parts,
    body: Body,
    flow: Flow,
    arrived: Instant,
) -> Result<Payload, Error> {
    let longest = app.config.request_timeout.0;
    let max_body = app.config.max_body.0.as_u64();
    let reading = async {
        let options = match Options::from_query(parts.uri.query()) {
            Ok(options) => options,
            Err(error) => return Err(payload::refuse(error, body, max_body, arrived + longest).await),
        };
        let deadline = arrived + options.timeout(longest);
        let memory = app.body_memory.share(flow);
        payload::read(
            &parts.headers,
            options,
            body,
            max_body,
            deadline,
            &app.bodies,
            memory,
        )
        .await
    };
    tokio::select! {
        biased;
        // First, because most bodies have already arrived.
        payload = reading => payload,
        () = app.draining.over() => Err(Error::draining().with_body_unread()),
    }
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

/// Pixels that count as one more request towards the rate limit. Decoding them takes some
/// milliseconds of CPU time, more than the rest of a small request.
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

/// Reserves memory for the rows of a request until it has run. A request that needs more than the
/// whole budget gets all of it.
fn rows(memory: &Budget, flow: Flow, inputs: u64, of_a_row: u64) -> Result<Share, Error> {
    let mut share = memory.share(flow);
    let wanted = inputs.saturating_mul(of_a_row);
    if share.grow_to(wanted.min(memory.limit())) {
        return Ok(share);
    }
    Err(Error::new(
        Code::QueueFull,
        format!(
            "decoded inputs in flight use {} of {} bytes (queue_memory), and this request needs {wanted}",
            memory.used(),
            memory.limit()
        ),
    ))
}

/// The model that the request names, or else the one for the kind of its first input.
fn find(catalog: &Catalog, payload: &Payload) -> Result<Arc<Model>, Error> {
    if let Some(name) = &payload.options.model {
        return Ok(Arc::clone(catalog.get(name)?));
    }
    let kind = payload.inputs.first().map_or(InputKind::Image, Input::kind);
    catalog.for_kind(kind)?.map(Arc::clone).ok_or_else(|| {
        let detail = format!("no loaded model takes {kind} ({})", catalog.names());
        wrong_kind(payload.form, &payload.inputs, 0, &detail)
    })
}

/// The error of an input that the model does not take. For a raw body it is a wrong content type.
fn wrong_kind(form: Form, inputs: &[Input], at: usize, detail: &str) -> Error {
    let field = form.field(inputs[at].kind(), at);
    let detail = format!("{field}: {detail}");
    match form {
        Form::Raw => Error::new(Code::UnsupportedMediaType, detail),
        Form::Multipart | Form::Json => Error::invalid_request(detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_request_is_admitted_alone_and_rows_beyond_queue_memory_are_refused() {
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
