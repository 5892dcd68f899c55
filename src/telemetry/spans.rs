//! Spans of requests and batches, for an OpenTelemetry collector.
//!
//! They are made out of times that are measured anyway, with OpenTelemetry's own interface and not out of tracing's spans:
//! those would cost every request, exported or not. Without the feature `otlp` nothing is left of them.

#[cfg(not(feature = "otlp"))]
mod none;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub use none::{BatchSpan, Exporter, RequestSpan, SpanRef};
#[cfg(feature = "otlp")]
pub use otlp::{BatchSpan, Exporter, RequestSpan, SpanRef};
