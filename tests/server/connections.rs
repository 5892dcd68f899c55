//! Slow clients, many clients, and connections during a shutdown.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Server, some_models, white_row};

/// A client that keeps its connection open as long as the server allows.
struct KeepAlive {
    address: SocketAddr,
    request: Arc<Vec<u8>>,
    stream: Option<TcpStream>,
}

enum Outcome {
    Status(u16),
    /// The connection was refused: the listener is closed.
    NotListening,
    /// The kernel accepted the connection as the listener closed, so the server never saw it.
    ResetAtOnce,
    /// The server accepted the request but did not respond.
    Lost(String),
}

impl KeepAlive {
    fn send_request(&mut self) -> Outcome {
        let fresh = self.stream.is_none();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(self.address) {
                Ok(stream) => stream,
                Err(_) => return Outcome::NotListening,
            },
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        if let Err(error) = stream.write_all(&self.request) {
            return Outcome::Lost(format!("write: {error}"));
        }
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            match stream.read(&mut part) {
                Ok(0) => return Outcome::Lost(format!("closed after {} bytes", answer.len())),
                Ok(count) => answer.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if fresh && error.kind() == ErrorKind::ConnectionReset => {
                    return Outcome::ResetAtOnce;
                }
                Err(error) => return Outcome::Lost(format!("read: {error}")),
            }
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let header = |name: &str| {
                head.lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            let length: usize = header("content-length").unwrap().parse().unwrap();
            if body.len() < length {
                continue;
            }
            if header("connection") != Some("close") {
                self.stream = Some(stream);
            }
            return Outcome::Status(head[9..12].parse().unwrap());
        }
    }
}

fn request(image: &[u8]) -> Arc<Vec<u8>> {
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n",
        image.len()
    );
    Arc::new([head.as_bytes(), image].concat())
}

