//! The HTTP side: routes, middleware and connections.

pub mod classify;
pub mod connections;
pub mod document;
pub mod error;
pub mod examples;
pub mod flow;
pub mod guard;
pub mod headers;
pub mod host;
pub mod models;
pub mod observe;
pub mod pages;
mod path;
pub mod payload;
pub mod probes;
mod security;
pub mod server;
pub mod stream;
pub mod tls;
pub mod unreadable;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::HttpBody;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::guard::Guard;
use self::host::{AllowedHosts, HostLayer};
use self::probes::Pulse;
use self::unreadable::Replace;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::cpu::{Pool, Workers};
use crate::http::error::{Code, Error, quoted};
use crate::metrics::Metrics;
use crate::shutdown::Draining;
use crate::telemetry::Telemetry;

/// State that the handlers share.
#[derive(Debug)]
pub struct App {
    pub config: Config,
    /// A reload stores a new catalog; requests in flight keep the one they loaded.
    pub catalog: ArcSwap<Catalog>,
    /// Parses long JSON bodies.
    pub bodies: Pool,
    pub workers: Workers,
    /// Memory for request bodies and long response bodies.
    pub body_memory: Budget,
    /// Memory for the rows of all requests.
    pub queue_memory: Budget,
    pub metrics: Metrics,
    pub draining: Draining,
    /// `None` if neither API keys nor rate limits are configured.
    pub guard: Option<Guard>,
    pub telemetry: Telemetry,
    /// Detects threads that are stuck.
    pub pulse: Pulse,
}

/// Routes for clients. They require an API key if any is configured.
fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(classify::classify))
        .routes(routes!(models::list))
        .routes(routes!(models::show))
        .routes(routes!(examples::list))
        .routes(routes!(examples::show))
}

/// Routes without authentication.
fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(document::json))
        .routes(routes!(document::yaml))
        .routes(routes!(pages::playground))
        .routes(routes!(pages::docs))
        .routes(routes!(pages::asset))
}

/// Probes and metrics.
fn admin() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
}

/// The OpenAPI document of all routes. Routes are registered with their description, so an
/// undocumented route cannot exist.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = OpenApiRouter::with_openapi(document::Document::openapi())
        .merge(api())
        .merge(open())
        .merge(admin())
        .into_openapi();
    security::describe(&mut document, &api().into_openapi());
    document
}

/// The routes and layers of the main listener.
pub fn router(app: Arc<App>) -> Router {
    let hosts = HostLayer::new(AllowedHosts::new(
        &app.config.allowed_hosts.0,
        app.config.listen.0,
    ));
    let mut api = Router::from(api());
    // Left out entirely if there is nothing to check.
    if app.guard.is_some() {
        api = api.route_layer(from_fn_with_state(Arc::clone(&app), guard::check));
    }
    let mut router = api.merge(Router::from(open()));
    if app.config.admin_listen.is_none() {
        router = router.merge(Router::from(admin()));
    }
    let origins = &app.config.cors_origins.0;
    let cors = (!origins.is_empty()).then(|| headers::cors(origins));
    with_layers(router, cors, hosts, app)
}

/// The routes and layers of the separate listener for probes and metrics (`admin_listen`).
pub fn admin_router(app: Arc<App>) -> Router {
    let address = *app.config.admin_listen.unwrap_or(app.config.listen);
    let hosts = HostLayer::new(AllowedHosts::for_admin(&app.config.allowed_hosts.0, address));
    with_layers(Router::from(admin()), None, hosts, app)
}

/// Makes the responses to requests that hyper cannot parse.
pub fn unreadable(app: Arc<App>) -> Replace {
    Arc::new(move |peer, status| {
        let error = unreadable::error(status, app.config.max_header_size.0.as_u64());
        let tls = app.config.tls_certificate.is_some();
        let response = headers::protect(error.with_body_unread().into_response(), tls);
        observe::unreadable(&app, peer, response)
    })
}

fn with_layers(router: Router<Arc<App>>, cors: Option<CorsLayer>, hosts: HostLayer, app: Arc<App>) -> Router {
    let tls = app.config.tls_certificate.is_some();
    let layers = ServiceBuilder::new()
        // Outermost, because it must see every response, including those for unknown routes and
        // panics: it adds the request ID, counts the request, and writes the body of an error.
        .layer(observe::ObserveLayer::new(Arc::clone(&app)))
        .map_response(move |response| headers::protect(response, tls))
        .map_response(IntoResponse::into_response)
        // Further in, so that a panicking handler fails one request and does not break the
        // connection.
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(hosts);
    let mut router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    // Around the fallbacks, because no route has the method of a preflight request, and inside the
    // layers that count.
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router.layer(layers).with_state(app)
}

async fn not_found(request: Request) -> Error {
    let detail = format!(
        "path: expected one of the paths in GET /openapi.json, found {}",
        quoted(request.uri().path())
    );
    unread(Error::new(Code::NotFound, detail), &request)
}

/// For handlers that do not read the body.
fn unread(error: Error, request: &Request) -> Error {
    if request.body().is_end_stream() {
        error
    } else {
        error.with_body_unread()
    }
}

async fn method_not_allowed(request: Request) -> Error {
    let (method, uri) = (request.method(), request.uri());
    let detail = format!(
        "method: {} is not allowed for {}; see the Allow header",
        quoted(method.as_str()),
        quoted(uri.path())
    );
    unread(Error::new(Code::MethodNotAllowed, detail), &request)
}
