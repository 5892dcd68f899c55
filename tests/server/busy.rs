//! A proxy in front of a server. It simulates a busy server at first, and records the requests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// A recording proxy. It accepts one request for each connection.
pub(crate) struct Busy {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// A recorded request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    /// The request line and the headers.
    pub(crate) head: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Busy {
    /// Rejects the first requests with 503 and `Retry-After: 1`, and forwards the others to the
    /// server.
    pub(crate) fn before(server: SocketAddr, refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, left) = (Arc::clone(&requests), Arc::new(AtomicUsize::new(refusals)));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (kept, left) = (Arc::clone(&kept), Arc::clone(&left));
                // An error here breaks the client's connection, so its test fails.
                thread::spawn(move || pass(client, server, &left, &kept));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    refusals: &AtomicUsize,
    kept: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    loop {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        if &head[start..] == "\r\n" {
            head.truncate(start);
            break;
        }
    }
    let request = Request {
        at: Instant::now(),
        head,
    };
    let length = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    assert_eq!(request.header("transfer-encoding"), None);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    kept.lock().unwrap().push(request.clone());

    let refused = refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    if refused.is_ok() {
        return client.write_all(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut upstream = TcpStream::connect(server)?;
    for line in request.head.lines() {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            write!(upstream, "{line}\r\n")?;
        }
    }
    upstream.write_all(b"Connection: close\r\n\r\n")?;
    upstream.write_all(&body)?;
    io::copy(&mut upstream, &mut client)?;
    Ok(())
}
