//! More load than the server can handle, and clients that disconnect.

use std::time::{Duration, Instant};

use crate::harness::{NARROW, Server, ok, problem, some_models, square, white_row};

#[tokio::test]
async fn a_full_queue_rejects_immediately_and_recovers() {
    let models = some_models(&["slow"]);
    let server = Server::start(models.path(), &NARROW);
    let slow = || tokio::spawn(server.send_png("", square(255)).send());
    // One runs, two wait.
    let first = slow();
    server
        .wait_for_metric("classifyd_batch_size_count{model=\"slow\"}", 1.0)
        .await;
    let waiting = [slow(), slow()];
    server.wait_for_queue("slow", 2.0).await;

    let refused = problem(server.send_png("", square(255)).send().await.unwrap()).await;
    assert_eq!(refused["code"], "queue_full");
    assert!(
        waiting.iter().all(|request| !request.is_finished()),
        "it was refused before those were run"
    );
    let rejected = server
        .metrics()
        .await
        .get("classifyd_rejected_total{model=\"slow\",reason=\"queue_full\"}");
    assert_eq!(rejected, Some(1.0));

    ok(first.await.unwrap().unwrap()).await;
    for waiting in waiting {
        ok(waiting.await.unwrap().unwrap()).await;
    }
    assert_eq!(server.label("", white_row(1)).await, "b");
}

#[tokio::test]
async fn a_deadline_holds_while_the_lane_is_busy() {
    let models = some_models(&["hang"]);
    let server = Server::start(models.path(), &NARROW);
    let started = Instant::now();
    let expired = problem(
        server
            .send_png("?timeout_ms=300", square(255))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(expired["code"], "deadline_exceeded");
    let elapsed = started.elapsed();
    assert!(
        elapsed >= Duration::from_millis(300) && elapsed < Duration::from_secs(2),
        "{elapsed:?}"
    );
    // The run would have taken a minute. It was interrupted, because no client waited for it.
    assert_eq!(server.label("?timeout_ms=5000", square(0)).await, "a");
}

#[tokio::test]
async fn a_request_that_expires_in_the_queue_gets_an_error_and_never_runs() {
    let models = some_models(&["slow"]);
    let server = Server::start(models.path(), &NARROW);
    let first = server.occupy_lane("slow").await;
    let expired = problem(
        server
            .send_png("?timeout_ms=20", square(255))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(expired["code"], "deadline_exceeded");
    ok(first.await.unwrap().unwrap()).await;
    assert_eq!(server.label("", white_row(1)).await, "b");
    assert_eq!(
        server
            .metrics()
            .await
            .get("classifyd_batch_size_count{model=\"slow\"}"),
        Some(2.0),
        "the first and the last"
    );
}

#[tokio::test]
async fn images_of_a_disconnected_client_are_not_decoded() {
    let models = some_models(&["hang"]);
    let server = Server::start(models.path(), &NARROW);
    let running = server.occupy_lane("hang").await;
    let waiting = tokio::spawn(server.send_png("", square(255)).send());
    server.wait_for_queue("hang", 1.0).await;
    // Both clients close their connections.
    waiting.abort();
    server.wait_for_queue("hang", 0.0).await;
    running.abort();
    // The run would take a minute, so a response to the next request proves that it was
    // interrupted.
    assert_eq!(server.label("?timeout_ms=10000", square(0)).await, "a");
}

#[tokio::test]
async fn inputs_that_wait_together_run_in_one_batch() {
    let models = some_models(&["slow"]);
    let server = Server::start(models.path(), &["--lanes", "1"]);
    let first = server.occupy_lane("slow").await;
    let waiting: Vec<_> = (0..8)
        .map(|_| tokio::spawn(server.send_png("", white_row(1)).send()))
        .collect();
    ok(first.await.unwrap().unwrap()).await;
    for waiting in waiting {
        assert_eq!(
            ok(waiting.await.unwrap().unwrap()).await["results"][0]["label"],
            "b"
        );
    }
    let metrics = server.metrics().await;
    assert_eq!(metrics.get("classifyd_batch_size_sum{model=\"slow\"}"), Some(9.0));
    let batches = metrics.get("classifyd_batch_size_count{model=\"slow\"}").unwrap();
    assert!(batches < 9.0, "{batches} batches for 9 pictures");
}

#[tokio::test]
async fn a_request_runs_before_requests_of_lower_priority() {
    let models = some_models(&["slow"]);
    let server = Server::start(models.path(), &["--lanes", "1", "--max-batch", "1"]);
    let busy = server.occupy_lane("slow").await;
    let low: Vec<_> = (0..3)
        .map(|_| tokio::spawn(server.send_png("?priority=low", square(255)).send()))
        .collect();
    server.wait_for_queue("slow", 3.0).await;
    ok(server.send_png("", square(0)).send().await.unwrap()).await;
    assert!(low.iter().filter(|request| request.is_finished()).count() <= 1);
    ok(busy.await.unwrap().unwrap()).await;
    for request in low {
        ok(request.await.unwrap().unwrap()).await;
    }
}

#[tokio::test]
async fn a_busy_model_does_not_starve_another() {
    let models = some_models(&["linear", "slow"]);
    let server = Server::start(models.path(), &["--lanes", "2", "--max-batch", "1"]);
    // Several seconds of work for all lanes of the slow model.
    let busy: Vec<_> = (0..20)
        .map(|_| tokio::spawn(server.send_png("?model=slow", square(255)).send()))
        .collect();
    server.wait_for_queue("slow", 18.0).await;
    for _ in 0..10 {
        assert_eq!(server.label("?model=linear", white_row(1)).await, "b");
    }
    assert!(
        server
            .metrics()
            .await
            .get("classifyd_queue_depth{model=\"slow\"}")
            .unwrap()
            > 0.0
    );
    for request in busy {
        request.abort();
    }
}

#[tokio::test]
async fn probes_answer_while_every_lane_is_busy_and_the_queue_is_full() {
    let models = some_models(&["hang"]);
    let server = Server::start(models.path(), &NARROW);
    let mut busy = vec![tokio::spawn(server.send_png("", square(255)).send())];
    server
        .wait_for_metric("classifyd_batch_size_count{model=\"hang\"}", 1.0)
        .await;
    for _ in 0..2 {
        busy.push(tokio::spawn(server.send_png("", square(255)).send()));
    }
    server.wait_for_queue("hang", 2.0).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        let response = server
            .get(path)
            .timeout(Duration::from_secs(2))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
    for request in busy {
        request.abort();
    }
}
