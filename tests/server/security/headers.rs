//! Response headers for browsers, CORS, and limits on request headers.

use reqwest::Method;
use reqwest::header::{HeaderMap, ORIGIN};

use super::{ConfigFile, make_key, start, status};
use crate::harness::{Server, fixture_models, problem, some_models};

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_response_has_security_headers_for_browsers() {
    let server = Server::start(&fixture_models(), &[]);
    for path in [
        "/v1/models",
        "/livez",
        "/nowhere",
        "/v1/models/nowhere",
        "/openapi.json",
    ] {
        let response = server.get(path).send().await.unwrap();
        let headers = response.headers();
        assert_eq!(
            header(headers, "x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(header(headers, "referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(header(headers, "cache-control"), Some("no-store"), "{path}");
        assert_eq!(header(headers, "strict-transport-security"), None, "{path}");
        assert_eq!(header(headers, "access-control-allow-origin"), None, "{path}");
    }
    // Without `cors_origins`, a preflight request gets no permission.
    let first = server
        .client
        .request(Method::OPTIONS, server.url("/v1/classify"))
        .header(ORIGIN, "https://example.org")
        .header("access-control-request-method", "POST");
    let response = first.send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(header(response.headers(), "access-control-allow-origin"), None);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_send_requests() {
    let file = ConfigFile::new(&format!(
        "cors_origins = [\"https://example.org\", \"http://localhost:5173\"]\n{}",
        make_key("a").entry
    ));
    let server = start(&file, &[]);
    let preflight = async |origin: &str| {
        let request = server
            .client
            .request(Method::OPTIONS, server.url("/v1/classify"))
            .header(ORIGIN, origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-api-key,content-type");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "needs no key");
        let headers = response.headers();
        let allowed = header(headers, "access-control-allow-headers").unwrap_or_default();
        assert!(
            allowed.contains("x-api-key") && allowed.contains("authorization"),
            "{allowed}"
        );
        assert_eq!(header(headers, "access-control-allow-credentials"), None);
        header(headers, "access-control-allow-origin").map(str::to_owned)
    };
    for origin in ["https://example.org", "http://localhost:5173"] {
        assert_eq!(preflight(origin).await.as_deref(), Some(origin));
    }
    assert_eq!(preflight("https://example.com").await, None);
    // A page must be able to read why its request was rejected.
    let refused = server.get("/v1/models").header(ORIGIN, "https://example.org");
    let refused = refused.send().await.unwrap();
    assert_eq!(
        header(refused.headers(), "access-control-allow-origin"),
        Some("https://example.org")
    );
    assert!(
        header(refused.headers(), "access-control-expose-headers")
            .unwrap()
            .contains("x-request-id")
    );
    assert_eq!(problem(refused).await["code"], "unauthorized");
}

#[tokio::test]
async fn a_request_head_with_too_many_bytes_or_headers_is_rejected() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--max-header-size", "8 KiB"]);
    let long = server.get("/livez").header("x-long", "a".repeat(9000));
    assert_eq!(
        problem(long.send().await.unwrap()).await["code"],
        "header_too_large"
    );
    let many = (0..150).fold(server.get("/livez"), |request, at| {
        request.header(format!("x-{at}"), "a")
    });
    assert_eq!(
        problem(many.send().await.unwrap()).await["code"],
        "header_too_large"
    );
    let fine = server.get("/livez").header("x-long", "a".repeat(7000));
    assert_eq!(status(fine).await, 200);
}
