//! API keys: authentication, reloading, and logs without keys.

use std::fmt::Write as _;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};

use super::{ApiKey, ConfigFile, code, make_key, start, status};
use crate::harness::{Server, classifyd, fixture_models, ok, problem, white_row};

#[tokio::test]
async fn nothing_under_v1_is_served_without_an_api_key() {
    let (shop, lab) = (make_key("shop"), make_key("lab"));
    let file = ConfigFile::new(&format!("{}{}", shop.entry, lab.entry));
    let server = start(&file, &[]);

    let image = || server.send_png("", white_row(1));
    let none = image().send().await.unwrap();
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

    let answer = ok(image().bearer_auth(&shop.key).send().await.unwrap()).await;
    assert_eq!(answer["results"][0]["label"], "b");
    ok(image().header("x-api-key", &lab.key).send().await.unwrap()).await;
    let almost = format!("{}x", shop.key);
    for wrong in [almost.as_str(), "cfd_", "shop", ""] {
        assert_eq!(code(image().bearer_auth(wrong)).await, "unauthorized", "{wrong}");
        assert_eq!(
            code(image().header("x-api-key", wrong)).await,
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
async fn a_client_without_a_key_gets_its_response_during_a_large_upload() {
    let file = ConfigFile::new(&make_key("a").entry);
    let server = start(&file, &["--max-body", "8 MiB"]);
    // More than the kernel's buffers hold.
    let body = vec![0; 6 << 20];
    assert_eq!(code(server.send_png("", body)).await, "unauthorized");
}

#[tokio::test]
async fn sighup_reloads_api_keys_and_ignores_an_invalid_file() {
    let (old, new) = (make_key("old"), make_key("new"));
    let file = ConfigFile::new(&old.entry);
    let server = start(&file, &[]);
    let models = |key: &ApiKey| status(server.get("/v1/models").bearer_auth(&key.key));
    assert_eq!(
        (models(&old).await, models(&new).await),
        (StatusCode::OK, StatusCode::UNAUTHORIZED)
    );

    file.write(&new.entry);
    server.signal("HUP");
    server.wait_for_log(&["configuration", "reloaded"]).await;
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
        server.wait_for_log(&["api_keys", "nothing changes", part]).await;
        assert_eq!(models(&new).await, 200);
    }
}

#[tokio::test]
async fn adding_the_first_api_key_needs_a_restart_and_the_log_says_so() {
    let file = ConfigFile::new("");
    let server = start(&file, &[]);
    file.write(&make_key("first").entry);
    server.signal("HUP");
    server
        .wait_for_log(&["api_keys", "adding the first key requires a restart"])
        .await;
    assert_eq!(status(server.get("/v1/models")).await, 200);
}

#[tokio::test]
async fn no_log_line_and_no_response_contains_an_api_key() {
    let (good, unknown) = (make_key("good"), make_key("unknown"));
    let hash = good.entry.split('"').nth(3).unwrap();
    let file = ConfigFile::new(&format!("{}rate_limit = \"1/h burst 4\"\n", good.entry));
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
    server.wait_for_log(&["configuration", "reloaded"]).await;
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
async fn only_an_api_key_with_high_priority_may_use_it() {
    let (shop, lab) = (make_key("shop"), make_key("lab"));
    let file = ConfigFile::new(&format!("{}priority = \"high\"\n{}", shop.entry, lab.entry));
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
    // The same option in a body.
    let form = || {
        let image = reqwest::multipart::Part::bytes(white_row(1));
        reqwest::multipart::Form::new()
            .part("image", image)
            .text("priority", "high")
    };
    let post = |key: &str| server.post("").multipart(form()).bearer_auth(key);
    assert_eq!(code(post(&lab.key)).await, "forbidden");
    ok(post(&shop.key).send().await.unwrap()).await;

    // Without API keys, nobody has this permission.
    let open = Server::start(&fixture_models(), &[]);
    let request = open.send_png("?model=linear&priority=high", white_row(1));
    assert_eq!(code(request).await, "forbidden");
    let request = open.send_png("?model=linear&priority=low", white_row(1));
    ok(request.send().await.unwrap()).await;
}
