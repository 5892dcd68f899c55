//! The interface of `otlp.rs` in a build without the feature `otlp`.

#![allow(
    clippy::unused_self,
    reason = "the functions have the signatures of `otlp.rs`"
)]

use axum::http::HeaderMap;

use super::super::access::Access;
use super::super::trace_context::TraceParent;

#[derive(Debug, Default)]
pub struct Exporter(());

impl Exporter {
    /// Fails if there is an endpoint.
    pub fn start(endpoint: Option<&str>) -> Result<Self, String> {
        match endpoint {
            None => Ok(Self(())),
            Some(_) => Err("this classifyd was built without the feature otlp".to_owned()),
        }
    }

    pub fn shutdown(&mut self) {}
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpanRef(());

#[derive(Debug)]
pub struct RequestSpan;

impl RequestSpan {
    pub fn start(_: &'static str, _: &str, _: Option<&TraceParent>, _: &HeaderMap) -> Self {
        Self
    }

    pub fn reference(&self) -> Option<SpanRef> {
        None
    }

    pub fn context(&self) -> Option<TraceParent> {
        None
    }

    pub fn finish(self, _: &Access<'_>) {}
}

#[derive(Debug)]
pub struct BatchSpan;

impl BatchSpan {
    pub fn start<'a>(_: &str, _: impl Iterator<Item = &'a SpanRef>) -> Self {
        Self
    }

    pub fn reference(&self) -> SpanRef {
        SpanRef(())
    }

    pub fn finish(self, _: u32, _: Option<&dyn std::error::Error>) {}
}
