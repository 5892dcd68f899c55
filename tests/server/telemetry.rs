//! The log: a line for each request, and levels that change at run time.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Server, TRACE_ID, TRACEPARENT, fixture_models, ok, problem, some_models, square, white_row,
};

/// Waits for access log lines that contain this.
async fn lines(server: &Server, part: &str) -> Vec<Value> {
    server.wait_for_log(&["classifyd::access", part]).await;
    access_lines(server)
        .into_iter()
        .filter(|line| line.to_string().contains(part))
        .collect()
}

fn access_lines(server: &Server) -> Vec<Value> {
    server
        .log()
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["target"] == "classifyd::access")
        .collect()
}

#[tokio::test]
async fn every_request_has_one_access_log_line() {
    let server = Server::start(&fixture_models(), &[]);
    let response = server
        .send_png("?model=linear", white_row(1))
        .header("x-request-id", "good-1")
        .header("traceparent", TRACEPARENT)
        .send()
        .await
        .unwrap();
    let length = response.content_length().unwrap();
    let traceresponse = response.headers()["traceresponse"].to_str().unwrap().to_owned();
    ok(response).await;
    let found = lines(&server, "good-1").await;
    let [line] = found.as_slice() else {
        panic!("expected one line, found {found:#?}");
    };
    let expected: [(&str, Value); 11] = [
        ("level", "INFO".into()),
        ("message", "request".into()),
        ("method", "POST".into()),
        ("route", "/v1/classify".into()),
        ("status", 200.into()),
        ("model", "linear".into()),
        ("version", "1".into()),
        ("inputs", 1.into()),
        ("batch_size", 1.into()),
        ("response_bytes", length.into()),
        ("trace_id", TRACE_ID.into()),
    ];
    for (field, value) in expected {
        assert_eq!(line[field], value, "{field}: {line:#}");
    }
    // The client learns the ID of its span, although nobody records it.
    let span_id = line["span_id"].as_str().unwrap();
    assert_eq!(
        traceresponse,
        format!("00-0af7651916cd43dd8448eb211c80319c-{span_id}-00")
    );
    let milliseconds = |field: &str| line[field].as_f64().unwrap();
    let stages = milliseconds("decode_ms") + milliseconds("queue_ms") + milliseconds("inference_ms");
    assert!(stages > 0.0 && stages <= milliseconds("total_ms"), "{line:#}");
    assert!(
        line["client"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line:#}"
    );
    assert!(line["error"].is_null(), "{line:#}");
}

#[tokio::test]
async fn the_log_line_of_a_rejected_request_has_its_code_and_no_client_data() {
    let server = Server::start(&fixture_models(), &[]);
    let refused = server
        .send_png("?model=linear&secret=hidden-1", square(0))
        .header("x-request-id", "bad-1")
        .header("authorization", "Bearer hidden-2")
        .header("traceparent", "00-hidden-3")
        .send()
        .await
        .unwrap();
    problem(refused).await;
    server
        .get("/hidden-4")
        .header("x-request-id", "bad-2")
        .send()
        .await
        .unwrap();
    let wrong = server.send_png("?model=linear", b"hidden-5".to_vec());
    problem(wrong.header("x-request-id", "bad-3").send().await.unwrap()).await;
    for (id, status, error, route) in [
        ("bad-1", 400, "invalid_request", "/v1/classify"),
        ("bad-2", 404, "not_found", "unmatched"),
        ("bad-3", 422, "invalid_image", "/v1/classify"),
    ] {
        let line = &lines(&server, id).await[0];
        assert_eq!(line["status"], status, "{line:#}");
        assert_eq!(line["error"], error, "{line:#}");
        assert_eq!(line["route"], route, "{line:#}");
        assert!(line["trace_id"].is_null(), "{line:#}");
    }
    assert_eq!(lines(&server, "bad-3").await[0]["model"], "linear");
    assert!(
        !server.log().iter().any(|line| line.contains("hidden")),
        "{:#?}",
        server.log()
    );
}

#[tokio::test]
async fn the_log_has_the_cause_and_the_request_id_of_an_internal_error() {
    let models = some_models(&["fails"]);
    let server = Server::start(models.path(), &[]);
    let failed = server.send_png("", square(255)).header("x-request-id", "fault-1");
    let problem = problem(failed.send().await.unwrap()).await;
    assert_eq!(problem["code"], "internal");
    server
        .wait_for_log(&["internal error", "fault-1", "\"cause\""])
        .await;
    assert_eq!(lines(&server, "fault-1").await[0]["error"], "internal");
}

#[tokio::test]
async fn a_disconnected_client_is_counted_and_logged() {
    let models = some_models(&["hang"]);
    let server = Server::start(models.path(), &["--lanes", "1"]);
    let request = server.send_png("", square(255)).header("x-request-id", "gone-1");
    let request = tokio::spawn(request.send());
    server
        .wait_for_metric("classifyd_lanes_busy{model=\"hang\"}", 1.0)
        .await;
    // This request and the scrape itself.
    server
        .wait_for_metric("classifyd_http_requests_in_flight", 2.0)
        .await;
    request.abort();
    server
        .wait_for_metric(
            "classifyd_http_requests_abandoned_total{route=\"/v1/classify\"}",
            1.0,
        )
        .await;
    server
        .wait_for_metric("classifyd_runs_interrupted_total{model=\"hang\"}", 1.0)
        .await;
    server
        .wait_for_metric("classifyd_lanes_busy{model=\"hang\"}", 0.0)
        .await;
    server
        .wait_for_metric("classifyd_http_requests_in_flight", 1.0)
        .await;
    let line = &lines(&server, "gone-1").await[0];
    assert_eq!(
        (&line["status"], &line["error"]),
        (&499.into(), &"client_gone".into()),
        "{line:#}"
    );
}

#[tokio::test]
async fn probes_are_logged_at_debug_level_only() {
    let models = some_models(&["linear"]);
    for (log, expected) in [("info", 0), ("info,classifyd::access=debug", 3)] {
        let mut server = Server::start(models.path(), &["--log", log, "--drain-delay", "0s"]);
        for path in ["/livez", "/readyz", "/metrics"] {
            server.get(path).send().await.unwrap();
        }
        server.label("", white_row(0)).await;
        server.signal("TERM");
        server.wait(Duration::from_secs(20));
        server.wait_for_log(&["\"ended\""]).await;
        let lines = access_lines(&server);
        let quiet: Vec<_> = lines.iter().filter(|line| line["level"] == "DEBUG").collect();
        assert_eq!((quiet.len(), lines.len()), (expected, expected + 1), "{lines:#?}");
    }
}

#[tokio::test]
async fn no_log_line_is_lost_at_shutdown() {
    let models = some_models(&["linear"]);
    let mut server = Server::start(models.path(), &["--drain-delay", "0s"]);
    for at in 0..500 {
        server
            .get("/v1/models")
            .header("x-request-id", format!("n-{at}."))
            .send()
            .await
            .unwrap();
    }
    server.signal("TERM");
    assert!(server.wait(Duration::from_secs(20)).success());
    // The last line of the server: later lines in the pipe come from another process.
    server.wait_for_log(&["\"ended\""]).await;
    let lines = access_lines(&server);
    assert_eq!(lines.len(), 500);
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["request_id"], format!("n-{at}."));
    }
}

