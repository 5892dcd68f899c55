//! Connections: accepting them, their limits, and closing them politely.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tower::ServiceExt;

/// Where a request comes from: the other end of its connection. In the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Most open connections.
    pub max_connections: usize,
    /// Longest time for a request's head to arrive, idle time before it included.
    pub header_timeout: Duration,
}

/// Pause after an accept that failed for want of file descriptors, which a retry at once would not mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection stays open for a request that may be on its way when the server closes. Closing at once would lose
/// the request of a connection that has just been accepted, or one that crosses the closing.
const LINGER: Duration = Duration::from_millis(500);

/// Connections that are served.
pub struct Server {
    router: Router,
    limits: ConnectionLimits,
    slots: Arc<Semaphore>,
    /// How many there are.
    open: IntGauge,
    /// Tells the connections to close; each holds a receiver as long as it is open.
    closing: watch::Sender<bool>,
}

impl Server {
    /// A server without connections, which will be counted in `open`.
    pub fn new(router: Router, limits: ConnectionLimits, open: IntGauge) -> Self {
        Self {
            router,
            limits,
            slots: Arc::new(Semaphore::new(limits.max_connections)),
            open,
            closing: watch::Sender::new(false),
        }
    }

    /// Accepts connections until `stop` resolves, and then closes the listener.
    pub async fn accept_until(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, peer, slot)) => self.serve(stream, peer, Some(slot)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Err(error) = self.serve_backlog(listener) {
            tracing::warn!(%error, "connections that waited to be accepted were lost");
        }
    }

    /// Serves the connections that the kernel has accepted already, which closing the listener would reset, beyond the limit
    /// if it must be.
    fn serve_backlog(&self, listener: TcpListener) -> io::Result<()> {
        // The runtime hears of new connections with a delay; only the system call knows whether there are any.
        let listener = listener.into_std()?;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    self.serve(
                        TcpStream::from_std(stream)?,
                        peer,
                        Arc::clone(&self.slots).try_acquire_owned().ok(),
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the connections to finish what they have. Responses must ask for the connection to be closed from before
    /// this is called; then only connections that stay idle are closed from this side.
    pub async fn finish(self) {
        self.closing.send_replace(true);
        self.closing.closed().await;
    }

    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer, slot))
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, slot: Option<OwnedSemaphorePermit>) {
        let service = self
            .router
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request
            });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let open = Open::new(&self.open);
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let (_slot, _open) = (slot, open);
            let mut connection = pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = lingered(&mut closing) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                // Clients that go away in the middle are no fault of the server.
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}

/// Counts a connection as long as it lives.
struct Open(IntGauge);

impl Open {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Resolves when an idle connection should be closed.
async fn lingered(closing: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which closes as well.
    let _ = closing.wait_for(|closing| *closing).await;
    sleep(LINGER).await;
}
