//! The HTTP server that the two floors share.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

/// Serves `router` until the process ends, with a `/readyz` beside it.
pub fn serve(listen: SocketAddr, router: Router) -> Result<()> {
    let router = router.route("/readyz", get(|| async { "ready" }));
    // As many worker threads as cores: tokio's default.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| listen.to_string())?;
        let listener = listener.tap_io(|stream| {
            // Without it small responses are late, but nothing fails.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router).await?;
        Ok(())
    })
}
