//! A proxy that pools connections: no request may meet a connection that the server has just
//! closed.
//!
//! The proxy and the server are 50 ms apart, as if there were a network between them. In that time,
//! a request can cross the close of its connection, and the proxy's client gets a 502. The proxy
//! runs with the file in `deploy/`, without its retries, which would hide this.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use load::Target;

use crate::harness::{Server, root};
use crate::load_balancer::{LoadBalancer, digits, free_address, put_in};

const ONE_WAY: Duration = Duration::from_millis(50);
/// Simultaneous requests, and so connections between proxy and server.
const AT_ONCE: usize = 8;

/// Forwards data with a delay. Returns its address and the number of connections it has accepted.
fn network_to(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let far = TcpStream::connect(server).unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            for (from, to) in [(&near, &far), (&far, &near)] {
                to.set_nodelay(true).unwrap();
                carry(from.try_clone().unwrap(), to.try_clone().unwrap());
            }
        }
    });
    (address, taken)
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut part = [0; 16384];
        loop {
            // No data means the end of the connection, whatever the cause.
            let count = from.read(&mut part).unwrap_or(0);
            let sent = sender.send((Instant::now() + ONE_WAY, part[..count].to_vec()));
            if count == 0 || sent.is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, part) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if part.is_empty() || to.write_all(&part).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    });
}

/// nginx that keeps connections to `upstream` for this time.
fn proxy(upstream: SocketAddr, keepalive: &str) -> LoadBalancer {
    let (address, directory) = (free_address(), tempfile::tempdir().unwrap());
    let mut config = std::fs::read_to_string(root().join("deploy/nginx/nginx.conf")).unwrap();
    for (from, to) in [
        ("listen 8080", format!("listen {address}").as_str()),
        // A single worker, so a single connection pool.
        ("worker_processes auto", "worker_processes 1"),
        ("keepalive_timeout 30s", &format!("keepalive_timeout {keepalive}")),
        (
            "proxy_next_upstream error timeout invalid_header non_idempotent",
            "proxy_next_upstream off",
        ),
        ("server classifyd-1:8080", &format!("server {upstream}")),
        ("server classifyd-2:8080 max_fails=1 fail_timeout=2s;", ""),
        ("server classifyd-3:8080 max_fails=1 fail_timeout=2s;", ""),
        ("max_fails=1", "max_fails=0"),
    ] {
        config = put_in(&config, from, to);
    }
    LoadBalancer::nginx_in(address, &config, directory)
}

/// Sends several requests at once, and again after each gap. Returns the numbers of successful and
/// failed requests.
fn ask_with_gaps(proxy: &LoadBalancer, gaps: impl Iterator<Item = u64>) -> (usize, usize) {
    let proxy = proxy.address;
    let image = std::fs::read(root().join("models/digits/1/golden/7_0.png")).unwrap();
    let target = Target::parse(&format!("http://{proxy}/v1/classify")).unwrap();
    let request = target.post("image/png", &image);
    let (mut answered, mut lost) = (0, 0);
    for gap in std::iter::once(0).chain(gaps) {
        thread::sleep(Duration::from_millis(gap));
        let asked: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let request = request.clone();
                thread::spawn(move || {
                    let answer = load::exchange(proxy, &request, Duration::from_secs(20));
                    answer.is_ok_and(|answer| answer.status == 200)
                })
            })
            .collect();
        for asked in asked {
            if asked.join().unwrap() {
                answered += 1;
            } else {
                lost += 1;
            }
        }
    }
    (answered, lost)
}

#[test]
#[ignore = "needs nginx: make test-system"]
fn a_proxy_that_keeps_connections_loses_no_request_after_idle_gaps() {
    let models = digits();
    // The proxy's timeout is shorter than the server's, like 60 s and 75 s.
    let server = Server::start(models.path(), &["--keep-alive-timeout", "3s"]);
    let (network, connections) = network_to(server.address);
    // Around the timeouts of the proxy and of the server.
    let groups = [
        [1_900, 2_000].map(|from| (from..from + 100).step_by(10)),
        [2_850, 2_950].map(|from| (from..from + 100).step_by(15)),
    ];
    let running: Vec<_> = groups
        .into_iter()
        .flatten()
        .map(|gaps| {
            let proxy = proxy(network, "2s");
            thread::spawn(move || ask_with_gaps(&proxy, gaps))
        })
        .collect();
    let mut answered = 0;
    for running in running {
        let (some, lost) = running.join().unwrap();
        assert_eq!(lost, 0);
        answered += some;
    }
    // The proxy did reuse connections.
    let connections = connections.load(Ordering::Relaxed);
    eprintln!("\n{answered} requests on {connections} connections, none lost");
    assert!(
        connections + 50 < answered,
        "{connections} connections for {answered}"
    );
}

#[test]
#[ignore = "needs nginx: make test-system"]
fn a_proxy_that_keeps_idle_connections_longer_than_the_server_loses_requests() {
    let models = digits();
    let server = Server::start(models.path(), &["--keep-alive-timeout", "2s"]);
    let (network, _) = network_to(server.address);
    let proxy = proxy(network, "3s");
    // The proxy learns of a close 50 ms later, and what it sends meanwhile arrives after the close.
    let (answered, lost) = ask_with_gaps(&proxy, (1_860..2_000).step_by(20));
    eprintln!("\n{answered} requests answered, {lost} lost");
    assert!(lost > 0, "the test above would not see a loss");
}
