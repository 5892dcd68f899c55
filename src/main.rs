//! Parse, build the runtime, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use classifyd::cli::{Cli, Command, OpenapiFormat, ServeArgs};
use classifyd::config::Config;
use classifyd::{bench, check, classify, cpu, http, startup, telemetry};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve(*args),
        Command::Classify(args) => classify::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Openapi(args) => openapi(args.format),
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
    let config = Config::load(args.settings, args.config.as_deref())?;
    if args.print_config {
        print!("{}", config.to_toml()?);
        return Ok(());
    }
    telemetry::init(&config.log, config.log_format).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpu::available())
        .enable_all()
        .build()?;
    let result = runtime.block_on(startup::serve(config));
    // A lane may be in a run that cannot be interrupted, and must not keep the process.
    runtime.shutdown_background();
    Ok(result?)
}

fn openapi(format: OpenapiFormat) -> anyhow::Result<()> {
    let document = http::document();
    match format {
        OpenapiFormat::Json => println!("{}", document.to_pretty_json()?),
        OpenapiFormat::Yaml => print!("{}", document.to_yaml()?),
    }
    Ok(())
}
