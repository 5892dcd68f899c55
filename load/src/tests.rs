//! The load generator against a small server that follows a script.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Arrivals, Failure, LoadSpec, Observer, Outcome, Target, reachable, run};

/// What the server does with its request number n.
type Script = fn(usize) -> Reaction;

#[derive(Clone, Copy)]
enum Reaction {
    Respond(&'static str),
    /// Sends half of a response, then closes the connection.
    Close,
    Slow(Duration),
    /// Responds while the request is still being sent.
    Early,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nfull";

/// Starts the server on a thread of its own; it ends with the test's process.
fn serve(script: Script) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            let count = Arc::new(AtomicUsize::new(0));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(converse(stream, script, Arc::clone(&count)));
            }
        });
    });
    address
}

async fn converse(mut stream: TcpStream, script: Script, count: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        };
        let reaction = script(count.fetch_add(1, Ordering::Relaxed));
        if let Reaction::Early = reaction {
            stream.write_all(FULL.as_bytes()).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
        let body: usize = text
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.lines().next()?.parse().ok())
            .unwrap_or(0);
        while received.len() < head + body {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        received.drain(..head + body);
        match reaction {
            Reaction::Respond(response) => stream.write_all(response.as_bytes()).await?,
            Reaction::Slow(delay) => {
                tokio::time::sleep(delay).await;
                stream.write_all(OK.as_bytes()).await?;
            }
            Reaction::Close | Reaction::Early => {
                stream.write_all(&OK.as_bytes()[..20]).await?;
                return Ok(());
            }
        }
    }
}

fn spec(address: SocketAddr, arrivals: Arrivals, body: usize) -> LoadSpec {
    let target = Target::parse(&address.to_string()).unwrap();
    LoadSpec {
        arrivals,
        warmup: Duration::from_millis(20),
        duration: Duration::from_millis(300),
        timeout: Duration::from_millis(200),
        threads: 2,
        ..LoadSpec::new(address, [target.post("image/png", &vec![0; body])])
    }
}

fn run_closed(script: Script, connections: usize) -> Outcome {
    let spec = spec(serve(script), Arrivals::Closed { connections }, 100);
    run(&spec, &mut ()).unwrap()
}

#[test]
fn a_closed_loop_counts_every_response() {
    let outcome = run_closed(
        |n| Reaction::Respond(if n.is_multiple_of(2) { OK } else { CHUNKED }),
        3,
    );
    let tally = &outcome.tally;
    assert!(tally.good_in_window > 10, "{tally:?}");
    assert_eq!(tally.errors(), 0);
    assert_eq!(outcome.measured, Duration::from_millis(300));
}

#[test]
fn refusals_are_counted_by_status_and_apart_from_successes() {
    let outcome = run_closed(|n| Reaction::Respond(if n % 3 == 2 { FULL } else { OK }), 1);
    let tally = &outcome.tally;
    let refused = tally.statuses[&503].latency.count();
    let good = tally.good().latency.count();
    assert!(
        refused > 1 && good.abs_diff(2 * refused) <= 2,
        "{good} and {refused}"
    );
    assert_eq!(tally.errors(), refused);
}

#[test]
fn a_connection_that_the_server_closes_is_opened_again() {
    let outcome = run_closed(
        |n| {
            if n % 4 == 3 {
                Reaction::Close
            } else {
                Reaction::Respond(OK)
            }
        },
        2,
    );
    let tally = &outcome.tally;
    assert!(
        tally.failures[&Failure::Closed] > 1 && tally.good_in_window > 2,
        "{tally:?}"
    );
}

#[test]
fn a_response_that_comes_too_late_is_a_timeout() {
    let outcome = run_closed(|_| Reaction::Slow(Duration::from_secs(5)), 2);
    let tally = &outcome.tally;
    assert_eq!(tally.failures.keys().collect::<Vec<_>>(), [&Failure::Timeout]);
    assert_eq!(tally.good_in_window, 0);
}

#[test]
fn a_response_before_the_end_of_the_request_counts() {
    let address = serve(|_| Reaction::Early);
    let spec = spec(address, Arrivals::Closed { connections: 1 }, 32 << 20);
    let tally = run(&spec, &mut ()).unwrap().tally;
    assert!(tally.statuses[&503].latency.count() > 0, "{tally:?}");
}

#[test]
fn a_server_that_is_not_there_is_a_failure_to_connect() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let tally = run(&spec(address, Arrivals::Closed { connections: 2 }, 1), &mut ())
        .unwrap()
        .tally;
    let failures = tally.failures[&Failure::Connect];
    assert!(
        (2..100).contains(&failures),
        "{failures}: paused between attempts"
    );
    assert!(reachable(&[address], Duration::from_secs(1)).is_err());
}

#[test]
fn an_open_loop_keeps_its_rate_and_its_latency_includes_the_wait() {
    // One connection and 20 ms for each response: 50 a second are possible, 200 are due.
    let arrivals = Arrivals::Open {
        rate: 200.0,
        max_connections: 1,
    };
    let mut spec = spec(
        serve(|_| Reaction::Slow(Duration::from_millis(20))),
        arrivals,
        100,
    );
    spec.timeout = Duration::from_secs(5);
    spec.threads = 1;
    let tally = run(&spec, &mut ()).unwrap().tally;
    assert_eq!(
        tally.requests(),
        60,
        "every request that was due is counted: {tally:?}"
    );
    assert!(tally.unsent > 20, "{}", tally.unsent);
    let good = tally.good();
    let (latency, service) = (good.latency.max(), good.service.unwrap().max());
    assert!(
        latency > 2.0 * service,
        "{latency} us from when it was due, {service} us from when it was sent"
    );
}

#[test]
fn an_open_loop_opens_as_many_connections_as_it_needs() {
    let arrivals = Arrivals::Open {
        rate: 200.0,
        max_connections: 64,
    };
    let mut spec = spec(
        serve(|_| Reaction::Slow(Duration::from_millis(20))),
        arrivals,
        100,
    );
    // Long enough for a machine that is busy with other tests.
    spec.timeout = Duration::from_secs(5);
    let tally = run(&spec, &mut ()).unwrap().tally;
    assert_eq!((tally.requests(), tally.errors()), (60, 0), "{tally:?}");
}

#[test]
fn the_observer_sees_both_ends_of_the_window() {
    #[derive(Default)]
    struct Seen(Vec<&'static str>, u64);
    impl Observer for Seen {
        fn begin(&mut self) {
            self.0.push("begin");
        }
        fn tick(&mut self, _: Duration, ended: u64) {
            self.1 = self.1.max(ended);
        }
        fn end(&mut self) {
            self.0.push("end");
        }
    }
    let mut seen = Seen::default();
    let spec = spec(
        serve(|_| Reaction::Respond(OK)),
        Arrivals::Closed { connections: 1 },
        1,
    );
    run(&spec, &mut seen).unwrap();
    assert_eq!(seen.0, ["begin", "end"]);
    assert!(seen.1 > 0);
}
