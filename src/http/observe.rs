//! The outermost middleware. For every request it sets the request ID, keeps the trace span and the
//! metrics, writes the access line, and writes the body of an error response.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Collected};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::App;
use super::guard::client;
use super::server::Peer;
use crate::config::Network;
use crate::http::error::Error;
use crate::telemetry::access::{Access, CLIENT_GONE, RequestStats};
use crate::telemetry::spans::RequestSpan;
use crate::telemetry::trace_context::{TRACERESPONSE, TraceParent};
use classifier::error::panic_message;

/// Identifies a request in the response and in the log.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Debug, Clone)]
pub struct ObserveLayer {
    app: Arc<App>,
}

impl ObserveLayer {
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            app: Arc::clone(&self.app),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Observe<S> {
    inner: S,
    app: Arc<App>,
}

impl<S> Service<Request> for Observe<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let seen = Seen::new(&request, &self.app.config.trusted_proxies.0);
        if let Some(span) = seen.span.as_ref().and_then(RequestSpan::reference) {
            request.extensions_mut().insert(span);
        }
        self.app.metrics.http_in_flight.inc();
        ObserveFuture {
            inner: self.inner.call(request),
            app: Arc::clone(&self.app),
            seen: Some(seen),
        }
    }
}

/// The facts about a request that are kept until its response.
struct Seen {
    started: Instant,
    request_id: HeaderValue,
    route: Option<MatchedPath>,
    method: &'static str,
    client: Option<SocketAddr>,
    /// The trace context, if the request belongs to a trace.
    context: Option<TraceParent>,
    /// `None` for probes and scrapes.
    span: Option<RequestSpan>,
}

impl Seen {
    fn new(request: &Request, trusted_proxies: &[Network]) -> Self {
        let headers = request.headers();
        let route = request.extensions().get::<MatchedPath>().cloned();
        let method = method_label(request.method());
        let parent = TraceParent::from_headers(headers);
        let peer = request.extensions().get::<Peer>();
        let name = pattern(route.as_ref());
        let span = (!is_quiet(name)).then(|| RequestSpan::start(method, name, parent.as_ref(), headers));
        Self {
            started: Instant::now(),
            request_id: request_id(headers),
            client: peer.map(|peer| client::socket(peer.0, headers, trusted_proxies)),
            route,
            method,
            context: (span.as_ref().and_then(RequestSpan::context))
                .or_else(|| parent.map(|parent| parent.child())),
            span,
        }
    }

    /// Updates the metrics, ends the span and writes the access line. The arguments from `status`
    /// on describe the response.
    fn finish(
        self,
        app: &App,
        status: u16,
        error: Option<&'static str>,
        request_stats: Option<&RequestStats>,
        response_bytes: Option<u64>,
    ) {
        app.metrics.http_in_flight.dec();
        let route = pattern(self.route.as_ref());
        let access = Access {
            quiet: is_quiet(route),
            method: self.method,
            route,
            status,
            error,
            stats: request_stats,
            total: self.started.elapsed(),
            response_bytes,
            request_id: self.request_id.to_str().unwrap_or_default(),
            span: self.context,
            client: self.client,
        };
        app.telemetry.access.write(&access);
        if let Some(span) = self.span {
            span.finish(&access);
        }
    }
}

/// Routes that programs poll every few seconds.
fn is_quiet(route: &str) -> bool {
    matches!(route, "/livez" | "/readyz" | "/metrics")
}

fn pattern(route: Option<&MatchedPath>) -> &str {
    route.map_or("unmatched", MatchedPath::as_str)
}

pin_project! {
        pub struct ObserveFuture<F> {
        #[pin]
        inner: F,
        app: Arc<App>,
        seen: Option<Seen>,
    }

    impl<F> PinnedDrop for ObserveFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // The connection was closed before the response.
            if let Some(seen) = this.seen.take() {
                let route = pattern(seen.route.as_ref());
                this.app.metrics.http_abandoned.with_label_values(&[route]).inc();
                seen.finish(this.app, CLIENT_GONE, Some("client_gone"), None, None);
            }
        }
    }
}

