//! Parse, build the runtime, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, FromArgMatches};
use classifier::runtime::environment;
use classifyd::cli::{self, Cli, Command, OpenapiFormat, ServeArgs, WarmArgs};
use classifyd::config::{self, Config};
use classifyd::reload::{Hangups, hold_hangups};
use classifyd::{
    api_key, check, classify, commands, cpu, healthcheck, http, models, shell, startup, telemetry, warm,
};

/// A request allocates some dozens of times, on several threads: a sixth of its CPU time with glibc's allocator, see
/// docs/performance.md. Its feature `no_thp` keeps it off huge pages, which took 25 MB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = cli::command()
        .try_get_matches()
        .unwrap_or_else(|error| wrong_usage(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(error) = start_again(&cli.command) {
        eprintln!("classifyd: {error}");
        return ExitCode::FAILURE;
    }
    let result = match cli.command {
        Command::Serve(args) => serve(*args, matches.subcommand_matches("serve")),
        Command::Classify(args) => classify::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Warm(args) => warm(*args, matches.subcommand_matches("warm")),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::ApiKey(args) => api_key::run(&args),
        Command::Openapi(args) => openapi(args.format),
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

/// Starts the program again without the telemetry of ONNX Runtime, unless that is done.
fn start_again(command: &Command) -> std::io::Result<()> {
    if matches!(command, Command::Serve(_)) {
        hold_hangups()?;
    }
    environment::without_telemetry()
}

/// Ends the process as clap would, and says where a value came from that is nowhere on the command line.
fn wrong_usage(error: &clap::Error) -> ! {
    let from_environment = || {
        let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
            return None;
        };
        let flag = argument.split(' ').next()?;
        let is_flag = |word: String| word == flag || word.starts_with(&format!("{flag}="));
        let key = flag.trim_start_matches("--").replace('-', "_");
        let (_, variable) = Config::KEYS.iter().find(|(name, _)| *name == key)?;
        (!std::env::args().any(is_flag)).then_some(variable)
    };
    let variable = from_environment();
    let _ = error.print();
    if let Some(variable) = variable {
        eprintln!("The value comes from the environment variable {variable}.");
    }
    std::process::exit(error.exit_code())
}

/// `matches` knows which of the settings were flags.
fn serve(args: ServeArgs, matches: Option<&ArgMatches>) -> anyhow::Result<()> {
    let print_config = args.print_config;
    let named = args.config.clone();
    let hangups = Hangups::listen()?;
    let origins = matches.map(Config::origins_of).unwrap_or_default();
    let read = move || Config::load(args.settings.clone(), origins.clone(), args.config.as_deref());
    let config = read()?;
    let unread = config::unread(named.as_deref());
    if print_config {
        if let Some(unread) = unread {
            writeln!(std::io::stdout(), "# {unread}")?;
        }
        std::io::stdout().write_all(config.to_toml()?.as_bytes())?;
        return Ok(());
    }
    // Dropped last, so that no line is lost.
    let (telemetry, _guard) = telemetry::init(&config)?;
    if let Some(unread) = unread {
        tracing::info!("{unread}");
    }
    let runtime = runtime()?;
    let result = runtime.block_on(startup::serve(config, telemetry, hangups, read));
    // A lane may be in a run that cannot be interrupted, and must not keep the process.
    runtime.shutdown_background();
    Ok(result?)
}

/// `matches` knows which of the settings were flags.
fn warm(args: WarmArgs, matches: Option<&ArgMatches>) -> anyhow::Result<()> {
    let origins = matches.map(Config::origins_of).unwrap_or_default();
    let config = Config::load(args.settings, origins, args.config.as_deref())?;
    let (_telemetry, _guard) = telemetry::init(&config).map_err(anyhow::Error::msg)?;
    if let Some(unread) = config::unread(args.config.as_deref()) {
        tracing::info!("{unread}");
    }
    let runtime = runtime()?;
    runtime.block_on(async { tokio::task::spawn_blocking(move || warm::run(&config)).await? })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpu::available())
        .enable_all()
        .build()
}

fn openapi(format: OpenapiFormat) -> anyhow::Result<()> {
    let document = http::document();
    let mut output = std::io::stdout();
    match format {
        OpenapiFormat::Json => writeln!(output, "{}", document.to_pretty_json()?)?,
        OpenapiFormat::Yaml => write!(output, "{}", document.to_yaml()?)?,
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
