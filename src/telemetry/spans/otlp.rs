//! Exports spans to an OpenTelemetry collector over OTLP.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

use super::super::access::{Access, StageTimes};
use super::super::trace_context::{TRACESTATE, TraceParent};

/// Set if there is a collector.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// How long the process waits at its end for the last spans to be sent.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Exporter(Option<SdkTracerProvider>);

impl Exporter {
    /// Exports from a thread of its own. OpenTelemetry's `OTEL_*` variables for samplers, batches,
    /// limits, headers and the resource apply.
    pub fn start(endpoint: Option<&str>) -> Result<Self, String> {
        let Some(endpoint) = endpoint else {
            return Ok(Self(None));
        };
        if !endpoint.starts_with("http://") {
            return Err(format!(
                "expected a URL such as http://127.0.0.1:4318 (for TLS, use an agent on this host), \
                 found {endpoint:?}"
            ));
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .build()
            .map_err(|error| error.to_string())?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_batch_exporter(exporter)
            .build();
        // A second exporter in the same process, as in a test, has nothing to export.
        let _ = TRACER.set(provider.tracer("classifyd"));
        Ok(Self(Some(provider)))
    }

    /// Sends the remaining spans.
    pub fn shutdown(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)
        {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

fn resource() -> Resource {
    let name = opentelemetry::Key::from_static_str("service.name");
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    let unnamed = Resource::builder()
        .build()
        .get(&name)
        .is_none_or(|name| name.as_str().starts_with("unknown_service"));
    if unnamed {
        resource.with_service_name("classifyd").build()
    } else {
        resource.build()
    }
}

/// The part of a span that a link needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpanRef(Option<SpanContext>);

#[derive(Debug)]
pub struct RequestSpan(Option<Span>);

impl RequestSpan {
    /// Starts the span of a request, as a child of the client's span if there is one.
    pub fn start(
        method: &'static str,
        route: &str,
        parent: Option<&TraceParent>,
        headers: &HeaderMap,
    ) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self(None);
        };
        let parent = parent.map_or_else(Context::new, |parent| remote(parent, headers));
        let span = tracer
            .span_builder(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", method),
                KeyValue::new("http.route", route.to_owned()),
            ])
            .start_with_context(tracer, &parent);
        Self(Some(span))
    }

    /// For the link from a batch. `None` if the span is not recorded.
    pub fn reference(&self) -> Option<SpanRef> {
        let context = self.0.as_ref()?.span_context();
        context.is_sampled().then(|| SpanRef(Some(context.clone())))
    }

    /// The span for the client and the log. `None` if there is no exporter.
    pub fn context(&self) -> Option<TraceParent> {
        let context = self.0.as_ref()?.span_context();
        Some(TraceParent {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        })
    }

    /// Ends the span, and adds the spans of the stages.
    pub fn finish(self, access: &Access<'_>) {
        let (Some(tracer), Some(mut span)) = (TRACER.get(), self.0) else {
            return;
        };
        if !span.is_recording() {
            return;
        }
        span.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(access.status),
        ));
        span.set_attribute(KeyValue::new(
            "classifyd.request_id",
            access.request_id.to_owned(),
        ));
        if let Some(client) = access.client {
            span.set_attribute(KeyValue::new("client.address", client.ip().to_string()));
        }
        if let Some(error) = access.error {
            span.set_attribute(KeyValue::new("error.type", error));
        }
        if access.status >= 500 {
            span.set_status(Status::error(""));
        }
        if let Some(stats) = access.stats {
            span.set_attributes([
                KeyValue::new("classifyd.model", stats.model.clone()),
                KeyValue::new("classifyd.model.version", stats.version.clone()),
                KeyValue::new("classifyd.inputs", stats.inputs as i64),
            ]);
            if let Some(stages) = &stats.stages {
                stage_spans(tracer, span.span_context(), stages);
            }
        }
        span.end();
    }
}

/// The client's span, as the parent.
fn remote(parent: &TraceParent, headers: &HeaderMap) -> Context {
    let states: Vec<&str> = headers
        .get_all(TRACESTATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    // A malformed state is ignored, as the standard demands.
    let state: TraceState = states.join(",").parse().unwrap_or_default();
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        TraceFlags::new(parent.flags),
        true,
        state,
    ))
}

/// Adds a span for each stage, after the last one has ended.
fn stage_spans(tracer: &SdkTracer, request: &SpanContext, stages: &StageTimes) {
    let parent = Context::new().with_remote_span_context(request.clone());
    let mut from = SystemTime::now() - Instant::now().saturating_duration_since(stages.started);
    for (name, duration) in [
        ("decode", stages.decode),
        ("queue", stages.queue),
        ("inference", stages.inference),
    ] {
        let mut builder = tracer.span_builder(name).with_start_time(from);
        if name == "inference" {
            builder = builder.with_attributes([KeyValue::new(
                "classifyd.batch.size",
                i64::from(stages.batch_size),
            )]);
            if let Some(batch) = &stages.batch.0 {
                builder = builder.with_links(vec![Link::with_context(batch.clone())]);
            }
        }
        let mut span = builder.start_with_context(tracer, &parent);
        from += duration;
        span.end_with_timestamp(from);
    }
}

/// The span of a batch. It belongs to the trace of the first recorded request in the batch, so that
/// it is recorded too.
#[derive(Debug)]
pub struct BatchSpan(Option<Span>);

impl BatchSpan {
    /// Starts the span, with links to the spans of the requests.
    pub fn start<'a>(model: &str, requests: impl Iterator<Item = &'a SpanRef>) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self(None);
        };
        let links: Vec<Link> = requests
            .filter_map(|request| request.0.clone())
            .map(Link::with_context)
            .collect();
        let Some(first) = links.first() else {
            return Self(None);
        };
        let parent = Context::new().with_remote_span_context(first.span_context.clone());
        let span = tracer
            .span_builder("batch")
            .with_attributes([KeyValue::new("classifyd.model", model.to_owned())])
            .with_links(links)
            .start_with_context(tracer, &parent);
        Self(Some(span))
    }

    /// For the links from the requests.
    pub fn reference(&self) -> SpanRef {
        SpanRef(self.0.as_ref().map(|span| span.span_context().clone()))
    }

    pub fn finish(self, inputs: u32, error: Option<&dyn std::error::Error>) {
        let Some(mut span) = self.0 else { return };
        span.set_attribute(KeyValue::new("classifyd.batch.size", i64::from(inputs)));
        if let Some(error) = error {
            span.set_status(Status::error(error.to_string()));
        }
        span.end();
    }
}
