//! Security headers of every response, and CORS.

use std::time::Duration;

use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::observe::X_REQUEST_ID;
use crate::config::CorsOrigin;

/// Adds the headers of every response, unless a route has set them.
pub fn protect(mut response: Response, tls: bool) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in [(REFERRER_POLICY, "no-referrer"), (CACHE_CONTROL, "no-store")] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if tls {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(STRICT_TRANSPORT_SECURITY, year);
    }
    response
}

/// How long a browser may cache the result of a preflight request.
const CORS_MAX_AGE: Duration = Duration::from_hours(1);

/// Allows requests from pages of these origins. Credentials are not allowed: clients use API keys,
/// not cookies.
pub fn cors(origins: &[CorsOrigin]) -> CorsLayer {
    let name = HeaderName::from_static;
    let allowed = if origins.iter().any(CorsOrigin::is_any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().map(|origin| origin.header().clone()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            X_REQUEST_ID,
            name("x-api-key"),
            name("traceparent"),
            name("tracestate"),
        ])
        .expose_headers([
            X_REQUEST_ID,
            RETRY_AFTER,
            name("server-timing"),
            name("traceresponse"),
        ])
        .max_age(CORS_MAX_AGE)
}
