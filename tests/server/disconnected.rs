//! Texts and JSON of disconnected clients: work that has begun keeps its permit until it ends.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;

use crate::harness::{Metrics, Server, changed_model, ok, problem};

const RUNNING: &str = "classifyd_decode_running";

fn running(metrics: &Metrics) -> f64 {
    metrics.get(RUNNING).unwrap()
}

/// A model for texts of 65,536 tokens, so that tokenising one takes a while.
fn words() -> tempfile::TempDir {
    changed_model("words", |directory| {
        let config = r#"{"model_max_length": 65536, "pad_token": "[PAD]"}"#;
        std::fs::write(directory.join("tokenizer_config.json"), config).unwrap();
    })
}

/// Few tokens for its length, so that the tokeniser reads all of it.
fn long_text() -> String {
    format!("apple{}", " ".repeat(500_000))
}

fn long_json() -> String {
    format!(r#"{{"inputs": [{}""]}}"#, r#""","#.repeat(4_000_000))
}

/// Sends a request and closes the connection while its work runs. Returns what still runs once the
/// server has noticed.
async fn left(server: &Server, request: RequestBuilder) -> f64 {
    let request = tokio::spawn(request.send());
    let started = Instant::now();
    while running(&server.metrics().await) == 0.0 {
        if request.is_finished() {
            return 0.0;
        }
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "the work does not begin"
        );
    }
    request.abort();
    let started = Instant::now();
    loop {
        let metrics = server.metrics().await;
        // The scrape itself is one.
        if metrics.get("classifyd_http_requests_in_flight") == Some(1.0) {
            return running(&metrics);
        }
        assert!(started.elapsed() < Duration::from_mins(1), "the request goes on");
    }
}

/// The work must still be running when its request has ended. It may finish first, so there are
/// several attempts.
async fn assert_held(server: &Server, request: impl Fn() -> RequestBuilder) {
    let threads = server.threads().len();
    for _ in 0..20 {
        let held = left(server, request()).await;
        server.wait_for_metric(RUNNING, 0.0).await;
        if held > 0.0 {
            assert!(server.threads().len() <= threads, "{:?}", server.threads());
            return;
        }
    }
    panic!("no work ran on after its client had gone");
}

#[tokio::test]
async fn a_text_being_tokenised_keeps_its_memory_permit_after_its_client_disconnects() {
    let models = words();
    let server = Server::start(models.path(), &[]);
    ok(server.send_text("", "apple").send().await.unwrap()).await;
    assert_held(&server, || server.send_text("", long_text())).await;
    ok(server.send_text("", "apple").send().await.unwrap()).await;
}

#[tokio::test]
async fn json_being_parsed_keeps_its_memory_permit_after_its_client_disconnects() {
    let models = words();
    let server = Server::start(models.path(), &[]);
    ok(server.send_text("", "apple").send().await.unwrap()).await;
    let json = long_json();
    let request = || {
        let request = server.post("").header(CONTENT_TYPE, "application/json");
        request.body(json.clone())
    };
    assert_held(&server, request).await;
    ok(server.send_text("", "apple").send().await.unwrap()).await;
}

#[tokio::test]
async fn texts_whose_clients_wait_no_longer_take_neither_threads_nor_memory() {
    let models = words();
    let server = Server::start(models.path(), &[]);
    let cpus = std::thread::available_parallelism().unwrap().get() as f64;
    ok(server.send_text("", "apple").send().await.unwrap()).await;
    let (threads, memory) = (server.threads().len(), server.memory());
    for _ in 0..24 {
        let answer = server
            .send_text("?timeout_ms=1", long_text())
            .send()
            .await
            .unwrap();
        assert!(
            [503, 504].contains(&answer.status().as_u16()),
            "{}",
            answer.status()
        );
        assert!(running(&server.metrics().await) <= cpus);
    }
    assert!(server.threads().len() <= threads, "{:?}", server.threads());
    // Each counts as at most 50 MB, and as many as there are CPUs are tokenised at a time.
    let grown = server.peak_memory() - memory;
    assert!(grown < 50.0 * cpus + 30.0, "{grown} MiB");
    server.wait_for_metric(RUNNING, 0.0).await;
    ok(server.send_text("", "apple").send().await.unwrap()).await;
}

#[tokio::test]
async fn a_text_that_needs_more_memory_than_the_budget_is_rejected() {
    let models = words();
    let server = Server::start(models.path(), &["--decode-memory", "16 MiB"]);
    let refused = problem(server.send_text("", long_text()).send().await.unwrap()).await;
    assert_eq!(refused["code"], "invalid_text", "{refused}");
    assert_eq!(
        refused["detail"],
        "body: expected a text that takes at most 16777216 bytes of memory to decode (decode_memory), found one that takes 50000500"
    );
    ok(server.send_text("", "apple").send().await.unwrap()).await;
}
