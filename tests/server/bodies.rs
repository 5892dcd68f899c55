//! The memory that bodies use, and how much of a request errors quote.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};

use crate::harness::{Server, ok, problem, some_models, white_row};

fn linear(options: &[&str]) -> Server {
    let models = some_models(&["linear"]);
    Server::start(models.path(), options)
}

/// Opens a connection and sends the request head of a classification.
fn begin(server: &Server, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n{header}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn status(stream: &mut TcpStream) -> String {
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[9..]).into_owned()
}

/// Sends an image from another address.
async fn send_from_elsewhere(server: &Server, image: Vec<u8>) -> reqwest::Response {
    let client = reqwest::Client::builder()
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .build()
        .unwrap();
    let request = client
        .post(format!("http://{}/v1/classify", server.address))
        .header(CONTENT_TYPE, "image/png")
        .body(image);
    request.send().await.unwrap()
}

#[tokio::test]
async fn errors_quote_at_most_a_hundred_characters_of_a_request() {
    let server = linear(&[]);
    // Escaping turns this into eight characters.
    let long = "\u{200b}".repeat(1_000_000);
    let json = |body: String| {
        server
            .post("")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
    };
    let form = |name: String, value: String| {
        let form =
            reqwest::multipart::Form::new().part("image", reqwest::multipart::Part::bytes(white_row(1)));
        server.post("").multipart(form.text(name, value))
    };
    let path = "é".repeat(2_000);
    for (what, request) in [
        ("model", json(format!(r#"{{"inputs": "a", "model": "{long}"}}"#))),
        ("key", json(format!(r#"{{"inputs": "a", "{long}": 1}}"#))),
        (
            "key of an input",
            json(format!(r#"{{"inputs": [{{"{long}": 1}}]}}"#)),
        ),
        ("top_k", json(format!(r#"{{"inputs": "a", "top_k": "{long}"}}"#))),
        (
            "priority",
            json(format!(r#"{{"inputs": "a", "priority": "{long}"}}"#)),
        ),
        ("inputs", json(format!(r#"{{"inputs": 1, "{long}": 2}}"#))),
        ("part's name", form(long.clone(), "1".into())),
        ("part model", form("model".into(), long.clone())),
        ("part top_k", form("top_k".into(), long.clone())),
        ("part priority", form("priority".into(), long.clone())),
        ("query", server.send_png(&format!("?{path}=1"), white_row(1))),
        (
            "query model",
            server.send_png(&format!("?model={path}"), white_row(1)),
        ),
        (
            "content type",
            server
                .post("")
                .header(CONTENT_TYPE, "x/".to_owned() + &"y".repeat(3_000))
                .body("x"),
        ),
        ("path", server.get(&format!("/{path}"))),
        ("model's path", server.get(&format!("/v1/models/{path}"))),
        ("asset", server.get(&format!("/assets/{path}"))),
    ] {
        let answer = request.send().await.unwrap();
        let length = answer.content_length().unwrap();
        assert!(length < 2_500, "{what}: {length} bytes");
        let answer = problem(answer).await;
        let detail = answer["detail"].as_str().unwrap();
        let repeated = detail.matches("200b").count().max(detail.matches('é').count());
        assert!(repeated <= 100, "{what}: {repeated} in {detail}");
    }
    ok(server.send_png("", white_row(1)).send().await.unwrap()).await;
}

#[tokio::test]
async fn a_body_in_one_byte_chunks_takes_memory_for_its_length_only() {
    const LENGTH: usize = 1024 * 1024;
    let server = linear(&["--request-timeout", "2m"]);
    let before = server.peak_memory();
    let mut stream = begin(&server, "Transfer-Encoding: chunked");
    let chunks = b"1\r\nx\r\n".repeat(16 * 1024);
    for _ in 0..LENGTH / (16 * 1024) {
        stream.write_all(&chunks).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(status(&mut stream), "422");
    let added = server.peak_memory() - before;
    // Stored separately, the chunks would need 39 bytes each: 39 MiB.
    assert!(added < 16.0, "{added} MiB for a body of 1 MiB");
}

#[tokio::test]
async fn bodies_beyond_their_memory_budget_are_rejected_and_the_next_request_works() {
    let server = linear(&["--max-body", "2 MiB", "--body-memory", "4 MiB"]);
    let part = vec![0; 1024 * 1024];
    let mut slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = begin(&server, "Content-Length: 2097152");
            // The server may close the connection before all of a rejected body is written.
            let _ = stream.write_all(&part);
            stream
        })
        .collect();
    // Rejected requests get their response at once; the others wait for the rest of their bodies.
    let mut refused = 0;
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer[9..], b"503");
            refused += 1;
        }
    }
    assert!((4..8).contains(&refused), "{refused} of 8 were refused");
    // The server may close the connection before the client has sent everything, so there may be no
    // response.
    let answer = loop {
        let long = server
            .post("")
            .header(CONTENT_TYPE, "image/png")
            .body(vec![0; 2 * 1024 * 1024]);
        if let Ok(answer) = long.send().await {
            break answer;
        }
    };
    assert!(answer.headers().contains_key(RETRY_AFTER));
    let answer = problem(answer).await;
    assert_eq!(answer["code"], "queue_full");
    assert!(
        answer["detail"].as_str().unwrap().contains("4194304 bytes"),
        "{answer}"
    );
    // A request of another client still fits.
    ok(send_from_elsewhere(&server, white_row(1)).await).await;

    drop(slow);
    let begun = std::time::Instant::now();
    loop {
        let long = server
            .post("")
            .header(CONTENT_TYPE, "image/png")
            .body(vec![0; 2 * 1024 * 1024]);
        let Ok(answer) = long.send().await else { continue };
        let answer = problem(answer).await;
        if answer["code"] == "invalid_image" {
            break;
        }
        assert_eq!(answer["code"], "queue_full", "{answer}");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "the memory was not given back"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn inputs_that_no_model_accepts_are_counted_and_not_kept() {
    let server = linear(&[]);
    let before = server.peak_memory();
    let many = format!(r#"{{"inputs": [{}""]}}"#, r#""","#.repeat(4_999_999));
    let request = server
        .post("")
        .header(CONTENT_TYPE, "application/json")
        .body(many);
    let answer = problem(request.send().await.unwrap()).await;
    assert_eq!(answer["code"], "too_many_inputs");
    assert_eq!(answer["detail"], "inputs: expected at most 65536, found 5000000");
    let added = server.peak_memory() - before;
    // Stored, the inputs would need 64 bytes each besides the body's 15 MB.
    assert!(added < 150.0, "{added} MiB");
}

#[tokio::test]
async fn request_heads_stay_within_their_memory_limit() {
    const CONNECTIONS: usize = 400;
    let server = linear(&[]);
    let before = server.memory();
    let head = format!(
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: {}",
        "a".repeat(15 * 1024)
    );
    let open: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    // One more connection for the scrape.
    server
        .wait_for_metric("classifyd_connections", (CONNECTIONS + 1) as f64)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let each = (server.memory() - before) * 1024.0 / CONNECTIONS as f64;
    // 16 KiB for the request head and 16 KiB of state, as --print-config counts them.
    assert!(each < 32.0, "{each} KiB a connection");
    println!("{each:.1} KiB a connection");
    drop(open);

    let mut long = TcpStream::connect(server.address).unwrap();
    long.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    long.write_all(head.as_bytes()).unwrap();
    long.write_all(&vec![b'a'; 2 * 1024]).unwrap();
    assert_eq!(status(&mut long), "431");
}

#[tokio::test]
async fn one_client_cannot_use_up_the_memory_for_bodies() {
    let server = linear(&["--max-body", "2 MiB", "--body-memory", "8 MiB"]);
    // Sends all but the last byte of each, so that the server must keep the rest.
    let part = vec![0; 2 * 1024 * 1024 - 1];
    let greedy: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = begin(&server, "Content-Length: 2097152");
            let _ = stream.write_all(&part);
            stream
        })
        .collect();
    let used = "classifyd_body_memory_bytes";
    let full = 4.0 * 1024.0 * 1024.0;
    while server.metrics().await.get(used).unwrap() < full {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..5 {
        let answer = send_from_elsewhere(&server, vec![0; 1024 * 1024]).await;
        // The server has read all of the body, which is not an image.
        assert_eq!(answer.status(), 422);
    }
    drop(greedy);
}

#[tokio::test]
async fn clients_with_photographs_stay_within_the_memory_for_bodies() {
    const CLIENTS: usize = 256;
    let server = linear(&["--body-memory", "32 MiB"]);
    let before = server.peak_memory();
    let part = vec![0; 1_300_000];
    // None of these bodies is complete, so the server must keep what it has received.
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = begin(&server, "Content-Length: 1400000");
            let _ = stream.write_all(&part);
            stream
        })
        .collect();
    ok(send_from_elsewhere(&server, white_row(1)).await).await;
    let mut statuses = std::collections::BTreeMap::new();
    for stream in &mut clients {
        let _ = stream.write_all(&vec![0; 100_000]);
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            let status = String::from_utf8_lossy(&answer[9..]).into_owned();
            *statuses.entry(status).or_insert(0) += 1;
        }
    }
    assert!(statuses.contains_key("503"), "{statuses:?}");
    assert!(statuses.contains_key("422"), "{statuses:?}");
    let added = server.peak_memory() - before;
    // Besides the bodies: request heads, buffers of the connections, and the allocator's reserve.
    assert!(added < 160.0, "{added} MiB");
    println!("{added:.1} MiB for {CLIENTS} bodies of 1.4 MB, {statuses:?}");
    ok(send_from_elsewhere(&server, white_row(1)).await).await;
}
