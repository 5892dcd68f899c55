//! Requests with an unreadable head. The HTTP library rejects them, yet the client gets a problem
//! document.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Server, some_models};

/// Sends bytes and returns everything until the server closes the connection.
fn send(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Checks the last response and returns its problem document.
fn problem(answer: &str, status: u16, sent: &str) -> Value {
    let (head, body) = answer.rsplit_once("\r\n\r\n").unwrap();
    let head = &head[head.rfind("HTTP/1.1 ").unwrap()..];
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "{sent}: {answer}"
    );
    let length = body.len().to_string();
    for (name, expected) in [
        ("content-type", "application/problem+json"),
        ("connection", "close"),
        ("content-length", &length),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(header(name), Some(expected), "{sent}: {answer}");
    }
    assert!(header("date").is_some(), "{sent}: {answer}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], status);
    assert_eq!(
        header("x-request-id"),
        problem["request_id"].as_str(),
        "{sent}: {answer}"
    );
    problem
}

#[tokio::test]
async fn an_unreadable_request_head_gets_a_problem_document() {
    let models = some_models(&["linear"]);
    let options = ["--max-header-size", "100 KiB", "--admin-listen", "127.0.0.1:0"];
    let server = Server::start(models.path(), &options);
    let long = "a".repeat(70_000);
    let longer = "a".repeat(200_000);
    let many = "x: y\r\n".repeat(101);
    let unreadable = [
        "NONSENSE\r\n\r\n",
        "\u{16}\u{3}\u{1} as TLS begins\r\n\r\n",
        "GET / HTTP/3.0\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nno name\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nx: \u{0}\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nNONSENSE\r\n\r\n",
    ];
    for sent in unreadable {
        let problem = problem(&send(server.address, sent.as_bytes()), 400, sent);
        assert_eq!(problem["code"], "invalid_request");
        let id = problem["request_id"].as_str().unwrap();
        server
            .wait_for_log(&[id, "\"status\":400", "invalid_request", "unmatched"])
            .await;
    }
    for (head, status, code) in [
        (format!("GET /{long} HTTP/1.1\r\n"), 414, "uri_too_long"),
        (
            format!("GET / HTTP/1.1\r\nx: {longer}\r\n"),
            431,
            "header_too_large",
        ),
        (format!("GET / HTTP/1.1\r\n{many}"), 431, "header_too_large"),
    ] {
        let sent = format!("{head}Host: localhost\r\n\r\n");
        let problem = problem(&send(server.address, sent.as_bytes()), status, &head[..40]);
        assert_eq!(problem["code"], code);
    }
    let admin = send(server.admin_address.unwrap(), b"NONSENSE\r\n\r\n");
    assert_eq!(problem(&admin, 400, "admin")["code"], "invalid_request");
    let counted = "classifyd_http_requests_total{method=\"other\",route=\"unmatched\",status=\"400\"}";
    server
        .wait_for_metric(counted, unreadable.len() as f64 + 1.0)
        .await;
}

#[test]
fn data_that_is_not_http_gets_no_response() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--header-timeout", "300ms"]);
    for sent in [
        // HTTP/2 without an upgrade, whose clients could not read a response.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // A request head that never ends.
        "GET / HTTP/1.1\r\nHost:",
    ] {
        assert_eq!(send(server.address, sent.as_bytes()), "", "{sent}");
    }
}