#[tokio::test]
async fn log_levels_change_while_the_server_runs() {
    let models = some_models(&["linear"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("log = \"info\"\naccess_log = \"errors\"");
    let server = Server::start(models.path(), &["--config", file.to_str().unwrap()]);
    let send_request = async |path: &str, id: &str| {
        server.get(path).header("x-request-id", id).send().await.unwrap();
    };
    send_request("/v1/models", "first-good").await;
    send_request("/nowhere", "first-bad").await;
    lines(&server, "first-bad").await;

    write("log = \"info,classifyd::access=debug\"\naccess_log = \"on\"");
    server.signal("HUP");
    server.wait_for_log(&["reloaded"]).await;
    send_request("/livez", "second-probe").await;
    assert_eq!(lines(&server, "second-probe").await[0]["level"], "DEBUG");

    // An invalid file changes nothing.
    write("log = \"info,classifyd=loud\"\naccess_log = \"off\"");
    server.signal("HUP");
    server.wait_for_log(&["reload failed", "loud"]).await;
    send_request("/livez", "third-probe").await;
    lines(&server, "third-probe").await;
    write("acess_log = \"off\"");
    server.signal("HUP");
    server.wait_for_log(&["reload failed", "acess_log"]).await;

    write("access_log = \"off\"");
    server.signal("HUP");
    server.wait_for_log(&["log levels", "Off"]).await;
    send_request("/nowhere", "fourth-bad").await;
    // Another filter, so that its log line differs from the earlier ones.
    write("log = \"info,ort=error\"\naccess_log = \"on\"");
    server.signal("HUP");
    server.wait_for_log(&["log levels", "ort=error"]).await;
    // Both lines exist once the later one does.
    send_request("/v1/models", "fifth-good").await;
    lines(&server, "fifth-good").await;
    let log = server.log();
    for absent in ["first-good", "fourth-bad"] {
        assert!(
            !log.iter().any(|line| line.contains(absent)),
            "{absent}: {log:#?}"
        );
    }
    server.label("", white_row(0)).await;
}

#[tokio::test]
async fn a_blocked_log_drops_lines_and_no_request() {
    use std::io::Read as _;
    use std::process::Stdio;

    let models = some_models(&["linear"]);
    // A pipe that nobody reads after the server is ready.
    let mut child = crate::harness::classifyd()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--log",
            "trace",
            "--models",
        ])
        .arg(models.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut log = Vec::new();
    let address = loop {
        let mut bytes = [0; 4096];
        let length = stderr.read(&mut bytes).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&log));
        log.extend_from_slice(&bytes[..length]);
        let text = String::from_utf8_lossy(&log);
        if let Some((_, rest)) = text.split_once("\"message\":\"ready\",\"address\":\"")
            && let Some((address, _)) = rest.split_once('"')
        {
            break address.to_owned();
        }
    };
    let client = reqwest::Client::new();
    let get = async |path: &str| {
        let response = client.get(format!("http://{address}{path}"));
        let response = response
            .header("x-request-id", "x".repeat(128))
            .send()
            .await
            .unwrap();
        response.text().await.unwrap()
    };
    let mut dropped = 0.0;
    for _ in 0..40 {
        // At most about 12 MB of lines.
        for _ in 0..1000 {
            get("/livez").await;
        }
        let metrics = crate::harness::Metrics(get("/metrics").await);
        dropped = metrics.get("classifyd_log_lines_dropped_total").unwrap();
        if dropped > 0.0 {
            break;
        }
    }
    assert!(dropped > 0.0);
    // It still shuts down on SIGTERM.
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let started = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
}
