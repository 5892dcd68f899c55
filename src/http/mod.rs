//! What a client sees.

pub mod classify;
pub mod document;
pub mod examples;
pub mod models;
pub mod observe;
pub mod pages;
pub mod payload;
pub mod probes;
pub mod server;

use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::Request;
use axum::response::IntoResponse;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Code, Error};
use crate::metrics::Metrics;
use crate::shutdown::Draining;

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    /// The effective configuration.
    pub config: Config,
    /// The models.
    pub catalog: Catalog,
    /// The metrics.
    pub metrics: Metrics,
    /// Whether the server is on its way out.
    pub draining: Draining,
}

/// What clients come for.
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

/// A route exists above or not at all: what is not documented is not served.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(document::Document::openapi())
        .merge(api())
        .merge(open())
        .merge(admin())
}

/// The OpenAPI document of all routes.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// The whole HTTP side: routes, and around them the layers that every request passes.
pub fn router(app: Arc<App>) -> Router {
    let layers = ServiceBuilder::new()
        // Outermost: it must see every response, those to unknown routes and panics included, to give it a request id,
        // to count it and to write the body of an error.
        .layer(observe::ObserveLayer::new(Arc::clone(&app)))
        .map_response(IntoResponse::into_response)
        // Inside, so that a handler that panics is one failed request with an id, and not a broken connection.
        .layer(CatchPanicLayer::custom(observe::panicked));
    let (router, _) = routes().split_for_parts();
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layers)
        .with_state(app)
}

async fn not_found(request: Request) -> Error {
    let detail = format!(
        "expected a path of GET /openapi.json, found {:?}",
        request.uri().path()
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
        "{method} is not a method of {:?}; the Allow header lists them",
        uri.path()
    );
    unread(Error::new(Code::MethodNotAllowed, detail), &request)
}
