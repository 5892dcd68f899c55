//! Spans of requests and batches, for an OpenTelemetry collector.
//!
//! They are built with OpenTelemetry's own interface, from times that are measured anyway.
//! tracing's spans would cost every request, exported or not. Without the feature `otlp`, the
//! functions do nothing.

#[cfg(not(feature = "otlp"))]
mod none;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub use none::{BatchSpan, Exporter, RequestSpan, SpanRef};
#[cfg(feature = "otlp")]
pub use otlp::{BatchSpan, Exporter, RequestSpan, SpanRef};
