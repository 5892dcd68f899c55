//! Connections that are slow, idle or half closed, and requests for another host.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{Server, fixture_models, ok, shipped_models, some_models, square, white_row};

const CONNECTIONS: &str = "classifyd_connections";

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn post(query: &str, image: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/classify{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n",
        image.len()
    );
    [head.as_bytes(), image].concat()
}

/// Reads until the server closes the connection.
fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one response with its body.
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "closed after {} bytes", bytes.len());
        bytes.extend_from_slice(&part[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if bytes.len() >= end + 4 + length.unwrap().parse::<usize>().unwrap() {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let admin = ["--admin-listen", "127.0.0.1:0", "--write-timeout", "1s"];
    let server = Server::start(&shipped_models(), &admin);
    let request = b"GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let deaf: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = connect(&server);
            // More than the socket buffers hold.
            stream.write_all(&request.repeat(40)).unwrap();
            stream
        })
        .collect();
    // A client that keeps reading is not disconnected, however slowly it sends requests.
    let mut reading = connect(&server);
    for _ in 0..3 {
        reading.write_all(request).unwrap();
        assert!(answer(&mut reading).starts_with("HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(reading);
    let begun = Instant::now();
    while server.metrics().await.get(CONNECTIONS).unwrap() > 1.0 {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "the connections stay open"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(deaf);
}

#[test]
fn idle_connections_and_slow_request_heads_have_separate_timeouts() {
    let models = some_models(&["linear"]);
    let patient = ["--header-timeout", "1s", "--keep-alive-timeout", "1m"];
    let server = Server::start(models.path(), &patient);
    let mut stream = connect(&server);
    for _ in 0..2 {
        stream.write_all(&post("", &white_row(1))).unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
        // Longer than the timeout of a request head.
        std::thread::sleep(Duration::from_millis(1500));
    }
    let begun = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nX-Slow: " {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(rest(&mut stream), "");
    assert!(begun.elapsed() < Duration::from_secs(20));

    let hasty = ["--header-timeout", "1m", "--keep-alive-timeout", "1s"];
    let server = Server::start(models.path(), &hasty);
    let (mut fresh, mut used) = (connect(&server), connect(&server));
    used.write_all(&post("", &white_row(1))).unwrap();
    assert!(answer(&mut used).starts_with("HTTP/1.1 200"));
    assert_eq!(
        (rest(&mut fresh), rest(&mut used)),
        (String::new(), String::new())
    );
}

#[tokio::test]
async fn a_body_may_take_longer_than_the_header_timeout() {
    let models = some_models(&["linear"]);
    let limits = ["--header-timeout", "500ms", "--keep-alive-timeout", "500ms"];
    let server = Server::start(models.path(), &limits);
    let mut stream = connect(&server);
    let request = post("", &white_row(1));
    let (most, last) = request.split_at(request.len() - 5);
    stream.write_all(most).unwrap();
    for byte in last {
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_half_closes_its_connection_still_gets_the_response() {
    let models = some_models(&["linear", "slow"]);
    let server = Server::start(models.path(), &[]);
    for (model, image) in [("linear", white_row(1)), ("slow", square(255))] {
        let mut stream = connect(&server);
        stream
            .write_all(&post(&format!("?model={model}"), &image))
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let text = rest(&mut stream);
        let last = text.rfind("HTTP/1.1 ").unwrap();
        assert!(text[last..].starts_with("HTTP/1.1 200"), "{model}: {text}");
        assert!(text.contains("\"results\""), "{model}: {text}");
        // Responses before the close are what any client must expect.
        let interim = text[..last].replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        assert_eq!(interim, "", "{model}");
    }
    // An incomplete body is no request.
    let mut stream = connect(&server);
    let request = post("?model=linear", &white_row(1));
    stream.write_all(&request[..request.len() - 5]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let text = rest(&mut stream);
    assert!(!text.contains("200 OK"), "{text}");
}

#[tokio::test]
async fn queued_work_of_a_disconnected_client_is_dropped() {
    let models = some_models(&["hang"]);
    let server = Server::start(models.path(), &["--request-timeout", "5m"]);
    let mut stream = connect(&server);
    stream.write_all(&post("", &square(255))).unwrap();
    server
        .wait_for_metric("classifyd_http_requests_in_flight", 2.0)
        .await;
    drop(stream);
    // The other connection requests the metrics.
    server
        .wait_for_metric("classifyd_http_requests_in_flight", 1.0)
        .await;
}

#[tokio::test]
async fn a_request_must_name_one_host_that_the_server_accepts() {
    let send_request = |server: &Server, head: &str| {
        let mut stream = connect(server);
        let request = format!("GET {head}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let text = rest(&mut stream);
        let status: u16 = text[9..12].parse().unwrap();
        if status >= 400 {
            for part in ["application/problem+json", "x-request-id: ", "\"code\":"] {
                assert!(text.contains(part), "{head}: {part} in {text}");
            }
        }
        status
    };
    let models = "/v1/models HTTP/1.1";
    let server = Server::start(&fixture_models(), &[]);
    for (head, expected) in [
        (models.to_owned(), 400),
        (format!("{models}\r\nHost: localhost\r\nHost: localhost"), 400),
        (format!("{models}\r\nHost: a b"), 400),
        ("/v1/models/%ff HTTP/1.1\r\nHost: localhost".to_owned(), 400),
        (
            "/v1/models/linear/examples/%ff HTTP/1.1\r\nHost: localhost".to_owned(),
            400,
        ),
        ("/assets/%ff HTTP/1.1\r\nHost: localhost".to_owned(), 400),
        (format!("{models}\r\nHost: user@localhost"), 400),
        (format!("{models}\r\nHost: localhost:8080"), 200),
        (format!("{models}\r\nHost: 127.0.0.1"), 200),
        (format!("{models}\r\nHost: [::1]:80"), 200),
        (format!("{models}\r\nHost: rebound.example"), 421),
        ("/livez HTTP/1.1\r\nHost: rebound.example".to_owned(), 200),
        ("/metrics HTTP/1.1\r\nHost: rebound.example".to_owned(), 421),
        (
            "http://rebound.example/v1/models HTTP/1.1\r\nHost: localhost".to_owned(),
            421,
        ),
        ("/v1/models HTTP/1.0".to_owned(), 200),
    ] {
        assert_eq!(send_request(&server, &head), expected, "{head}");
    }
    let listed = Server::start(&fixture_models(), &["--allowed-hosts", "api.example.org"]);
    assert_eq!(
        send_request(&listed, &format!("{models}\r\nHost: api.example.org:443")),
        200
    );
    assert_eq!(
        send_request(&listed, &format!("{models}\r\nHost: localhost")),
        421
    );
    // Prometheus uses an IP address as the host; the allowed names are those for clients.
    let options = [
        "--allowed-hosts",
        "api.example.org",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let guarded = Server::start(&fixture_models(), &options);
    guarded.wait_for_metric("classifyd_ready", 1.0).await;
    let any = Server::start(&fixture_models(), &["--allowed-hosts", "*"]);
    assert_eq!(
        send_request(&any, &format!("{models}\r\nHost: rebound.example")),
        200
    );
    ok(any.get("/v1/models").send().await.unwrap()).await;
}