impl<F> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(seen) = this.seen.take() {
            finish(this.app, seen, &mut response);
        }
        Poll::Ready(Ok(response))
    }
}

fn finish(app: &App, seen: Seen, response: &mut Response) {
    let mut body_unread = false;
    let mut code = None;
    if let Some(error) = response.extensions_mut().remove::<Error>() {
        if let Some(cause) = &error.cause {
            let request_id = seen.request_id.to_str().unwrap_or_default();
            tracing::error!(request_id, cause, "internal error");
        }
        write_problem(&error, &seen.request_id, response);
        body_unread = error.body_unread;
        code = Some(error.code.as_str());
    }
    let status = response.status();
    let route = pattern(seen.route.as_ref());
    app.metrics
        .http_requests
        .with_label_values(&[route, seen.method, status.as_str()])
        .inc();
    app.metrics
        .http_duration
        .with_label_values(&[route])
        .observe(seen.started.elapsed().as_secs_f64());
    let request_stats = response.extensions_mut().remove::<RequestStats>();
    let length = response.body().size_hint().exact();
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, seen.request_id.clone());
    if let Some(value) = seen.context.and_then(TraceParent::to_header) {
        headers.insert(TRACERESPONSE, value);
    }
    seen.finish(app, status.as_u16(), code, request_stats.as_ref(), length);
    if app.draining.has_started() || body_unread {
        // Announce the close, so that the client does not send another request.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Counts and logs a request that hyper could not parse. Returns the headers and body of its
/// response.
pub fn unreadable(app: &App, peer: SocketAddr, mut response: Response) -> (HeaderMap, Bytes) {
    let seen = Seen {
        started: Instant::now(),
        request_id: new_request_id(),
        route: None,
        method: "other",
        client: Some(peer),
        context: None,
        span: None,
    };
    app.metrics.http_in_flight.inc();
    finish(app, seen, &mut response);
    let (parts, body) = response.into_parts();
    // The body of a problem document is available at once.
    let body = body.collect().now_or_never().and_then(Result::ok);
    (parts.headers, body.map(Collected::to_bytes).unwrap_or_default())
}

fn write_problem(error: &Error, request_id: &HeaderValue, response: &mut Response) {
    let problem = error.problem(request_id.to_str().unwrap_or_default());
    // Serialising strings and numbers cannot fail.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    // The length of the former, empty body.
    headers.remove(axum::http::header::CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, seconds);
    }
}

/// The response to a request whose handler panicked.
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic_message(&*panic);
    Error::internal(format!("a handler panicked: {message}")).into_response()
}

/// The client's request ID if it is short and plain, so that it cannot break a log line, or else a
/// new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    match headers.get(X_REQUEST_ID) {
        Some(id) if (1..=128).contains(&id.len()) && id.as_bytes().iter().all(plain) => id.clone(),
        _ => new_request_id(),
    }
}

fn new_request_id() -> HeaderValue {
    /// Random for each process.
    static PROCESS: LazyLock<u32> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()) as u32);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = (u64::from(*PROCESS) << 32) | u64::from(COUNT.fetch_add(1, Ordering::Relaxed));
    // Hexadecimal digits are a valid header value.
    HeaderValue::try_from(format!("{id:016x}")).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// The method as a metric label. Unknown ones share a label, so that clients cannot create series.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(sent));
        request_id(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_plain_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("abc-1.2_3"), "abc-1.2_3");
        for bad in ["", "with space", "quote\"", "semi;colon"] {
            assert_ne!(id_for(bad), bad);
        }
    }

    #[test]
    fn new_request_ids_differ() {
        assert_ne!(new_request_id(), new_request_id());
    }
}
