//! Traces that the real binary exports to a collector. The collector is a route that decodes
//! requests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../server/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of the server")]
mod harness;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::routing::post;
use harness::{Server, TRACE_ID, TRACEPARENT, fixture_models, ok, problem, some_models, square, white_row};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message;

#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    /// Listens on a free port. Returns the URL.
    async fn start(&self) -> String {
        let collector = self.clone();
        let route = post(async move |body: Bytes| collector.take(&body));
        let router = axum::Router::new().route("/v1/traces", route);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(router.clone());
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        url
    }

    fn take(&self, body: &[u8]) {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let service = attributes
                .iter()
                .find(|attribute| attribute.key == "service.name");
            let value = service.unwrap().value.clone().unwrap().value.unwrap();
            self.services.lock().unwrap().push(text(&value));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans);
        }
    }

    /// Waits for this number of spans with this name, and returns all spans.
    async fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        let started = Instant::now();
        loop {
            let spans = self.spans.lock().unwrap().clone();
            if spans.iter().filter(|span| span.name == name).count() >= count {
                return spans;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "expected {count} of {name}, found {spans:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn attributes(span: &Span) -> HashMap<String, String> {
    span.attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.clone().unwrap().value.unwrap();
            (attribute.key.clone(), text(&value))
        })
        .collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap());
    bytes.iter().flat_map(digits).collect()
}

fn start(models: &std::path::Path, url: &str, more: &[&str]) -> Server {
    let mut options = vec!["--otlp-endpoint", url, "--drain-delay", "0s"];
    options.extend(more);
    Server::start(models, &options)
}

#[tokio::test]
async fn a_request_has_a_child_span_of_its_clients_span_and_one_for_each_stage() {
    let collector = Collector::default();
    let url = collector.start().await;
    let mut server = start(&fixture_models(), &url, &[]);
    let sent = server
        .send_png("?model=linear", white_row(1))
        .header("x-request-id", "traced-1")
        .header("traceparent", TRACEPARENT)
        .header("tracestate", "vendor=value")
        .send()
        .await
        .unwrap();
    let answered = sent.headers()["traceresponse"].to_str().unwrap().to_owned();
    ok(sent).await;
    server.get("/livez").send().await.unwrap();
    server
        .wait_for_log(&["classifyd::access", "traced-1", TRACE_ID])
        .await;
    // The server exports the remaining spans at shutdown.
    server.signal("TERM");
    assert!(server.wait(Duration::from_secs(20)).success());

    let spans = collector.wait_for("batch", 1).await;
    let [request] = named(&spans, "POST /v1/classify")[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(hex(&request.trace_id), TRACE_ID);
    assert_eq!(hex(&request.parent_span_id), "b7ad6b7169203331");
    assert_eq!(request.trace_state, "vendor=value");
    assert_eq!(request.kind, SpanKind::Server as i32);
    assert_eq!(
        answered,
        format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", hex(&request.span_id))
    );
    let about = attributes(request);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/classify"),
        ("http.response.status_code", "200"),
        ("client.address", "127.0.0.1"),
        ("classifyd.request_id", "traced-1"),
        ("classifyd.model", "linear"),
        ("classifyd.model.version", "1"),
        ("classifyd.inputs", "1"),
    ] {
        assert_eq!(
            about.get(key).map(String::as_str),
            Some(value),
            "{key}: {about:#?}"
        );
    }
    let mut before = request.start_time_unix_nano;
    for name in ["decode", "queue", "inference"] {
        let [stage] = named(&spans, name)[..] else {
            panic!("{name}: {spans:#?}");
        };
        assert_eq!(stage.trace_id, request.trace_id);
        assert_eq!(stage.parent_span_id, request.span_id);
        assert!(before <= stage.start_time_unix_nano, "{name}");
        assert!(stage.start_time_unix_nano <= stage.end_time_unix_nano, "{name}");
        before = stage.end_time_unix_nano;
    }
    // Stages and spans are measured with different clocks.
    assert!(before <= request.end_time_unix_nano + 1_000_000);
    assert_eq!(collector.services.lock().unwrap()[0], "classifyd");
    assert!(
        !spans.iter().any(|span| span.name.contains("livez")),
        "{spans:#?}"
    );
}

