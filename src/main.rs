//! Parse, build the runtime, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;
use classifyd::cli::{self, Cli, Command, ServeArgs};
use classifyd::config::Config;
use classifyd::{bench, check, classify, cpu, healthcheck, http, models, shell, startup, telemetry};

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Serve(args) => serve(*args),
        Command::Classify(args) => classify::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Openapi => openapi(),
        Command::Completions(args) => shell::completions(args.shell),
        Command::Man(args) => shell::man(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `classifyd ... | head` has had enough, and that is no fault.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
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
        std::io::stdout().write_all(config.to_toml()?.as_bytes())?;
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
    writeln!(std::io::stdout(), "{}", http::document().to_pretty_json()?)?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
