//! `classifyd bench` without the server.

use anyhow::Result;
use clap::Parser;

/// Measures a server that classifies over HTTP.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: classifyd::bench::Args,
}

fn main() -> Result<()> {
    classifyd::bench::run(&Cli::parse().args)
}