#[tokio::test]
async fn a_batch_span_links_to_the_spans_of_its_requests() {
    let collector = Collector::default();
    let url = collector.start().await;
    let models = some_models(&["slow"]);
    let mut server = start(models.path(), &url, &["--lanes", "1"]);
    let first = server.occupy_lane("slow").await;
    // They wait for the lane, and then run together.
    let others: Vec<_> = (0..3)
        .map(|_| tokio::spawn(server.send_png("", square(0)).send()))
        .collect();
    server.wait_for_queue("slow", 3.0).await;
    ok(first.await.unwrap().unwrap()).await;
    for other in others {
        ok(other.await.unwrap().unwrap()).await;
    }
    server.signal("TERM");
    assert!(server.wait(Duration::from_secs(20)).success());

    let spans = collector.wait_for("batch", 2).await;
    let requests: HashMap<_, _> = named(&spans, "POST /v1/classify")
        .into_iter()
        .map(|span| (span.span_id.clone(), span.trace_id.clone()))
        .collect();
    assert_eq!(requests.len(), 4);
    let batches = named(&spans, "batch");
    let large = batches.iter().max_by_key(|batch| batch.links.len()).unwrap();
    assert_eq!(attributes(large)["classifyd.batch.size"], "3");
    assert_eq!(attributes(large)["classifyd.model"], "slow");
    assert_eq!(large.links.len(), 3);
    for link in &large.links {
        assert_eq!(requests.get(&link.span_id), Some(&link.trace_id));
    }
    assert_eq!(large.trace_id, large.links[0].trace_id);
    let back: Vec<_> = named(&spans, "inference")
        .into_iter()
        .filter(|span| span.links.iter().any(|link| link.span_id == large.span_id))
        .collect();
    assert_eq!(back.len(), 3, "each request leads to its batch");
    for span in back {
        assert_eq!(attributes(span)["classifyd.batch.size"], "3");
    }
}

#[tokio::test]
async fn a_failed_request_has_an_error_span_and_an_unsampled_client_has_none() {
    let collector = Collector::default();
    let url = collector.start().await;
    let mut server = start(&fixture_models(), &url, &[]);
    let silent = server.send_png("?model=linear", white_row(0)).header(
        "traceparent",
        "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    );
    ok(silent.send().await.unwrap()).await;
    problem(server.send_png("?model=fails", square(255)).send().await.unwrap()).await;
    server.signal("TERM");
    assert!(server.wait(Duration::from_secs(20)).success());
    let spans = collector.wait_for("batch", 1).await;
    let [request] = named(&spans, "POST /v1/classify")[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(attributes(request)["error.type"], "internal");
    assert_eq!(attributes(request)["http.response.status_code"], "500");
    for span in [request, named(&spans, "batch")[0]] {
        assert_eq!(span.status.as_ref().unwrap().code, StatusCode::Error as i32);
    }
}

#[tokio::test]
async fn requests_are_answered_without_a_collector() {
    // A port that nobody listens on.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let models = some_models(&["linear"]);
    let mut server = start(models.path(), &url, &[]);
    assert_eq!(server.label("", white_row(1)).await, "b");
    server.signal("TERM");
    assert!(server.wait(Duration::from_secs(30)).success());
    assert!(
        server.log().iter().any(|line| line.contains("opentelemetry")),
        "{:#?}",
        server.log()
    );
}

#[test]
fn an_invalid_otlp_endpoint_is_rejected() {
    let output = harness::classifyd()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--otlp-endpoint",
            "127.0.0.1:4318",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("otlp_endpoint: expected a URL"),
        "{text}"
    );
}
