//! Rate limits, by API key and by address.

use reqwest::header::RETRY_AFTER;

use super::{ApiKey, ConfigFile, code, make_key, start, status};
use crate::harness::{ok, problem, white_row};

#[tokio::test]
async fn an_api_key_can_have_its_own_rate_limit() {
    let (slow, fast) = (make_key("slow"), make_key("fast"));
    let file = ConfigFile::new(&format!(
        "{}rate_limit = \"6/h burst 2\"\n{}",
        slow.entry, fast.entry
    ));
    let server = start(&file, &[]);
    let models = |key: &ApiKey| server.get("/v1/models").bearer_auth(&key.key);
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
async fn an_address_has_a_rate_limit_and_probes_have_none() {
    let file = ConfigFile::new("rate_limit = \"1/h burst 3\"");
    let server = start(&file, &[]);
    for _ in 0..3 {
        ok(server.send_png("", white_row(0)).send().await.unwrap()).await;
    }
    assert_eq!(code(server.send_png("", white_row(0))).await, "rate_limited");
    // Without a trusted proxy, the header has no effect.
    let lying = server.get("/v1/models").header("x-forwarded-for", "192.0.2.1");
    assert_eq!(code(lying).await, "rate_limited");
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json", "/nowhere"] {
        assert_ne!(status(server.get(path)).await, 429, "{path}");
    }
}

#[tokio::test]
async fn a_large_image_counts_as_several_requests() {
    let file = ConfigFile::new("rate_limit = \"1/h burst 10\"");
    let server = start(&file, &[]);
    let mut png = Vec::new();
    let image = image::GrayImage::new(2000, 2000);
    image
        .write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png)
        .unwrap();
    // One for the request, and one for each of the four million pixels.
    for _ in 0..2 {
        ok(server.send_png("", png.clone()).send().await.unwrap()).await;
    }
    assert_eq!(code(server.send_png("", white_row(0))).await, "rate_limited");
}

#[tokio::test]
async fn guessing_api_keys_is_rate_limited() {
    let key = make_key("a");
    let file = ConfigFile::new(&format!("rate_limit = \"1/h burst 5\"\n{}", key.entry));
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
    let file = ConfigFile::new("rate_limit = \"1/h\"\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
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
    // The log has the client's address, too.
    server
        .wait_for_log(&["classifyd::access", "\"client\":\"192.0.2.2\""])
        .await;
}
