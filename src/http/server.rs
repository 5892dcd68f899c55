//! Connections: accepting them, their limits, and closing them politely.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// Connections that are served.
pub struct Server {
    router: Router,
    limits: ConnectionLimits,
    slots: Arc<Semaphore>,
    connections: GracefulShutdown,
}

impl Server {
    /// A server without connections.
    pub fn new(router: Router, limits: ConnectionLimits) -> Self {
        Self {
            router,
            limits,
            slots: Arc::new(Semaphore::new(limits.max_connections)),
            connections: GracefulShutdown::new(),
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
                Ok((stream, slot)) => self.serve(stream, slot),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // What the kernel has accepted already would be reset by closing the listener.
        while let Ok(Ok((stream, slot))) = tokio::time::timeout(Duration::ZERO, self.accept(&listener)).await
        {
            self.serve(stream, slot);
        }
    }

    /// Closes idle connections, and waits for the others to finish what they have.
    pub async fn finish(self) {
        self.connections.shutdown().await;
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, slot))
    }

    fn serve(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        let connection = self.connections.watch(connection);
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                // Clients that go away in the middle are no fault of the server.
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
