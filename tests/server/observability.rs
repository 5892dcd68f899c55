//! What operators can observe.

use crate::harness::{Server, fixture_models, problem, square, white_row};

#[tokio::test]
async fn metrics_count_requests_batches_and_errors() {
    let server = Server::start(&fixture_models(), &[]);
    for row in [0, 1, 1] {
        server.label("?model=linear", white_row(row)).await;
    }
    problem(
        server
            .send_png("?model=linear", b"no picture".to_vec())
            .send()
            .await
            .unwrap(),
    )
    .await;
    problem(server.send_png("?model=fails", square(255)).send().await.unwrap()).await;
    server.get("/nowhere").send().await.unwrap();

    let metrics = server.metrics().await;
    let classify = "route=\"/v1/classify\"";
    for (series, value) in [
        (
            "classifyd_http_requests_total{method=\"POST\",route=\"/v1/classify\",status=\"200\"}".to_owned(),
            3.0,
        ),
        (
            "classifyd_http_requests_total{method=\"POST\",route=\"/v1/classify\",status=\"422\"}".to_owned(),
            1.0,
        ),
        (
            "classifyd_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"}".to_owned(),
            1.0,
        ),
        (
            format!("classifyd_http_request_duration_seconds_count{{{classify}}}"),
            5.0,
        ),
        ("classifyd_batch_size_sum{model=\"linear\"}".to_owned(), 3.0),
        (
            "classifyd_predictions_total{label=\"a\",model=\"linear\"}".to_owned(),
            1.0,
        ),
        (
            "classifyd_predictions_total{label=\"b\",model=\"linear\"}".to_owned(),
            2.0,
        ),
        (
            "classifyd_predictions_total{label=\"c\",model=\"linear\"}".to_owned(),
            0.0,
        ),
        (
            "classifyd_rejected_total{model=\"linear\",reason=\"invalid_image\"}".to_owned(),
            1.0,
        ),
        (
            "classifyd_inference_failures_total{model=\"fails\"}".to_owned(),
            1.0,
        ),
        ("classifyd_queue_depth{model=\"linear\"}".to_owned(), 0.0),
        (
            "classifyd_model_info{model=\"linear\",provider=\"cpu\",version=\"1\"}".to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(metrics.get(&series), Some(value), "{series}\n{}", metrics.0);
    }
    for stage in ["decode", "queue", "inference", "postprocess"] {
        let series = format!("classifyd_stage_duration_seconds_count{{model=\"linear\",stage=\"{stage}\"}}");
        assert_eq!(metrics.get(&series), Some(3.0), "{series}");
    }
    assert!(metrics.get("process_resident_memory_bytes").unwrap() > 1e6);
    assert!(metrics.get("process_open_fds").unwrap() > 3.0);
}

#[tokio::test]
async fn a_client_cannot_create_metric_series() {
    let server = Server::start(&fixture_models(), &[]);
    server.label("?model=linear", white_row(0)).await;
    let series = |text: &str| text.lines().filter(|line| line.starts_with("classifyd_")).count();
    server.get("/first").send().await.unwrap();
    server.send_png("?model=first", square(0)).send().await.unwrap();
    server.metrics().await;
    let before = series(&server.metrics().await.0);
    for at in 0..20 {
        server.get(&format!("/path/{at}")).send().await.unwrap();
        server
            .send_png(&format!("?model=m{at}"), square(0))
            .send()
            .await
            .unwrap();
    }
    assert_eq!(series(&server.metrics().await.0), before);
}
