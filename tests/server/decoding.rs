//! Decoding stays within its threads and memory, for every input and after clients disconnect.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;

use crate::harness::{Server, ok, problem, shipped_models, some_models, white_row};
use crate::hostile_images::{
    flat_webp, gif_of_large_frame, png_of_empty_blocks, png_with, webp_of_large_bitstream, zeros,
};

/// 33 million pixels, the default limit.
fn large_webp() -> Vec<u8> {
    let image = flat_webp(16_383, 2048);
    assert_eq!(image.len(), 28);
    image
}

fn count(threads: &[String], name: &str) -> usize {
    threads.iter().filter(|thread| *thread == name).count()
}

async fn decoded(server: &Server) {
    server.wait_for_metric("classifyd_decode_waiting", 0.0).await;
    server.wait_for_metric("classifyd_decode_running", 0.0).await;
}

#[tokio::test]
async fn images_of_disconnected_clients_keep_their_decoding_permits_until_done() {
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
            .body(flat_webp(2048, 2048));
        if at % 2 == 0 {
            let problem = problem(request.send().await.unwrap()).await;
            assert!(
                problem["code"] == "deadline_exceeded" || problem["code"] == "queue_full",
                "{problem}"
            );
        } else {
            // Closes the connection while the image is being decoded.
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
    // Each needs 37 MiB while it is decoded.
    let grown = server.peak_memory() - memory;
    assert!(grown < 60.0 * cpus as f64, "{grown} MiB");
}

#[tokio::test]
async fn large_images_hidden_in_small_files_are_not_decoded() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    assert_eq!(server.label("", white_row(1)).await, "b");
    let memory = server.memory();
    let hidden = zeros(500_000_000);
    assert!(hidden.len() < 4_000_000, "{}", hidden.len());
    let text = |before: &[u8]| [before, &hidden].concat();
    let profile = [(b"iCCP", text(b"profile\0\0"))];
    let texts = [
        (b"zTXt", text(b"Raw profile type iptc\0\0")),
        (b"iTXt", text(b"XML:com.adobe.xmp\0\x01\0\0\0")),
    ];
    let more_pixels = [(b"IDAT", hidden.clone())];
    let cases = [
        ("png, a profile of 500 MB", png_with(4, &profile, &[]), 200),
        ("png, two texts of 500 MB", png_with(4, &texts, &[]), 200),
        (
            "png, 500 MB after the pixels",
            png_with(4, &[], &more_pixels),
            200,
        ),
        ("gif", gif_of_large_frame((4, 4), (11_585, 11_585)), 422),
        ("webp", webp_of_large_bitstream((4, 4), (16_383, 16_383)), 422),
    ];
    for (name, image, status) in cases {
        let response = server.post("").body(image).header(CONTENT_TYPE, "image/png");
        let response = response.send().await.unwrap();
        if status == 200 {
            ok(response).await;
        } else {
            let problem = problem(response).await;
            assert_eq!(problem["code"], "image_too_large", "{name}: {problem}");
        }
        let grown = server.peak_memory() - memory;
        assert!(grown < 50.0, "{name}: {grown} MiB");
        assert_eq!(server.label("", white_row(1)).await, "b", "after {name}");
    }
}

#[tokio::test]
async fn images_being_decoded_share_a_memory_budget() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--decode-memory", "64MiB"]);
    assert_eq!(
        server.metrics().await.get("classifyd_decode_memory_limit_bytes"),
        Some(64.0 * 1024.0 * 1024.0)
    );
    let memory = server.memory();
    let webp = |image| server.post("").header(CONTENT_TYPE, "image/webp").body(image);
    let refused = problem(webp(large_webp()).send().await.unwrap()).await;
    assert_eq!(refused["code"], "image_too_large", "{refused}");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .starts_with("body: expected an image that takes at most"),
        "{refused}"
    );
    // Each needs about 36 MiB, so only one is decoded at a time.
    let requests: Vec<_> = (0..4)
        .map(|_| tokio::spawn(webp(flat_webp(2048, 2048)).send()))
        .collect();
    for request in requests {
        ok(request.await.unwrap().unwrap()).await;
    }
    let grown = server.peak_memory() - memory;
    assert!(grown < 80.0, "{grown} MiB");
    decoded(&server).await;
    assert_eq!(
        server.metrics().await.get("classifyd_decode_memory_bytes"),
        Some(0.0)
    );
}

