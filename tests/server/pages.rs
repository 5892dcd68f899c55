//! The pages, without a browser; `web/tests/` tests them in one.

use reqwest::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};

use crate::harness::{Server, some_models};

#[tokio::test]
async fn pages_and_assets_are_served_from_the_binary_with_a_strict_csp() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    for (path, content_type, part) in [
        ("/", "text/html; charset=utf-8", "<title>classifyd playground"),
        ("/docs", "text/html; charset=utf-8", "swagger-ui"),
        (
            "/assets/playground.js",
            "text/javascript; charset=utf-8",
            "v1/classify",
        ),
        (
            "/assets/playground.css",
            "text/css; charset=utf-8",
            "prefers-color-scheme",
        ),
        (
            "/assets/docs.js",
            "text/javascript; charset=utf-8",
            "SwaggerUIBundle",
        ),
        ("/assets/docs.css", "text/css; charset=utf-8", "dark-mode"),
        ("/assets/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers().clone();
        assert_eq!(headers[CONTENT_TYPE], content_type, "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = response.text().await.unwrap();
        assert!(text.contains(part), "{path}: {text}");
        // No inline scripts or styles, which the policy forbids.
        assert!(!text.contains("<style") && !text.contains("style=\""), "{path}");
    }
    for path in ["/assets/swagger-ui-bundle.js", "/assets/swagger-ui.css"] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip", "{path}");
        assert!(
            response.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_file_in_the_browsers_cache_is_not_sent_again() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    for path in ["/", "/assets/playground.js", "/assets/swagger-ui-bundle.js"] {
        let first = server.get(path).send().await.unwrap();
        assert_eq!(first.headers()[CACHE_CONTROL], "no-cache", "{path}");
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let again = server
                .get(path)
                .header(IF_NONE_MATCH, &known)
                .send()
                .await
                .unwrap();
            assert_eq!(again.status(), 304, "{path}: {known}");
            assert_eq!(again.headers()[ETAG].to_str().unwrap(), tag);
            assert!(!again.headers().contains_key(CONTENT_ENCODING));
            assert!(again.bytes().await.unwrap().is_empty());
        }
        let changed = server
            .get(path)
            .header(IF_NONE_MATCH, "\"other\"")
            .send()
            .await
            .unwrap();
        assert_eq!(changed.status(), 200, "{path}");
    }
}
