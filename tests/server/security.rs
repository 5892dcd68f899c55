//! Who may ask, and how often; what browsers are told; and that no log tells a secret.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, StatusCode};

use crate::harness::{Server, classifyd, fixture_models, ok, problem, some_models, white_row};

/// An API key that the binary has made, and its entry.
pub(crate) struct Made {
    pub(crate) key: String,
    pub(crate) entry: String,
}

pub(crate) fn make_key(name: &str) -> Made {
    let output = classifyd().args(["api-key", name]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (entry, told) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    let key = told.lines().last().unwrap().to_owned();
    assert!(key.starts_with("cfd_") && key.len() > 40, "{told}");
    assert!(!entry.contains(&key), "{entry}");
    assert!(told.contains("the end of the file"), "{told}");
    Made { key, entry }
}

/// A file with this configuration, which is kept as long as the folder.
pub(crate) struct File {
    folder: tempfile::TempDir,
}

impl File {
    pub(crate) fn new(text: &str) -> Self {
        let file = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("classifyd.toml")
    }
}

pub(crate) fn start(file: &File, options: &[&str]) -> Server {
    let models = some_models(&["linear"]);
    let path = file.path();
    let server = Server::start(
        models.path(),
        &[&["--config", path.to_str().unwrap()], options].concat(),
    );
    // The models are loaded.
    drop(models);
    server
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

async fn code(request: RequestBuilder) -> String {
    problem(request.send().await.unwrap()).await["code"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn with_api_keys_nothing_under_v1_is_answered_without_one() {
    let (shop, lab) = (make_key("shop"), make_key("lab"));
    let file = File::new(&format!("{}{}", shop.entry, lab.entry));
    let server = start(&file, &[]);

    let picture = || server.send_png("", white_row(1));
    let none = picture().send().await.unwrap();
    assert_eq!(none.headers()[WWW_AUTHENTICATE], "Bearer realm=\"classifyd\"");
    let refused = problem(none).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&"unauthorized".into(), &401.into())
    );
    assert!(
        refused["detail"].as_str().unwrap().contains("X-Api-Key"),
        "{refused}"
    );

    let answer = ok(picture().bearer_auth(&shop.key).send().await.unwrap()).await;
    assert_eq!(answer["results"][0]["label"], "b");
    ok(picture().header("x-api-key", &lab.key).send().await.unwrap()).await;
    let almost = format!("{}x", shop.key);
    for wrong in [almost.as_str(), "cfd_", "shop", ""] {
        assert_eq!(
            code(picture().bearer_auth(wrong)).await,
            "unauthorized",
            "{wrong}"
        );
        assert_eq!(
            code(picture().header("x-api-key", wrong)).await,
            "unauthorized",
            "{wrong}"
        );
    }

    for path in ["/v1/models", "/v1/models/linear"] {
        assert_eq!(code(server.get(path)).await, "unauthorized");
        ok(server.get(path).bearer_auth(&lab.key).send().await.unwrap()).await;
    }
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(status(server.get(path)).await, 200, "{path}");
    }

    let metrics = server.metrics().await;
    let by_key = |key: &str, status: u16| {
        metrics.get(&format!(
            "classifyd_requests_by_key_total{{key=\"{key}\",status=\"{status}\"}}"
        ))
    };
    assert_eq!((by_key("shop", 200), by_key("lab", 200)), (Some(1.0), Some(3.0)));
    let refused = "classifyd_http_requests_total{method=\"POST\",route=\"/v1/classify\",status=\"401\"}";
    assert_eq!(metrics.get(refused), Some(9.0));
}

#[tokio::test]
async fn a_refused_client_that_sends_on_gets_its_answer() {
    let file = File::new(&make_key("a").entry);
    let server = start(&file, &["--max-body", "8 MiB"]);
    // More than the buffers of the system hold.
    let body = vec![0; 6 << 20];
    assert_eq!(code(server.send_png("", body)).await, "unauthorized");
}

#[tokio::test]
async fn keys_are_read_again_on_sighup_and_a_mistake_changes_nothing() {
    let (old, new) = (make_key("old"), make_key("new"));
    let file = File::new(&old.entry);
    let server = start(&file, &[]);
    let models = |key: &Made| status(server.get("/v1/models").bearer_auth(&key.key));
    assert_eq!(
        (models(&old).await, models(&new).await),
        (StatusCode::OK, StatusCode::UNAUTHORIZED)
    );

    file.write(&new.entry);
    server.signal("HUP");
    server.wait_for_log(&["configuration", "read again"]).await;
    assert_eq!(
        (models(&old).await, models(&new).await),
        (StatusCode::UNAUTHORIZED, StatusCode::OK)
    );

    for (text, part) in [
        ("[[api_keys]]\nname = \"x\"", "missing field"),
        ("", "expected at least one key, found none"),
    ] {
        file.write(text);
        server.signal("HUP");
        server
            .wait_for_log(&["api_keys", "all stays as it was", part])
            .await;
        assert_eq!(models(&new).await, 200);
    }
}

#[tokio::test]
async fn a_first_key_takes_a_restart_and_that_is_told() {
    let file = File::new("");
    let server = start(&file, &[]);
    file.write(&make_key("first").entry);
    server.signal("HUP");
    server
        .wait_for_log(&["api_keys", "the first key takes a restart"])
        .await;
    assert_eq!(status(server.get("/v1/models")).await, 200);
}

#[tokio::test]
async fn a_key_has_a_rate_of_its_own() {
    let (slow, fast) = (make_key("slow"), make_key("fast"));
    let file = File::new(&format!(
        "{}rate_limit = \"6/h burst 2\"\n{}",
        slow.entry, fast.entry
    ));
    let server = start(&file, &[]);
    let models = |key: &Made| server.get("/v1/models").bearer_auth(&key.key);
    for _ in 0..2 {
        assert_eq!(status(models(&slow)).await, 200);
    }
    let limited = models(&slow).send().await.unwrap();
    let wait: u64 = limited.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((590..=600).contains(&wait), "{wait}");
    let limited = problem(limited).await;
    assert_eq!(
        (&limited["code"], &limited["status"]),
        (&"rate_limited".into(), &429.into())
    );
    assert!(
        limited["detail"].as_str().unwrap().contains("API key \"slow\""),
        "{limited}"
    );
    for _ in 0..20 {
        assert_eq!(status(models(&fast)).await, 200);
    }
    let series = "classifyd_requests_by_key_total{key=\"slow\",status=\"429\"}";
    assert_eq!(server.metrics().await.get(series), Some(1.0));
}

#[tokio::test]
async fn an_address_has_a_rate_and_probes_have_none() {
    let file = File::new("rate_limit = \"1/h burst 3\"");
    let server = start(&file, &[]);
    for _ in 0..3 {
        ok(server.send_png("", white_row(0)).send().await.unwrap()).await;
    }
    assert_eq!(code(server.send_png("", white_row(0))).await, "rate_limited");
    // Nobody is believed who stands behind no proxy that is trusted.
    let lying = server.get("/v1/models").header("x-forwarded-for", "192.0.2.1");
    assert_eq!(code(lying).await, "rate_limited");
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json", "/nowhere"] {
        assert_ne!(status(server.get(path)).await, 429, "{path}");
    }
}

