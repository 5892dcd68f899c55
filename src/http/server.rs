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
use prometheus::{IntCounterVec, IntGauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, AlertDescription};
use tower::ServiceExt;
use tower::util::MapResult;

use super::connections::{Connections, Place};
use super::stream::{Exchange, Stream, StreamLimits};
use super::tls::Tls;
use super::unreadable::{Answering, Readable, Replace};
use crate::repoll::Repoll;

/// Where a request comes from: the other end of its connection. In the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Most open connections.
    pub max_connections: usize,
    /// Longest time for a TLS handshake.
    pub handshake: Duration,
    /// How long a connection may wait for its client.
    pub stream: StreamLimits,
    /// Longest head of a request.
    pub max_header_size: usize,
}

/// Pause after an accept that failed for want of file descriptors, which a retry at once would not mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a connection is looked for that can make room, while all have an answer being made.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection stays open for a request that may be on its way when the server closes. Closing at once would lose
/// the request of a connection that has just been accepted, or one that crosses the closing.
const LINGER: Duration = Duration::from_millis(500);

/// Least buffer of a connection that hyper takes.
const LEAST_BUFFER: usize = 8 * 1024;

/// Connections that are served.
pub struct Server {
    router: Router,
    limits: ConnectionLimits,
    /// None: plain HTTP.
    tls: Option<Arc<Tls>>,
    slots: Arc<Semaphore>,
    connections: Arc<Connections>,
    /// How many there are.
    open: IntGauge,
    /// TLS handshakes that failed, by reason.
    handshake_failures: Option<IntCounterVec>,
    unreadable: Option<Replace>,
    /// Tells the connections to close; each holds a receiver as long as it is open.
    closing: watch::Sender<bool>,
}

impl Server {
    /// A server without connections, which will be counted in `open`.
    pub fn new(router: Router, limits: ConnectionLimits, tls: Option<Arc<Tls>>, open: IntGauge) -> Self {
        Self {
            router,
            limits,
            tls,
            slots: Arc::new(Semaphore::new(limits.max_connections)),
            connections: Arc::default(),
            handshake_failures: None,
            unreadable: None,
            open,
            closing: watch::Sender::new(false),
        }
    }

    /// With its own rules of whose connections there may be.
    #[must_use]
    pub fn with_connections(self, connections: Connections) -> Self {
        Self {
            connections: Arc::new(connections),
            ..self
        }
    }

    /// Counting the TLS handshakes that fail.
    #[must_use]
    pub fn with_handshake_failures(self, counter: IntCounterVec) -> Self {
        Self {
            handshake_failures: Some(counter),
            ..self
        }
    }

    /// With an answer for clients whose requests hyper cannot read.
    #[must_use]
    pub fn with_unreadable(self, unreadable: Replace) -> Self {
        Self {
            unreadable: Some(unreadable),
            ..self
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
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let slot = self.slot().await?;
        Ok((stream, peer, slot))
    }

    /// A slot for a connection, which another one makes free if it must be.
    async fn slot(&self) -> io::Result<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        loop {
            self.connections.make_room();
            let free = Arc::clone(&self.slots).acquire_owned();
            if let Ok(slot) = timeout(ROOM_PAUSE, free).await {
                return slot.map_err(io::Error::other);
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, slot: Option<OwnedSemaphorePermit>) {
        let exchange = Arc::default();
        let Some(place) = self.connections.enter(peer.ip(), &exchange) else {
            // Closed without a word: whoever opens so many would not read it.
            return;
        };
        let connection = Connection {
            router: self.router.clone(),
            peer,
            limits: self.limits,
            handshake_failures: self.handshake_failures.clone(),
            unreadable: self.unreadable.clone(),
            closing: self.closing.subscribe(),
            exchange,
            place,
            _slot: slot,
            _open: Open::new(&self.open),
        };
        match &self.tls {
            None => tokio::spawn(Repoll::new(connection.serve(stream))),
            Some(tls) => tokio::spawn(Repoll::new(connection.serve_tls(tls.acceptor(), stream))),
        };
    }
}

/// An open connection.
struct Connection {
    router: Router,
    peer: SocketAddr,
    limits: ConnectionLimits,
    handshake_failures: Option<IntCounterVec>,
    unreadable: Option<Replace>,
    closing: watch::Receiver<bool>,
    exchange: Arc<Exchange>,
    place: Place,
    _slot: Option<OwnedSemaphorePermit>,
    _open: Open,
}

impl Connection {
    /// Shakes hands, for which there is as much time as for the head of a request, and then serves.
    async fn serve_tls(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let mut closing = self.closing.clone();
        let handshake = tokio::select! {
            handshake = timeout(self.limits.handshake, acceptor.accept(stream)) => handshake,
            () = lingered(&mut closing) => return,
            () = self.place.displaced() => return,
        };
        // Nobody waits for this one any more.
        drop(closing);
        match handshake {
            Ok(Ok(stream)) => self.serve(stream).await,
            // Anybody can cause these, so that they are no fault of the server either.
            Ok(Err(error)) => {
                self.handshake_failed(reason(&error));
                tracing::debug!(%error, peer = %self.peer, "a TLS handshake failed");
            }
            Err(_) => {
                self.handshake_failed("timeout");
                tracing::debug!(peer = %self.peer, "a TLS handshake took too long");
            }
        }
    }

    fn handshake_failed(&self, reason: &str) {
        if let Some(counter) = &self.handshake_failures {
            counter.with_label_values(&[reason]).inc();
        }
    }

    async fn serve<S>(mut self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let peer = self.peer;
        let exchange = self.exchange;
        let (begun, ended) = (Arc::clone(&exchange), Arc::clone(&exchange));
        let service = self.router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            begun.begin(request)
        });
        let answering = Arc::<Answering>::default();
        let answers = Arc::clone(&answering);
        let service = MapResult::new(service, move |answer| {
            ended.end();
            answers.begin();
            answer
        });
        let stream = Stream::new(stream, self.limits.stream, exchange);
        let stream = Readable::new(stream, peer, answering, self.unreadable);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The stream has a limit of its own, which leaves out idle time.
            .header_read_timeout(None)
            .max_header_size(self.limits.max_header_size)
            .max_buf_size(self.limits.max_header_size.max(LEAST_BUFFER))
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.place.displaced() => return,
            () = lingered(&mut self.closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            // Clients that go away in the middle are no fault of the server.
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// Why a handshake failed, as a label of a metric.
fn reason(error: &io::Error) -> &'static str {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        None => "closed",
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "certificate",
        // What the client thinks of the server's certificate it says with an alert.
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate => "certificate",
            _ => "protocol",
        },
        Some(_) => "protocol",
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
