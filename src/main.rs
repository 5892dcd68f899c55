//! Parse, build the runtime, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use classifyd::cli::{Cli, Command, ServeArgs};
use classifyd::config::Config;
use classifyd::{bench, check, classify, cpu, healthcheck, http, startup, telemetry};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve(*args),
        Command::Classify(args) => classify::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Openapi => openapi(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("classifyd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let print_config = args.print_config;
    let read = move || Config::load(args.settings.clone(), args.config.as_deref());
    let config = read()?;
    if print_config {
        print!("{}", config.to_toml()?);
        return Ok(());
    }
    // Dropped last, so that no line is lost.
    let (telemetry, _guard) = telemetry::init(&config).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpu::available())
        .enable_all()
        .build()?;
    let result = runtime.block_on(startup::serve(config, telemetry, read));
    // A lane may be in a run that cannot be interrupted, and must not keep the process.
    runtime.shutdown_background();
    Ok(result?)
}

fn openapi() -> anyhow::Result<()> {
    println!("{}", http::document().to_pretty_json()?);
    Ok(())
}
