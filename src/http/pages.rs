//! The playground at `/`, the API documentation at `/docs`, and the files that they load. All of
//! them are embedded in the binary, and the content security policy forbids loading anything from
//! elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::IntoResponses;
use utoipa::openapi::RefOr;

use super::App;
use super::document::problems;
use super::path::PathOf;
use crate::http::error::{Code, Error, quoted};

/// The pages have no inline scripts or styles.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A file that a page loads.
struct Asset {
    content: Bytes,
    content_type: &'static str,
    gzip: bool,
    etag: HeaderValue,
}

impl Asset {
    fn new(content: impl Into<Bytes>, content_type: &'static str, gzip: bool) -> Self {
        let content = content.into();
        // A fixed seed, so that all servers of a fleet have the same tags.
        let mut hasher = DefaultHasher::new();
        hasher.write(&content);
        let etag = format!("\"{:016x}\"", hasher.finish());
        Self {
            content,
            content_type,
            gzip,
            // Hexadecimal digits in quotes are a valid header value.
            etag: HeaderValue::try_from(etag).unwrap_or_else(|_| HeaderValue::from_static("\"0\"")),
        }
    }
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static PLAYGROUND: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(&include_bytes!("../../web/static/index.html")[..], HTML, false));

static DOCS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(&include_bytes!("../../web/static/docs.html")[..], HTML, false));

static ASSETS: LazyLock<BTreeMap<&str, Asset>> = LazyLock::new(|| {
    let mut assets = BTreeMap::from([
        (
            "playground.js",
            Asset::new(&include_bytes!("../../web/dist/playground.js")[..], SCRIPT, false),
        ),
        (
            "playground.css",
            Asset::new(&include_bytes!("../../web/static/playground.css")[..], CSS, false),
        ),
        (
            "docs.js",
            Asset::new(&include_bytes!("../../web/dist/docs.js")[..], SCRIPT, false),
        ),
        (
            "docs.css",
            Asset::new(&include_bytes!("../../web/static/docs.css")[..], CSS, false),
        ),
        (
            "icon.svg",
            Asset::new(
                &include_bytes!("../../web/static/icon.svg")[..],
                "image/svg+xml",
                false,
            ),
        ),
    ]);
    for (name, content_type) in [("swagger-ui-bundle.js", SCRIPT), ("swagger-ui.css", CSS)] {
        let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
        if let Ok(Some(file)) = utoipa_swagger_ui::serve(name, config) {
            let content = match file.bytes {
                Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
                Cow::Owned(bytes) => Bytes::from(bytes),
            };
            assets.insert(name, Asset::new(content, content_type, file.gzpipped));
        }
    }
    assets
});

/// The playground.
#[utoipa::path(get, path = "/", tag = "pages", responses(
    (status = 200, description = "The page.", content_type = "text/html; charset=utf-8", body = String),
    (status = 304, description = "Not modified."),
))]
pub(super) async fn playground(State(_): State<Arc<App>>, headers: HeaderMap) -> Response {
    respond(&PLAYGROUND, &headers)
}

/// The API documentation.
#[utoipa::path(get, path = "/docs", tag = "pages", responses(
    (status = 200, description = "The page.", content_type = "text/html; charset=utf-8", body = String),
    (status = 304, description = "Not modified."),
))]
pub(super) async fn docs(State(_): State<Arc<App>>, headers: HeaderMap) -> Response {
    respond(&DOCS, &headers)
}

/// A file that a page loads.
#[utoipa::path(get, path = "/assets/{file}", tag = "pages",
    params(("file" = String, Path, description = "Name of the file.", example = "playground.js")),
    responses(
        (status = 200, description = "The file.", content(
            (String = "text/javascript; charset=utf-8"), (String = "text/css; charset=utf-8"), (String = "image/svg+xml"),
        )),
        (status = 304, description = "Not modified."),
        AssetProblems,
    )
)]
pub(super) async fn asset(
    State(_): State<Arc<App>>,
    PathOf(file): PathOf<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asset = ASSETS.get(file.as_str());
    let asset = asset.ok_or_else(|| unknown_file(&file))?;
    Ok(respond(asset, &headers))
}

fn unknown_file(found: &str) -> Error {
    Error::new(
        Code::NotFound,
        format!("file: expected a file that a page loads, found {}", quoted(found)),
    )
}

struct AssetProblems;

impl IntoResponses for AssetProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([unknown_file("nope")])
    }
}

fn respond(asset: &Asset, request: &HeaderMap) -> Response {
    let known = request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim().trim_start_matches("W/").as_bytes() == asset.etag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(CONTENT_TYPE, asset.content_type)], asset.content.clone()).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, asset.etag.clone());
    // The browser may keep files but must revalidate: a new version has new files with the same
    // names.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    if asset.gzip && !known {
        // Every browser accepts gzip, and the binary is 3 MB smaller.
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
