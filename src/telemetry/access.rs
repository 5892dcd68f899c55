//! The access log: one line for each request.
//!
//! The lines look like tracing's, and tracing's filter applies to them (target
//! `classifyd::access`). They are formatted here because tracing takes several times as long for an
//! event with twenty fields, see docs/performance.md.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::trace_context::TraceParent;
use super::writer::LogWriter;
use crate::config::{AccessLogMode, LogFormat};
use crate::fmt;

pub const TARGET: &str = "classifyd::access";

/// What the handler knows about a request. Handlers pass it in the extensions of the response.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestStats {
    pub model: String,
    pub version: String,
    pub inputs: usize,
    /// `None` if the request failed.
    pub stages: Option<StageTimes>,
}

/// Where the time of a classification went.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTimes {
    /// When decoding began.
    pub started: std::time::Instant,
    pub decode: Duration,
    pub queue: Duration,
    pub inference: Duration,
    pub batch_size: u32,
    pub batch: super::spans::SpanRef,
}

/// A request that got a response, or whose client disconnected before that.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    /// For probes and scrapes: log at level debug.
    pub quiet: bool,
    /// From a fixed list.
    pub method: &'static str,
    /// The pattern. The path could contain secrets.
    pub route: &'a str,
    /// The HTTP status, or [`CLIENT_GONE`].
    pub status: u16,
    /// The code of the problem document.
    pub error: Option<&'static str>,
    pub stats: Option<&'a RequestStats>,
    /// From the request's head to the response's head.
    pub total: Duration,
    /// Size of the response's body, if it is known.
    pub response_bytes: Option<u64>,
    /// As in the `X-Request-Id` header: plain characters.
    pub request_id: &'a str,
    pub span: Option<TraceParent>,
    /// Port 0 if a proxy forwarded the address, without a port.
    pub client: Option<SocketAddr>,
}

/// Status of a request whose client has disconnected, as in nginx.
pub const CLIENT_GONE: u16 = 499;

/// Writes access lines.
#[derive(Debug, Clone)]
pub struct AccessLog {
    writer: LogWriter,
    format: LogFormat,
    mode: Arc<AtomicU8>,
}

impl AccessLog {
    pub fn new(writer: LogWriter, format: LogFormat, mode: AccessLogMode) -> Self {
        Self {
            writer,
            format,
            mode: Arc::new(AtomicU8::new(mode as u8)),
        }
    }

    pub fn set_mode(&self, mode: AccessLogMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Writes the line, unless the mode or the filter excludes it.
    pub fn write(&self, access: &Access<'_>) {
        let mode = self.mode.load(Ordering::Relaxed);
        let wanted =
            mode == AccessLogMode::On as u8 || mode == AccessLogMode::Errors as u8 && access.status >= 400;
        if !wanted {
            return;
        }
        let level = if access.quiet {
            tracing::enabled!(target: TARGET, Level::DEBUG).then_some("DEBUG")
        } else {
            tracing::enabled!(target: TARGET, Level::INFO).then_some("INFO")
        };
        let Some(level) = level else { return };
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|bytes| {
            bytes.clear();
            let mut line = Line {
                bytes,
                json: self.format == LogFormat::Json,
            };
            line.begin(level, SystemTime::now());
            access.fields(&mut line);
            line.end();
            self.writer.append(bytes, false);
        });
    }
}

impl Access<'_> {
    fn fields(&self, line: &mut Line<'_>) {
        line.plain("method", self.method);
        line.plain("route", self.route);
        line.number("status", u64::from(self.status));
        if let Some(error) = self.error {
            line.plain("error", error);
        }
        if let Some(stats) = self.stats {
            line.text("model", &stats.model);
            line.plain("version", &stats.version);
            line.number("inputs", stats.inputs as u64);
            if let Some(stages) = &stats.stages {
                line.number("batch_size", u64::from(stages.batch_size));
                line.milliseconds("decode_ms", stages.decode);
                line.milliseconds("queue_ms", stages.queue);
                line.milliseconds("inference_ms", stages.inference);
            }
        }
        line.milliseconds("total_ms", self.total);
        if let Some(bytes) = self.response_bytes {
            line.number("response_bytes", bytes);
        }
        line.plain("request_id", self.request_id);
        if let Some(span) = self.span {
            line.shown("trace_id", format_args!("{:032x}", span.trace_id));
            line.shown("span_id", format_args!("{:016x}", span.span_id));
        }
        if let Some(client) = self.client {
            line.address("client", client);
        }
    }
}

