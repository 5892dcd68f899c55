//! `classifyd warm`: loads every model once, so that the next start finds its TensorRT engines.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ArgMatches;

use crate::catalog::{self, loading};
use crate::cli::WarmArgs;
use crate::config::{self, Config};
use crate::cpu::{self, Workers};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::{table, telemetry};

/// Loads and warms up every model as `serve` does and runs its golden samples, one model after the
/// other. With TensorRT that fills its cache of engines. A model that fails is reported, and the
/// others are still loaded.
pub fn run(args: WarmArgs, matches: Option<&ArgMatches>) -> Result<()> {
    let origins = matches.map(Config::origins_of).unwrap_or_default();
    let config = Config::load(args.settings, origins, args.config.as_deref())?;
    let (_telemetry, _guard) = telemetry::init(&config)?;
    if let Some(unread) = config::unread(args.config.as_deref()) {
        tracing::info!("{unread}");
    }
    let runtime = super::runtime()?;
    runtime.block_on(async { tokio::task::spawn_blocking(move || warm(&config)).await? })
}

/// Blocks. Must be called within a tokio runtime.
fn warm(config: &Config) -> Result<()> {
    loading::runtime(config)?;
    let opened = loading::open(config)?;
    let metrics = Metrics::new()?;
    let workers = Workers::start(cpu::available(), config.decode_memory.0.as_u64())?;
    let count = opened.len();
    let mut rows = Vec::new();
    let mut fallbacks = loading::Fallbacks::default();
    for (catalog::Found { name, version, .. }, bundle) in opened {
        let started = Instant::now();
        match loading::start(config, &name, version, bundle, &metrics, &workers) {
            Ok(model) => {
                fallbacks.add(&model);
                rows.push(row(&model, started.elapsed()));
                // Gives the memory back before the next one needs it.
                model.join();
            }
            Err(error) => eprintln!("classifyd: {error}"),
        }
    }
    fallbacks.warn();
    let warmed = rows.len();
    if warmed > 0 {
        let header = ["model", "provider", "gpu", "lanes", "max batch", "seconds"];
        let text = table::render(header, rows, &[2, 3, 4, 5]);
        writeln!(std::io::stdout(), "{text}")?;
    }
    let failed = count - warmed;
    ensure!(failed == 0, "{failed} of {count} models failed");
    Ok(())
}

fn row(model: &Model, time: Duration) -> [String; 6] {
    let placement = model.placement();
    [
        format!("{}/{}", model.name, model.version),
        placement.provider.name().to_owned(),
        placement.device_id.map_or("-".to_owned(), |id| id.to_string()),
        model.plan().lanes.to_string(),
        model.max_batch.to_string(),
        format!("{:.1}", time.as_secs_f64()),
    ]
}