#[test]
fn sigterm_under_load_loses_no_accepted_request() {
    let models = some_models(&["linear"]);
    let mut server = Server::start(models.path(), &["--drain-delay", "1s"]);
    let request = request(&white_row(1));
    let answered = Arc::new(AtomicUsize::new(0));
    let resets = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let mut client = KeepAlive {
                address: server.address,
                request: Arc::clone(&request),
                stream: None,
            };
            let (answered, resets) = (Arc::clone(&answered), Arc::clone(&resets));
            std::thread::spawn(move || {
                loop {
                    match client.send_request() {
                        Outcome::Status(200) => answered.fetch_add(1, Ordering::Relaxed),
                        Outcome::ResetAtOnce => resets.fetch_add(1, Ordering::Relaxed),
                        Outcome::NotListening => return,
                        Outcome::Status(status) => panic!("status {status}"),
                        Outcome::Lost(how) => panic!("a request was lost: {how}"),
                    };
                }
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < 2000 {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.signal("TERM");
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
    // In the microseconds between the last accept and the close of the listener, the kernel may
    // accept one more connection.
    let resets = resets.load(Ordering::Relaxed);
    assert!(resets <= 2, "{resets} connections were reset");
}

#[test]
fn a_client_rejected_during_its_upload_gets_the_response_and_learns_whether_the_connection_stays_open() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--max-body", "1MB"]);
    let good = request(&white_row(1));
    let send_request = |head: &str, length: usize| {
        let head = format!("{head}\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let mut client = KeepAlive {
            address: server.address,
            request: Arc::new([head.as_bytes(), &vec![0; length]].concat()),
            stream: None,
        };
        let Outcome::Status(status) = client.send_request() else {
            panic!("no answer to {head}")
        };
        let kept = client.stream.is_some();
        client.request = Arc::clone(&good);
        let Outcome::Status(200) = client.send_request() else {
            panic!("no answer after {head}")
        };
        (status, kept)
    };
    let post = "POST /v1/classify HTTP/1.1";
    let png = "POST /v1/classify HTTP/1.1\r\nContent-Type: image/png";
    assert_eq!(send_request(png, 1_500_000), (413, true), "read and thrown away");
    assert_eq!(
        send_request(png, 2_500_000),
        (413, false),
        "more than anyone should have to read"
    );
    assert_eq!(send_request(post, 900_000), (415, true));
    assert_eq!(
        send_request("POST /v1/classify?topk=3 HTTP/1.1", 900_000),
        (400, true)
    );
    assert_eq!(send_request("POST /nowhere HTTP/1.1", 900_000), (404, false));
    assert_eq!(send_request("PUT /v1/models HTTP/1.1", 900_000), (405, false));
}

#[test]
fn the_listen_backlog_holds_many_simultaneous_connects() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    // The server accepts no connection meanwhile.
    server.signal("STOP");
    let mut streams: Vec<_> = (0..500)
        .map(|_| TcpStream::connect_timeout(&server.address, Duration::from_millis(900)).unwrap())
        .collect();
    server.signal("CONT");
    for stream in &mut streams {
        let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
    }
    for stream in &mut streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn half_open_connections_do_not_affect_others() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let half_open: Vec<_> = (0..500)
        .map(|at| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            let sent = [
                "",
                "P",
                "POST /v1/classify HTTP/1.1\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
            ];
            stream.write_all(sent[at % sent.len()].as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        let request = server.send_png("", white_row(1)).timeout(Duration::from_secs(5));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    drop(half_open);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_if_all_come_from_one_proxy() {
    let models = some_models(&["linear"]);
    let limit = ["--max-connections", "2", "--trusted-proxies", "127.0.0.1"];
    let server = Server::start(models.path(), &limit);
    let first = TcpStream::connect(server.address).unwrap();
    let second = TcpStream::connect(server.address).unwrap();
    // Waits until both are accepted, before the third connects.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let is_answered = Arc::new(AtomicBool::new(false));
    let third = tokio::spawn({
        let (is_answered, request) = (Arc::clone(&is_answered), server.send_png("", white_row(1)));
        async move {
            let status = request.send().await.unwrap().status();
            is_answered.store(true, Ordering::SeqCst);
            status
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!is_answered.load(Ordering::SeqCst));
    drop(first);
    assert_eq!(third.await.unwrap(), 200);
    drop(second);
}

#[tokio::test]
async fn a_client_that_holds_all_connections_loses_one_to_a_newcomer() {
    let models = some_models(&["linear"]);
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let server = Server::start(models.path(), &[&["--max-connections", "8"][..], &admin].concat());
    let kinds = [
        "",
        "POST /v1/cl",
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
        // Requests whose responses nobody reads.
        &"GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20),
    ];
    let greedy: Vec<_> = (0..30)
        .map(|at| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            let _ = stream.write_all(kinds[at % kinds.len()].as_bytes());
            stream
        })
        .collect();
    for _ in 0..20 {
        let other = connect_from("127.0.0.2", server.address).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), is_served(other));
        assert!(answer.await.expect("an answer"));
    }
    // Each of the 20 clients needed a slot. Whether one was free depended on which client closed
    // first.
    let displaced = server
        .metrics()
        .await
        .get("classifyd_connections_displaced_total")
        .unwrap();
    assert!(displaced >= 1.0, "{displaced}");
    drop(greedy);
}

async fn connect_from(address: &str, server: SocketAddr) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(server).await.unwrap()
}

/// Whether a connection is served. A rejected one is closed without a response.
async fn is_served(mut stream: tokio::net::TcpStream) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn one_client_cannot_take_the_queue_slots_of_others() {
    let models = some_models(&["linear"]);
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let start = |more: &[&str]| {
        let limit = ["--max-connections", "8", "--max-connections-per-client", "3"];
        Server::start(models.path(), &[&limit[..], &admin, more].concat())
    };
    let connect = |server: &Server, from: &'static str| connect_from(from, server.address);

    let server = start(&[]);
    let mut greedy = Vec::new();
    for _ in 0..3 {
        greedy.push(connect(&server, "127.0.0.1").await);
    }
    for _ in 0..20 {
        assert!(!is_served(connect(&server, "127.0.0.1").await).await);
    }
    assert!(is_served(connect(&server, "127.0.0.2").await).await);
    server
        .wait_for_metric("classifyd_connections_refused_total", 20.0)
        .await;
    // A closed connection frees its slot, once the server notices.
    greedy.pop();
    let started = std::time::Instant::now();
    while !is_served(connect(&server, "127.0.0.1").await).await {
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    let behind = start(&["--trusted-proxies", "127.0.0.1/32"]);
    let mut forwarded = Vec::new();
    for _ in 0..5 {
        forwarded.push(connect(&behind, "127.0.0.1").await);
    }
    for stream in forwarded {
        assert!(is_served(stream).await);
    }
}
