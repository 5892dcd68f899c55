//! F0: a bare route that reads the body and answers a fixed text. No server on axum can be faster.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use clap::Parser;

/// Answers every request with the same JSON.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8100")]
    listen: SocketAddr,
}

async fn classify(_body: Bytes) -> impl IntoResponse {
    let answer = r#"{"model":"none","version":"1","results":[{"label":"7","score":0.9,"top":[{"label":"7","score":0.9}]}]}"#;
    ([(CONTENT_TYPE, "application/json")], answer)
}

fn main() -> Result<()> {
    let args = Args::parse();
    benches::floor::serve(args.listen, Router::new().route("/v1/classify", post(classify)))
}