/// A line in the format of tracing-subscriber: a JSON object, or ` key=value` for people.
struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    json: bool,
}

// Writing to a Vec cannot fail.
impl Line<'_> {
    fn begin(&mut self, level: &str, now: SystemTime) {
        let now = humantime::format_rfc3339_micros(now);
        let _ = if self.json {
            write!(
                self.bytes,
                r#"{{"timestamp":"{now}","level":"{level}","message":"request""#
            )
        } else {
            write!(self.bytes, "{now} {level:>5} {TARGET}: request")
        };
    }

    fn end(&mut self) {
        if self.json {
            let _ = write!(self.bytes, r#","target":"{TARGET}"}}"#);
        }
        self.bytes.push(b'\n');
    }

    fn key(&mut self, key: &str) {
        if self.json {
            self.bytes.extend_from_slice(b",\"");
            self.bytes.extend_from_slice(key.as_bytes());
            self.bytes.extend_from_slice(b"\":");
        } else {
            self.bytes.push(b' ');
            self.bytes.extend_from_slice(key.as_bytes());
            self.bytes.push(b'=');
        }
    }

    /// `value` must not need escaping.
    fn plain(&mut self, key: &str, value: &str) {
        self.key(key);
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'"');
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let _ = serde_json::to_writer(&mut *self.bytes, value);
    }

    fn shown(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        self.key(key);
        let _ = write!(self.bytes, "\"{value}\"");
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        fmt::push(self.bytes, value);
    }

    fn address(&mut self, key: &str, value: SocketAddr) {
        self.key(key);
        self.bytes.push(b'"');
        fmt::push_address(self.bytes, value);
        self.bytes.push(b'"');
    }

    fn milliseconds(&mut self, key: &str, duration: Duration) {
        self.key(key);
        fmt::push_milliseconds(self.bytes, duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> RequestStats {
        RequestStats {
            model: "a \"model\"".to_owned(),
            version: "3".to_owned(),
            inputs: 2,
            stages: Some(StageTimes {
                started: std::time::Instant::now(),
                decode: Duration::from_micros(7),
                queue: Duration::from_micros(1250),
                inference: Duration::from_secs(2),
                batch_size: 5,
                batch: super::super::spans::SpanRef::default(),
            }),
        }
    }

    fn line(json: bool, access: &Access<'_>) -> String {
        let mut bytes = Vec::new();
        let mut line = Line {
            bytes: &mut bytes,
            json,
        };
        line.begin("INFO", SystemTime::UNIX_EPOCH);
        access.fields(&mut line);
        line.end();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_one_object_with_every_field() {
        let stats = stats();
        let access = Access {
            quiet: false,
            method: "POST",
            route: "/v1/classify",
            status: 200,
            error: None,
            stats: Some(&stats),
            total: Duration::from_micros(2_001_300),
            response_bytes: Some(77),
            request_id: "abc-1",
            span: Some(TraceParent {
                trace_id: 0xab,
                span_id: 0xcd,
                flags: 1,
            }),
            client: Some(SocketAddr::from(([127, 0, 0, 1], 5))),
        };
        let parsed: serde_json::Value = serde_json::from_str(&line(true, &access)).unwrap();
        let expected = serde_json::json!({
            "timestamp": "1970-01-01T00:00:00.000000Z", "level": "INFO", "target": TARGET, "message": "request",
            "method": "POST", "route": "/v1/classify", "status": 200, "model": "a \"model\"", "version": "3",
            "inputs": 2, "batch_size": 5, "decode_ms": 0.007, "queue_ms": 1.25, "inference_ms": 2000.0,
            "total_ms": 2001.3, "response_bytes": 77, "request_id": "abc-1",
            "trace_id": "000000000000000000000000000000ab", "span_id": "00000000000000cd", "client": "127.0.0.1:5",
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn unknown_fields_are_left_out() {
        let access = Access {
            quiet: false,
            method: "GET",
            route: "unmatched",
            status: 404,
            error: Some("not_found"),
            stats: None,
            total: Duration::from_micros(90),
            response_bytes: None,
            request_id: "1",
            span: None,
            client: None,
        };
        assert_eq!(
            line(false, &access),
            "1970-01-01T00:00:00.000000Z  INFO classifyd::access: request method=\"GET\" route=\"unmatched\" status=404 \
             error=\"not_found\" total_ms=0.090 request_id=\"1\"\n"
        );
    }
}