#[tokio::test]
async fn a_large_picture_counts_as_many_requests() {
    let file = File::new("rate_limit = \"1/h burst 10\"");
    let server = start(&file, &[]);
    let mut png = Vec::new();
    let picture = image::GrayImage::new(2000, 2000);
    picture
        .write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png)
        .unwrap();
    // One, and one for each of its four million pixels.
    for _ in 0..2 {
        ok(server.send_png("", png.clone()).send().await.unwrap()).await;
    }
    assert_eq!(code(server.send_png("", white_row(0))).await, "rate_limited");
}

#[tokio::test]
async fn guessing_keys_is_limited() {
    let key = make_key("a");
    let file = File::new(&format!("rate_limit = \"1/h burst 5\"\n{}", key.entry));
    let server = start(&file, &[]);
    for guess in 0..5 {
        let request = server.get("/v1/models").bearer_auth(guess);
        assert_eq!(code(request).await, "unauthorized");
    }
    assert_eq!(
        code(server.get("/v1/models").bearer_auth("guess")).await,
        "rate_limited"
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_rate() {
    let file = File::new("rate_limit = \"1/h\"\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    let server = start(&file, &[]);
    let from = |forwarded: &str| status(server.get("/v1/models").header("x-forwarded-for", forwarded));
    assert_eq!(from("192.0.2.1").await, 200);
    assert_eq!(from("192.0.2.1").await, 429);
    assert_eq!(from("192.0.2.2, 10.0.0.7").await, 200);
    assert_eq!(
        from("192.0.2.3, 192.0.2.2, 10.0.0.7").await,
        429,
        "what the client wrote itself"
    );
    assert_eq!(from("2001:db8::1").await, 200);
    assert_eq!(from("2001:db8::2").await, 429, "of the same /64");
    // The log names the client as well.
    server
        .wait_for_log(&["classifyd::access", "\"client\":\"192.0.2.2\""])
        .await;
}

#[tokio::test]
async fn with_an_admin_listener_probes_and_metrics_are_there_alone() {
    let key = make_key("a");
    let file = File::new(&key.entry);
    let mut server = start(
        &file,
        &[
            "--admin-listen",
            "127.0.0.1:0",
            "--rate-limit",
            "1/h",
            "--drain-delay",
            "0s",
        ],
    );
    let admin = server.admin_address.unwrap();
    assert_ne!(admin, server.address);
    let on_admin = |path: &str| server.client.get(format!("http://{admin}{path}"));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(status(on_admin(path)).await, 200, "{path}");
        assert_eq!(code(server.get(path)).await, "not_found", "{path}");
    }
    for path in ["/v1/models", "/openapi.json"] {
        assert_eq!(code(on_admin(path)).await, "not_found", "{path}");
    }
    assert_eq!(status(server.get("/v1/models").bearer_auth(&key.key)).await, 200);
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}

#[tokio::test]
async fn while_the_server_drains_the_admin_listener_says_so() {
    let models = some_models(&["linear"]);
    let server = Server::start(
        models.path(),
        &["--admin-listen", "127.0.0.1:0", "--drain-delay", "1m"],
    );
    let ready = format!("http://{}/readyz", server.admin_address.unwrap());
    server.signal("TERM");
    server.wait_for_log(&["not ready any more"]).await;
    assert_eq!(code(server.client.get(ready)).await, "draining");
    assert_eq!(status(server.get("/v1/models")).await, 200);
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_answer_has_headers_for_browsers() {
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
    // Without origins a browser that asks first is told nothing.
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
async fn pages_of_the_origins_that_are_listed_may_ask() {
    let file = File::new(&format!(
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
    // A page must be able to read why it was refused.
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
async fn a_head_that_is_too_long_or_has_too_many_headers_is_refused() {
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

#[tokio::test]
async fn no_log_and_no_answer_tells_a_key() {
    let (good, unknown) = (make_key("good"), make_key("unknown"));
    let hash = good.entry.split('"').nth(3).unwrap();
    let file = File::new(&format!("{}rate_limit = \"1/h burst 4\"\n", good.entry));
    let server = start(&file, &["--log", "trace", "--access-log", "on"]);
    let mut told = String::new();
    for key in [&good.key, &unknown.key] {
        for request in [
            server.get("/v1/models").bearer_auth(key),
            server.get("/v1/models").header("x-api-key", key),
            server
                .get("/v1/models")
                .header(AUTHORIZATION, format!("Basic {key}")),
            server.send_png("", white_row(0)).bearer_auth(key),
            server.send_png("", b"no picture".to_vec()).bearer_auth(key),
            server.get("/v1/models").bearer_auth(key),
        ] {
            let response = request.send().await.unwrap();
            let _ = write!(told, "{:?}", response.headers());
            told += &response.text().await.unwrap();
        }
    }
    server.signal("HUP");
    server.wait_for_log(&["configuration", "read again"]).await;
    told += &server.metrics().await.0;
    let path = file.path();
    let printed = classifyd()
        .args(["serve", "--print-config", "--config", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(printed.status.success());
    told += &String::from_utf8(printed.stdout).unwrap();
    told += &server.log().join("\n");
    assert!(
        told.contains("rate_limited") && told.contains("unauthorized"),
        "{told}"
    );
    assert!(
        told.contains("\"level\":\"TRACE\""),
        "the log says all that it can: {told}"
    );
    for secret in [good.key.as_str(), &unknown.key, hash] {
        assert!(!told.contains(secret), "{secret} in {told}");
        // Not even a part of it.
        assert!(!told.contains(&secret[8..24]), "{secret} in {told}");
    }
}

#[tokio::test]
async fn only_a_key_that_is_allowed_it_may_ask_for_a_high_priority() {
    let (shop, lab) = (make_key("shop"), make_key("lab"));
    let file = File::new(&format!("{}priority = \"high\"\n{}", shop.entry, lab.entry));
    let server = start(&file, &[]);
    let high = || server.send_png("?priority=high", white_row(1));
    ok(high().bearer_auth(&shop.key).send().await.unwrap()).await;
    let refused = problem(high().bearer_auth(&lab.key).send().await.unwrap()).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&"forbidden".into(), &403.into())
    );
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("priority: expected normal or low, found high"),
        "{detail}"
    );
    for allowed in ["normal", "low"] {
        let query = format!("?priority={allowed}");
        let request = server.send_png(&query, white_row(1)).bearer_auth(&lab.key);
        ok(request.send().await.unwrap()).await;
    }
    // The same in a body.
    let form = || {
        let picture = reqwest::multipart::Part::bytes(white_row(1));
        reqwest::multipart::Form::new()
            .part("image", picture)
            .text("priority", "high")
    };
    let post = |key: &str| server.post("").multipart(form()).bearer_auth(key);
    assert_eq!(code(post(&lab.key)).await, "forbidden");
    ok(post(&shop.key).send().await.unwrap()).await;

    // Without keys nobody is known to be allowed it.
    let open = Server::start(&fixture_models(), &[]);
    let request = open.send_png("?model=linear&priority=high", white_row(1));
    assert_eq!(code(request).await, "forbidden");
    let request = open.send_png("?model=linear&priority=low", white_row(1));
    ok(request.send().await.unwrap()).await;
}
