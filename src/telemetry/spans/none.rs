//! What is left of spans in a build without them.

use axum::http::HeaderMap;

use super::super::access::Access;
use super::super::trace_context::TraceParent;

/// Sends spans to a collector.
#[derive(Debug, Default)]
pub struct Exporter(());

impl Exporter {
    /// There is none.
    pub fn start(endpoint: Option<&str>) -> Result<Self, String> {
        match endpoint {
            None => Ok(Self(())),
            Some(_) => Err("this classifyd was built without the feature otlp".to_owned()),
        }
    }

    /// Sends what is left.
    pub fn shutdown(&mut self) {}
}

/// Enough of a span to link to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpanRef(());

/// The span of a request.
#[derive(Debug)]
pub struct RequestSpan;

impl RequestSpan {
    /// Begins it, as a child of the client's span if there is one.
    pub fn start(_: &'static str, _: &str, _: Option<&TraceParent>, _: &HeaderMap) -> Self {
        Self
    }

    /// For batches to link to; none if nothing is recorded.
    pub fn reference(&self) -> Option<SpanRef> {
        None
    }

    /// Itself, for the client and the log; none if there is no exporter.
    pub fn context(&self) -> Option<TraceParent> {
        None
    }

    /// Ends it, with the spans of its stages.
    pub fn finish(self, _: &Access<'_>) {}
}

/// The span of a batch.
#[derive(Debug)]
pub struct BatchSpan;

impl BatchSpan {
    /// Begins it, linked to the spans of the requests in it.
    pub fn start<'a>(_: &str, _: impl Iterator<Item = &'a SpanRef>) -> Self {
        Self
    }

    /// For requests to link to.
    pub fn reference(&self) -> SpanRef {
        SpanRef(())
    }

    /// Ends it.
    pub fn finish(self, _: u32, _: Option<&dyn std::error::Error>) {}
}
