//! The response of a classification.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use batching::Flow;
use bytes::Bytes;
use classifier::output;
use serde::Serialize;
use utoipa::ToSchema;

use crate::budget::{Budget, Share};
use crate::fmt;
use crate::http::App;
use crate::http::error::{Code, Error};
use crate::model::{Model, Outcome, Stages};

/// Headers of a response: two from here, the length from axum, the others from `http::observe` and
/// `http::headers`.
const RESPONSE_HEADERS: usize = 8;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The labels and scores of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classification<'a> {
    /// Name of the model.
    #[schema(example = "digits")]
    model: &'a str,
    /// Version of the model.
    #[schema(example = "1")]
    version: &'a str,
    /// One entry for each input, in the order of the request.
    results: Vec<Labelled<'a>>,
}

/// The labels of one input.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labelled<'a> {
    /// The label with the highest score.
    #[schema(example = "7")]
    label: &'a str,
    /// Score of that label, between 0 and 1.
    #[schema(example = 0.9991)]
    score: f32,
    /// The `top_k` labels with the highest scores, best first.
    top: Vec<Scored<'a>>,
    /// Present and true if only part of the text was used, because it is too long for the model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A label with its score.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Scored<'a> {
    /// Name of the label.
    #[schema(example = "7")]
    label: &'a str,
    /// Score between 0 and 1.
    #[schema(example = 0.9991)]
    score: f32,
}

pub(super) fn respond(
    app: &App,
    model: &Model,
    flow: Flow,
    outcome: &Outcome,
    top_k: u32,
) -> Result<Response, Error> {
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
    let mut response = Response::new(Body::from(counted(&app.body_memory, flow, body)?));
    let headers = response.headers_mut();
    // Room for the headers that the layers add, so that the map does not have to grow.
    headers.reserve(RESPONSE_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(timing) = HeaderValue::try_from(server_timing(&outcome.stages)) {
        headers.insert(SERVER_TIMING, timing);
    }
    Ok(response)
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

/// Longest body that is not counted, because it fits into a connection's own buffers.
const SHORT_BODY: usize = 4 * 1024;

/// A response body. A long one is counted in `body_memory` until it is sent, since its client may
/// read slowly.
fn counted(memory: &Budget, flow: Flow, bytes: Vec<u8>) -> Result<Bytes, Error> {
    if bytes.len() <= SHORT_BODY {
        return Ok(bytes.into());
    }
    let mut share = memory.share(flow);
    if share.grow_to(bytes.len() as u64) {
        return Ok(Bytes::from_owner(CountedBody {
            bytes,
            _memory: share,
        }));
    }
    Err(Error::new(
        Code::QueueFull,
        format!(
            "request and response bodies in flight use {} of {} bytes (body_memory), and this response needs {}",
            memory.used(),
            memory.limit(),
            bytes.len()
        ),
    ))
}

/// A body with its share of `body_memory`.
struct CountedBody {
    bytes: Vec<u8>,
    _memory: Share,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_body_is_counted_until_it_is_sent() {
        let memory = Budget::new(64 * 1024);
        let short = counted(&memory, Flow::default(), vec![0; SHORT_BODY]).unwrap();
        assert_eq!((short.len(), memory.used()), (SHORT_BODY, 0));
        let long = counted(&memory, Flow::default(), vec![0; 40 * 1024]).unwrap();
        assert_eq!((long.len(), memory.used()), (40 * 1024, 40 * 1024));
        assert_eq!(
            counted(&memory, Flow::default(), vec![0; 40 * 1024])
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
}
