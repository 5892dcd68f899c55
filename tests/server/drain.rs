//! How the server shuts down.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{
    SIGTERM, Server, classifyd, ok, problem, shipped_models, some_models, square, wait_for_signals, white_row,
};
use crate::hostile_images::flat_webp;

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn sigterm_finishes_requests_in_flight_and_exits_with_0() {
    let models = some_models(&["slow"]);
    let mut server = Server::start(models.path(), &["--lanes", "1", "--drain-delay", "0s"]);
    let in_flight: Vec<_> = (0..3)
        .map(|_| tokio::spawn(server.send_png("", square(255)).send()))
        .collect();
    server
        .wait_for_metric("classifyd_batch_size_count{model=\"slow\"}", 1.0)
        .await;
    server.signal("TERM");
    for request in in_flight {
        ok(request.await.unwrap().unwrap()).await;
    }
    assert_eq!(server.wait(LIMIT).code(), Some(0));
}

#[tokio::test]
async fn the_server_is_not_ready_but_still_serves_during_the_drain_delay() {
    let models = some_models(&["linear"]);
    let mut server = Server::start(models.path(), &["--drain-delay", "3s"]);
    assert_eq!(server.get("/readyz").send().await.unwrap().status(), 200);
    server.signal("TERM");
    let started = Instant::now();
    loop {
        let response = server.get("/readyz").send().await.unwrap();
        if response.status() == 503 {
            assert_eq!(
                response.headers()["connection"],
                "close",
                "clients are asked to leave"
            );
            assert_eq!(problem(response).await["code"], "draining");
            break;
        }
        assert!(started.elapsed() < Duration::from_millis(2800));
    }
    assert_eq!(server.get("/livez").send().await.unwrap().status(), 200);
    assert_eq!(server.label("", white_row(1)).await, "b");
    assert_eq!(server.wait(LIMIT).code(), Some(0));
    assert!(
        started.elapsed() >= Duration::from_millis(2800),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn sigint_skips_the_drain_delay() {
    let models = some_models(&["linear"]);
    let mut server = Server::start(models.path(), &["--drain-delay", "1m"]);
    server.signal("INT");
    assert_eq!(server.wait(LIMIT).code(), Some(0));
    let draining = ["draining: no longer ready", "\"delay\":\"0ns\""];
    server.wait_for_log(&draining).await;
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_delay_early() {
    let models = some_models(&["linear"]);
    let mut server = Server::start(models.path(), &["--drain-delay", "1m"]);
    server.signal("TERM");
    while server.get("/readyz").send().await.unwrap().status() == 200 {}
    server.signal("TERM");
    assert_eq!(server.wait(LIMIT).code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_grace_early() {
    let models = some_models(&["hang"]);
    let options = [
        "--drain-delay",
        "0s",
        "--grace",
        "1m",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let mut server = Server::start(models.path(), &options);
    let running = server.occupy_lane("hang").await;
    server.signal("TERM");
    server.wait_for_log(&["listener closed"]).await;
    assert!(!running.is_finished());
    // Orchestrators still send probes.
    let ready = format!("http://{}/readyz", server.admin_address.unwrap());
    assert_eq!(
        problem(server.client.get(ready).send().await.unwrap()).await["code"],
        "draining"
    );
    server.signal("TERM");
    assert_eq!(problem(running.await.unwrap().unwrap()).await["code"], "draining");
    assert_eq!(server.wait(LIMIT).code(), Some(0));
}

#[test]
fn sigterm_during_startup_ends_the_server_cleanly() {
    let mut child = classifyd()
        .args(["serve", "--listen", "127.0.0.1:0", "--models"])
        .arg(shipped_models())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for_signals(&mut child, |signals| signals.handled & SIGTERM != 0);
    let process = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn requests_that_do_not_finish_within_grace_fail_with_draining() {
    let models = some_models(&["hang"]);
    let options = [
        "--lanes",
        "1",
        "--max-batch",
        "1",
        "--drain-delay",
        "0s",
        "--grace",
        "300ms",
    ];
    let mut server = Server::start(models.path(), &options);
    let running = server.occupy_lane("hang").await;
    let waiting = tokio::spawn(server.send_png("", square(255)).send());
    server.wait_for_queue("hang", 1.0).await;
    server.signal("TERM");
    for request in [running, waiting] {
        assert_eq!(problem(request.await.unwrap().unwrap()).await["code"], "draining");
    }
    assert_eq!(server.wait(LIMIT).code(), Some(0));
}

#[tokio::test]
async fn a_request_that_is_still_uploading_or_decoding_after_grace_gets_draining() {
    let models = some_models(&["linear"]);
    let options = ["--drain-delay", "0s", "--grace", "300ms"];
    let mut server = Server::start(models.path(), &options);
    let mut upload = TcpStream::connect(server.address).unwrap();
    let head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n";
    upload.write_all(head.as_bytes()).unwrap();
    upload.write_all(&[0; 10]).unwrap();
    // More images than the pool decodes in a second.
    let form = (0..16).fold(reqwest::multipart::Form::new(), |form, _| {
        let part = reqwest::multipart::Part::bytes(flat_webp(4000, 4000));
        form.part("image", part.mime_str("image/webp").unwrap())
    });
    let images = tokio::spawn(server.post("").multipart(form).send());
    let started = Instant::now();
    while server.metrics().await.get("classifyd_decode_running") == Some(0.0) {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    server.signal("TERM");
    assert_eq!(problem(images.await.unwrap().unwrap()).await["code"], "draining");
    let mut answer = String::new();
    upload.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    upload.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\"code\":\"draining\""), "{answer}");
    assert_eq!(server.wait(LIMIT).code(), Some(0));
}

#[test]
fn every_upload_still_in_progress_after_grace_gets_draining() {
    let models = some_models(&["linear"]);
    let options = ["--drain-delay", "0s", "--grace", "500ms"];
    let mut server = Server::start(models.path(), &options);
    let uploads: Vec<_> = [
        ("", "image/png"),
        ("", "application/json"),
        ("?model=nope", "text/plain"),
        // Already rejected, but the server reads the rest of the body first.
        ("?topk=3", "image/png"),
        ("", "image/tiff"),
    ]
    .into_iter()
    .map(|(query, content_type)| {
        let mut upload = TcpStream::connect(server.address).unwrap();
        write!(
            upload,
            "POST /v1/classify{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: 900000\r\n\r\n"
        )
        .unwrap();
        std::thread::spawn(move || {
            upload.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut answer = Vec::new();
            // Reads until the server closes the connection.
            loop {
                let sent = upload.write_all(&[b'x'; 100]);
                match upload.read_to_end(&mut answer) {
                    Err(error) if sent.is_ok() && error.kind() == ErrorKind::WouldBlock => {}
                    _ => break,
                }
            }
            (query, content_type, String::from_utf8(answer).unwrap())
        })
    })
    .collect();
    std::thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    for upload in uploads {
        let (query, content_type, answer) = upload.join().unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":\"draining\""),
            "{query} {content_type}: {answer}"
        );
    }
    assert_eq!(server.wait(LIMIT).code(), Some(0));
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_shutdown() {
    let models = some_models(&["linear"]);
    let mut server = Server::start(models.path(), &["--drain-delay", "0s"]);
    // The client keeps its connection open for another request.
    assert_eq!(server.label("", white_row(1)).await, "b");
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(3)).code(), Some(0));
}
