//! F0: a bare route that reads the body and sends a fixed text. No server on axum can be faster.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use clap::Parser;

/// Sends the same JSON for every request.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8100")]
    listen: SocketAddr,
}

async fn classify(_body: Bytes) -> impl IntoResponse {
    let response = r#"{"model":"none","version":"1","results":[{"label":"7","score":0.9,"top":[{"label":"7","score":0.9}]}]}"#;
    ([(CONTENT_TYPE, "application/json")], response)
}

fn main() -> Result<()> {
    let args = Args::parse();
    benches::floor::serve(args.listen, Router::new().route("/v1/classify", post(classify)))
}
