//! The clients that do harm.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use benches::evil;
use bytes::Bytes;
use load::Response;
use rustix::process::setpriority_process;

use crate::{EVERY, TIMEOUT};

/// The attacker's address. Other clients have another one.
const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The server that a load is put on, and its responses so far.
pub(crate) struct Attacker {
    address: SocketAddr,
    /// Factor of sizes and numbers.
    pub(crate) scale: f64,
    duration: Duration,
    /// How often each status came, and each failure.
    responses: Mutex<BTreeMap<String, u64>>,
}

impl Attacker {
    /// `scale` makes sizes and numbers smaller; `duration` is for loads that go on for a time.
    pub(crate) fn new(address: SocketAddr, scale: f64, duration: Duration) -> Self {
        Self {
            address,
            scale,
            duration,
            responses: Mutex::default(),
        }
    }

    /// The responses as text, as in `24 x 504`.
    pub(crate) fn describe_responses(&self) -> String {
        let responses = self.lock_responses();
        let parts: Vec<String> = responses
            .iter()
            .map(|(name, count)| format!("{count} x {name}"))
            .collect();
        if parts.is_empty() {
            "-".to_owned()
        } else {
            parts.join(", ")
        }
    }

    fn lock_responses(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bytes(&self, whole: usize) -> usize {
        (whole as f64 * self.scale) as usize
    }

    pub(crate) fn scaled(&self, whole: usize) -> usize {
        self.bytes(whole).max(1)
    }

    pub(crate) fn large_frame(&self) -> Vec<u8> {
        evil::gif_with_frame(16_383, (8_191.0 * self.scale) as u16)
    }

    pub(crate) fn large_profile(&self) -> Vec<u8> {
        evil::png_with_profile(self.bytes(500_000_000))
    }

    pub(crate) fn head(&self, query: &str, content_type: &str, header: &str) -> String {
        format!(
            "POST /v1/classify?{query} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\n{header}\r\n\r\n",
            self.address
        )
    }

    pub(crate) fn post(&self, query: &str, content_type: &str, body: &[u8]) -> Bytes {
        let head = self.head(query, content_type, &format!("Content-Length: {}", body.len()));
        [head.as_bytes(), body].concat().into()
    }

    pub(crate) fn form(&self, query: &str, parts: &[(&str, Vec<u8>)]) -> Bytes {
        let mut body = Vec::new();
        for (name, content) in parts {
            body.extend_from_slice(
                format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes(),
            );
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--X--\r\n");
        self.post(query, "multipart/form-data; boundary=X", &body)
    }

    pub(crate) fn count(&self, response: io::Result<Response>) {
        let name = if let Ok(response) = response {
            response.status.to_string()
        } else {
            // A server that has ended refuses connections at once, so this would be a busy loop.
            thread::sleep(EVERY);
            "no response".to_owned()
        };
        *self.lock_responses().entry(name).or_default() += 1;
    }

    /// Sends each request when there is a response to the one before.
    pub(crate) fn one_by_one(&self, request: &[u8], times: usize) {
        for _ in 0..times {
            self.count(exchange(ADDRESS, self.address, request));
        }
    }

    pub(crate) fn at_once(&self, request: &[u8], clients: usize) {
        side_by_side(clients, |_| self.one_by_one(request, 1));
    }

    /// Each client sends for the whole time, on a new connection for each request.
    pub(crate) fn over_and_over(&self, request: &[u8], clients: usize) {
        let end = Instant::now() + self.duration;
        side_by_side(clients, |_| {
            while Instant::now() < end {
                self.one_by_one(request, 1);
            }
        });
    }

    pub(crate) fn send_and_leave(&self, request: &[u8], times: usize) {
        for _ in 0..times {
            if let Ok(mut stream) = connect(ADDRESS, self.address) {
                let _ = stream.write_all(request);
                // Long enough for the server to read it.
                thread::sleep(Duration::from_millis(20));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Sends, and holds the connection until the time is over, or the server responds or closes it.
    pub(crate) fn send_and_hold(&self, request: &[u8], clients: usize) {
        let end = Instant::now() + self.duration;
        side_by_side(clients, |_| {
            let Ok(mut stream) = connect(ADDRESS, self.address) else {
                return;
            };
            let _ = stream.write_all(request);
            let _ = stream.set_read_timeout(Some(left(end)));
            self.count(load::receive(&mut stream));
        });
    }

    /// Requests the largest file twenty times on each connection, and reads nothing.
    pub(crate) fn read_nothing(&self, clients: usize) {
        let get = format!(
            "GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.address
        );
        let request = get.repeat(20);
        let streams: Vec<_> = (0..clients)
            .filter_map(|_| {
                let mut stream = connect(ADDRESS, self.address).ok()?;
                stream.write_all(request.as_bytes()).ok()?;
                Some(stream)
            })
            .collect();
        thread::sleep(self.duration);
        drop(streams);
    }

    pub(crate) fn slowly(&self, head: &str, clients: usize) {
        self.send_slowly(b"", head.as_bytes(), clients);
    }

    /// Sends `first` at once, then a byte of `rest` every second.
    pub(crate) fn send_slowly(&self, first: &[u8], rest: &[u8], clients: usize) {
        let end = Instant::now() + self.duration;
        let mut streams: Vec<TcpStream> = (0..self.scaled(clients))
            .filter_map(|_| {
                let mut stream = connect(ADDRESS, self.address).ok()?;
                stream.write_all(first).ok()?;
                Some(stream)
            })
            .collect();
        for byte in rest {
            streams.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
            if Instant::now() >= end {
                break;
            }
            thread::sleep(left(end).min(Duration::from_secs(1)));
        }
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

/// Lets the server's threads and those of the other clients go first. An attacker has a machine of
/// its own; without this the waits would be those for a CPU that a thousand clients share.
fn yield_to_others() {
    // Linux has a priority for each thread. If it cannot be set, the waits are longer.
    let _ = setpriority_process(None, 10);
}

/// Runs `count` clients at once. Their stacks are small, so that a thousand of them fit into
/// memory.
fn side_by_side(count: usize, work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for at in 0..count {
            let work = &work;
            let started = thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn_scoped(scope, move || {
                    yield_to_others();
                    work(at);
                });
            if let Err(error) = started {
                eprintln!("client {at}: {error}");
            }
        }
    });
}

/// Connects from the address `source`, which the standard library cannot choose.
pub(crate) fn connect(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        // A bound port stays taken for a while after its connection. An attacker would run out of
        // ports.
        if source != ADDRESS {
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        tokio::time::timeout(TIMEOUT, socket.connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .and_then(tokio::net::TcpStream::into_std)
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

pub(crate) fn exchange(source: Ipv4Addr, address: SocketAddr, request: &[u8]) -> io::Result<Response> {
    load::exchange_on(&mut connect(source, address)?, request)
}