#[tokio::test]
async fn the_images_of_one_request_share_a_limit() {
    let models = some_models(&["linear"]);
    let options = ["--max-request-pixels", "50000", "--max-image-pixels", "40000"];
    let server = Server::start(models.path(), &options);
    let form = |count: usize| {
        let part = || {
            let part = reqwest::multipart::Part::bytes(flat_webp(200, 200));
            part.file_name("picture.webp").mime_str("image/webp").unwrap()
        };
        let form = (0..count).fold(reqwest::multipart::Form::new(), |form, _| {
            form.part("image", part())
        });
        server.post("").multipart(form).send()
    };
    ok(form(1).await.unwrap()).await;
    let refused = problem(form(2).await.unwrap()).await;
    assert_eq!(refused["code"], "image_too_large", "{refused}");
    assert_eq!(
        refused["detail"],
        "inputs: expected at most 50000 pixels in all images together, found 80000"
    );
}

/// Requests with many large images wait for each other, but occupy neither the queue nor the pool
/// meanwhile.
#[tokio::test]
async fn images_waiting_to_be_decoded_leave_room_for_small_ones() {
    let models = some_models(&["linear"]);
    let options = [
        "--queue-capacity",
        "32",
        "--max-batch",
        "16",
        "--request-timeout",
        "20s",
    ];
    let server = Server::start(models.path(), &options);
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let part = || {
                let part = reqwest::multipart::Part::bytes(flat_webp(2048, 2048));
                part.file_name("picture.webp").mime_str("image/webp").unwrap()
            };
            let form = (0..16).fold(reqwest::multipart::Form::new(), |form, _| {
                form.part("image", part())
            });
            tokio::spawn(server.post("").multipart(form).send())
        })
        .collect();
    let started = std::time::Instant::now();
    while server.metrics().await.get("classifyd_decode_running") == Some(0.0) {
        assert!(started.elapsed() < Duration::from_secs(20), "nothing is decoded");
    }
    for _ in 0..20 {
        assert_eq!(server.label("", white_row(1)).await, "b");
    }
    assert_ne!(server.metrics().await.get("classifyd_decode_running"), Some(0.0));
    for request in flood {
        request.abort();
    }
    decoded(&server).await;
    assert_eq!(server.label("", white_row(1)).await, "b");
}

/// Waits until an image is being decoded.
async fn decoding(server: &Server) {
    let started = std::time::Instant::now();
    while server.metrics().await.get("classifyd_decode_running") == Some(0.0) {
        assert!(started.elapsed() < Duration::from_secs(20), "nothing is decoded");
    }
}

#[tokio::test]
async fn a_small_image_in_a_large_file_is_decoded_in_the_pool() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let image = png_of_empty_blocks(96, 3_000_000);
    assert!(image.len() > 15_000_000, "{}", image.len());
    let request = tokio::spawn(server.send_png("", image).send());
    // Fails if a thread that serves connections decodes the image.
    decoding(&server).await;
    assert_eq!(server.label("", white_row(1)).await, "b");
    ok(request.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn probes_and_small_requests_are_answered_while_hostile_images_are_decoded() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--admin-listen", "127.0.0.1:0"]);
    let admin = server.admin_address.unwrap();
    let cases = [large_webp(), png_of_empty_blocks(96, 3_000_000)];
    let flood: Vec<_> = (0..12)
        .map(|at| tokio::spawn(server.send_png("", cases[at % 2].clone()).send()))
        .collect();
    decoding(&server).await;
    let mut answered = 0;
    while answered < 10 {
        let livez = server.client.get(format!("http://{admin}/livez"));
        assert_eq!(livez.send().await.unwrap().status(), 200);
        assert_eq!(server.get("/openapi.json").send().await.unwrap().status(), 200);
        assert_eq!(server.label("", white_row(1)).await, "b");
        answered += 1;
    }
    let running = server.metrics().await.get("classifyd_decode_running").unwrap();
    assert!(
        running > 0.0,
        "the pictures were decoded before {answered} answers"
    );
    for request in flood {
        request.abort();
    }
    decoded(&server).await;
    assert_eq!(server.label("", white_row(1)).await, "b");
}

