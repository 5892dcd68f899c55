//! What a client sees.

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

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    /// The effective configuration.
    pub config: Config,
    /// The models. Whoever has loaded them keeps them, whatever is stored meanwhile.
    pub catalog: ArcSwap<Catalog>,
    /// Where long bodies are read.
    pub bodies: Pool,
    /// The threads that decode.
    pub workers: Workers,
    /// What all bodies may take.
    pub body_memory: Budget,
    /// What the rows of all requests may take.
    pub queue_memory: Budget,
    /// The metrics.
    pub metrics: Metrics,
    /// Whether the server is on its way out.
    pub draining: Draining,
    /// Who may ask, and how often. None: everybody.
    pub guard: Option<Guard>,
    /// The log.
    pub telemetry: Telemetry,
    /// Whether requests are being served at all.
    pub pulse: Pulse,
}

/// What clients come for: needs an API key where any is configured.
fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(classify::classify))
        .routes(routes!(models::list))
        .routes(routes!(models::show))
        .routes(routes!(examples::list))
        .routes(routes!(examples::show))
}

/// What anybody may see.
fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(document::json))
        .routes(routes!(document::yaml))
        .routes(routes!(pages::playground))
        .routes(routes!(pages::docs))
        .routes(routes!(pages::asset))
}

/// What orchestrators and Prometheus come for.
fn admin() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
}

/// The OpenAPI document of all routes. A route exists above or not at all: what is not documented is not served.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = OpenApiRouter::with_openapi(document::Document::openapi())
        .merge(api())
        .merge(open())
        .merge(admin())
        .into_openapi();
    security::describe(&mut document, &api().into_openapi());
    document
}

/// The whole HTTP side of the main listener: routes, and around them the layers that every request passes.
pub fn router(app: Arc<App>) -> Router {
    let hosts = HostLayer::new(AllowedHosts::new(
        &app.config.allowed_hosts.0,
        app.config.listen.0,
    ));
    let mut api = Router::from(api());
    // Not there at all where there is nothing to guard.
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

/// The HTTP side of the listener for probes and metrics, where there is one.
pub fn admin_router(app: Arc<App>) -> Router {
    let address = *app.config.admin_listen.unwrap_or(app.config.listen);
    let hosts = HostLayer::new(AllowedHosts::for_admin(&app.config.allowed_hosts.0, address));
    with_layers(Router::from(admin()), None, hosts, app)
}

/// What clients get whose requests hyper cannot read.
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
        // Outermost: it must see every response, those to unknown routes and panics included, to give it a request id,
        // to count it and to write the body of an error.
        .layer(observe::ObserveLayer::new(Arc::clone(&app)))
        .map_response(move |response| headers::protect(response, tls))
        .map_response(IntoResponse::into_response)
        // Inside, so that a handler that panics is one failed request with an id, and not a broken connection.
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(hosts);
    let mut router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    // Around the fallbacks, for a browser asks with a method that no route has; inside the layers that count.
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router.layer(layers).with_state(app)
}

async fn not_found(request: Request) -> Error {
    let detail = format!(
        "expected a path that the document at GET /openapi.json lists, found {}",
        quoted(request.uri().path())
    );
    unread(Error::new(Code::NotFound, detail), &request)
}

/// These handlers read no body.
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
        "{} is not a method of {}; the Allow header lists them",
        quoted(method.as_str()),
        quoted(uri.path())
    );
    unread(Error::new(Code::MethodNotAllowed, detail), &request)
}
