use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// A closed loop: each connection sends its next request when it has the response to the last.
    ///
    /// The server sets the pace, so the throughput is the server's capacity at this concurrency. A
    /// slow response delays the requests behind it, which are therefore never measured: latencies
    /// of a closed loop are those of a system whose clients wait for each other.
    Closed {
        /// Number of connections.
        connections: usize,
    },
    /// An open loop: requests are due at a fixed rate, whatever the server does.
    ///
    /// Latency counts from the moment a request was *due*, not from when it was sent, so a stall of
    /// the server shows in every request that was due during the stall.
    Open {
        /// Requests per second.
        rate: f64,
        /// Connections are opened as they are needed, up to this number. Requests that find all of
        /// them busy wait for one.
        max_connections: usize,
    },
}

impl Arrivals {
    /// The largest number of connections that are open at the same time.
    pub fn max_connections(self) -> usize {
        match self {
            Self::Closed { connections } => connections,
            Self::Open { max_connections, .. } => max_connections,
        }
    }
}

/// Which requests are sent, where, when and for how long.
///
/// [`LoadSpec::new`] fills in defaults for all but the server and the requests:
///
/// ```
/// use std::time::Duration;
/// use load::{Arrivals, LoadSpec, Target};
///
/// let target = Target::parse("http://127.0.0.1:8080/echo")?;
/// let spec = LoadSpec {
///     arrivals: Arrivals::Closed { connections: 8 },
///     warmup: Duration::from_secs(1),
///     ..LoadSpec::new(target.addresses()?[0], [target.post("text/plain", b"hello")])
/// };
/// assert_eq!(spec.duration, Duration::from_secs(10));
/// # Ok::<(), load::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// The server.
    pub address: SocketAddr,
    /// Complete requests, head and body, that are sent in turn. Must not be empty. See
    /// [`Target::post`](crate::Target::post).
    pub requests: Arc<[Bytes]>,
    /// When they are sent. Default: a closed loop on one connection.
    pub arrivals: Arrivals,
    /// How long to send before anything is counted. Default: not at all.
    pub warmup: Duration,
    /// How long to measure. Default: 10 s.
    pub duration: Duration,
    /// How long to wait for a response. Default: 30 s.
    pub timeout: Duration,
    /// Threads of the load generator, at most one for each connection. Default: 1. More take CPU
    /// time from a server on the same machine.
    pub threads: usize,
}

impl LoadSpec {
    /// A load of `requests` on the server at `address`, with defaults for everything else.
    pub fn new(address: SocketAddr, requests: impl Into<Arc<[Bytes]>>) -> Self {
        Self {
            address,
            requests: requests.into(),
            arrivals: Arrivals::Closed { connections: 1 },
            warmup: Duration::ZERO,
            duration: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            threads: 1,
        }
    }
}
