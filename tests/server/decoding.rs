//! Decoding stays within its threads and its memory, whatever is sent and whoever has gone.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;

use crate::harness::{Server, problem, some_models, white_row};
use crate::hostile_images::flat_webp;

/// 33 million pixels, as many as are allowed by default.
fn large_webp() -> Vec<u8> {
    let picture = flat_webp(16_383, 2048);
    assert_eq!(picture.len(), 28);
    picture
}

fn count(threads: &[String], name: &str) -> usize {
    threads.iter().filter(|thread| *thread == name).count()
}

async fn decoded(server: &Server) {
    server.wait_for_metric("classifyd_decode_waiting", 0.0).await;
    server.wait_for_metric("classifyd_decode_running", 0.0).await;
}

#[tokio::test]
async fn pictures_whose_clients_wait_no_longer_keep_their_places_in_the_pool() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(server.label("", white_row(1)).await, "b");
    let threads = server.threads();
    assert_eq!(count(&threads, "decode"), cpus + 1);
    let memory = server.memory();

    let mut gone = Vec::new();
    for at in 0..24 {
        let request = server
            .post("?timeout_ms=1")
            .header(CONTENT_TYPE, "image/webp")
            .body(large_webp());
        if at % 2 == 0 {
            let problem = problem(request.send().await.unwrap()).await;
            assert!(
                problem["code"] == "deadline_exceeded" || problem["code"] == "queue_full",
                "{problem}"
            );
        } else {
            // The connection is closed while the picture is being decoded.
            let request = request.timeout(Duration::from_millis(5)).send();
            gone.push(tokio::spawn(request));
        }
    }
    for request in gone {
        let _ = request.await.unwrap();
    }
    let running = server.metrics().await.get("classifyd_decode_running").unwrap();
    assert!(running <= cpus as f64, "{running}");
    assert_eq!(server.label("", white_row(1)).await, "b");
    decoded(&server).await;
    let after = server.threads();
    for name in ["decode", "tokio-rt-worker"] {
        assert_eq!(count(&after, name), count(&threads, name), "{name}: {after:?}");
    }
    let grown = server.peak_memory() - memory;
    assert!(grown < 250.0 * cpus as f64, "{grown} MiB");
}
