//! Accepts connections, applies their limits, and closes them gracefully.

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

/// The peer of the request's connection, in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub max_connections: usize,
    pub handshake: Duration,
    pub stream: StreamLimits,
    pub max_header_size: usize,
}

/// Pause after a failed accept. Usually file descriptors have run out, and an immediate retry would
/// fail too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Interval of looking for a connection that can be closed, while all are processing requests.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// How long an idle connection stays open at shutdown, for a request that may be in transit.
/// Closing at once could lose it.
const LINGER: Duration = Duration::from_millis(500);

/// Smallest buffer size that hyper accepts.
const LEAST_BUFFER: usize = 8 * 1024;

pub struct Server {
    router: Router,
    limits: ConnectionLimits,
    /// `None`: plain HTTP.
    tls: Option<Arc<Tls>>,
    slots: Arc<Semaphore>,
    connections: Arc<Connections>,
    open: IntGauge,
    handshake_failures: Option<IntCounterVec>,
    unreadable: Option<Replace>,
    /// Tells the connections to close. Each holds a receiver until it is closed.
    closing: watch::Sender<bool>,
}

impl Server {
    /// `open` is the metric of open connections.
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

    /// Sets the limits of connections by client.
    #[must_use]
    pub fn with_connections(self, connections: Connections) -> Self {
        Self {
            connections: Arc::new(connections),
            ..self
        }
    }

    /// Sets the metric of failed TLS handshakes.
    #[must_use]
    pub fn with_handshake_failures(self, counter: IntCounterVec) -> Self {
        Self {
            handshake_failures: Some(counter),
            ..self
        }
    }

    /// Sets the response to requests that hyper cannot parse.
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
            tracing::warn!(%error, "pending connections were lost");
        }
    }

    /// Serves the connections that the kernel has already accepted and that closing the listener
    /// would reset, even beyond the limit.
    fn serve_backlog(&self, listener: TcpListener) -> io::Result<()> {
        // The runtime learns of new connections with a delay, so ask the kernel directly.
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

    /// Waits until all connections are closed. Before this is called, responses must already carry
    /// `Connection: close`, so that only idle connections are closed from this side.
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

    /// Acquires a slot, closing another connection if necessary.
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
            // Closed without a response, which a client with that many connections would not read.
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
    /// Performs the TLS handshake and then serves.
    async fn serve_tls(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let mut closing = self.closing.clone();
        let handshake = tokio::select! {
            handshake = timeout(self.limits.handshake, acceptor.accept(stream)) => handshake,
            () = lingered(&mut closing) => return,
            () = self.place.displaced() => return,
        };
        drop(closing);
        match handshake {
            Ok(Ok(stream)) => self.serve(stream).await,
            // Any client can cause these, so they are logged at debug only.
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
            // `Stream` has its own limit, which excludes idle time.
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
            // Usually a client that disconnected.
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// The reason of a failed handshake, as a metric label.
fn reason(error: &io::Error) -> &'static str {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        None => "closed",
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "certificate",
        // The client rejects the server's certificate with an alert.
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

/// Counts an open connection until dropped.
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

/// Completes when an idle connection should be closed.
async fn lingered(closing: &mut watch::Receiver<bool>) {
    // An error means that the server was dropped, which also closes the connection.
    let _ = closing.wait_for(|closing| *closing).await;
    sleep(LINGER).await;
}