#[tokio::test]
async fn an_image_that_expires_while_waiting_to_be_decoded_is_answered_immediately() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let webp = |query: &str, image| {
        let request = server.post(query).header(CONTENT_TYPE, "image/webp");
        request.body(image).send()
    };
    let flood: Vec<_> = (0..8).map(|_| tokio::spawn(webp("", large_webp()))).collect();
    // All of them are being decoded or waiting.
    let in_line = async || {
        let metrics = server.metrics().await;
        let value = |series| metrics.get(series).unwrap();
        value("classifyd_decode_running") + value("classifyd_decode_waiting")
    };
    let started = std::time::Instant::now();
    while in_line().await < 6.0 {
        assert!(started.elapsed() < Duration::from_secs(20), "{}", in_line().await);
    }
    let expired = problem(webp("?timeout_ms=50", flat_webp(300, 300)).await.unwrap()).await;
    // Rejected immediately, if the decoding time of the others is known by now.
    assert!(
        expired["code"] == "deadline_exceeded" || expired["code"] == "queue_full",
        "{expired}"
    );
    assert!(in_line().await > 0.0, "it was answered after the others");
    for request in flood {
        request.abort();
    }
    decoded(&server).await;
    ok(webp("", flat_webp(300, 300)).await.unwrap()).await;
}

#[tokio::test]
async fn tensor_rows_beyond_their_memory_budget_are_rejected_and_the_next_request_works() {
    // A row of this model needs 12 KiB, so 100 of them exceed the limit.
    let options = ["--queue-memory", "1 MiB", "--max-batch", "100"];
    let server = Server::start(&shipped_models(), &options);
    server
        .wait_for_log(&["less than two batches of this model", "\"images\""])
        .await;
    let form = (0..100).fold(reqwest::multipart::Form::new(), |form, at| {
        // Large enough to take a while: 2 million pixels each.
        let part = reqwest::multipart::Part::bytes(flat_webp(2000, 1000 + at));
        form.part("image", part.mime_str("image/webp").unwrap())
    });
    let large = tokio::spawn(server.post("?model=images").multipart(form).send());
    decoding(&server).await;
    let refused = server
        .send_png("?model=images", white_row(1))
        .send()
        .await
        .unwrap();
    let refused = problem(refused).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&"queue_full".into(), &503.into())
    );
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("queue_memory") && detail.contains("1048576"),
        "{detail}"
    );
    large.abort();
    decoded(&server).await;
    ok(server
        .send_png("?model=images", white_row(1))
        .send()
        .await
        .unwrap())
    .await;
}

#[tokio::test]
async fn small_images_do_not_wait_for_another_clients_large_images() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let address = std::net::IpAddr::from([127, 0, 0, 2]);
    let other = reqwest::Client::builder().local_address(address).build().unwrap();
    // The other client is alone at first. Then it has more images in the pool than it may have
    // while it shares the model.
    assert_eq!(server.label("", white_row(1)).await, "b");
    let alone = other
        .post(server.url("/v1/classify"))
        .header(CONTENT_TYPE, "image/png");
    ok(alone.body(white_row(1)).send().await.unwrap()).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let flood: Vec<_> = (0..60)
        .map(|_| {
            let request = other
                .post(server.url("/v1/classify"))
                .header(CONTENT_TYPE, "image/webp");
            tokio::spawn(request.body(large_webp()).send())
        })
        .collect();
    let started = std::time::Instant::now();
    while server.metrics().await.get("classifyd_decode_waiting").unwrap() < 30.0 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the pictures do not wait"
        );
    }
    for _ in 0..10 {
        assert_eq!(server.label("", white_row(1)).await, "b");
    }
    assert_ne!(server.metrics().await.get("classifyd_decode_waiting"), Some(0.0));
    for request in flood {
        request.abort();
    }
    decoded(&server).await;
}
