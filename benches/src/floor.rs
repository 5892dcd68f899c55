//! What the two floors have in common: a listener, as many workers as cores, and an end.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

/// Serves `router` until the process is ended. `GET /readyz` answers as soon as anything does.
pub fn serve(listen: SocketAddr, router: Router) -> Result<()> {
    let router = router.route("/readyz", get(|| async { "ready" }));
    // As many worker threads as cores: tokio's default.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| listen.to_string())?;
        let listener = listener.tap_io(|stream| {
            // Only the latency of small answers is at stake, never the connection.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router).await?;
        Ok(())
    })
}
