//! The subcommands, one file each.

mod api_key;
mod base_url;
pub mod bench;
mod check;
mod classify;
mod completions;
mod healthcheck;
mod man;
mod models;
mod openapi;
mod serve;
mod warm;

use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};
use classifier::runtime::environment;
use tokio::runtime::Runtime;

use crate::cli::{self, Cli, Command};
use crate::cpu;
use crate::reload::hold_hangups;

/// Parses the command line, runs the command and returns the exit code of the process.
///
/// It can replace the process by a new start of the same program, with an environment variable that
/// turns the telemetry of ONNX Runtime off. Call it first in `main`, before any other thread
/// exists.
pub fn run() -> ExitCode {
    let matches = cli::command()
        .try_get_matches()
        .unwrap_or_else(|error| cli::exit_with_usage(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(error) = prepare_process(&cli.command) {
        eprintln!("classifyd: {error}");
        return ExitCode::FAILURE;
    }
    match dispatch(cli.command, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe, such as `head`, has closed it. That is not a failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("classifyd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Blocks SIGHUP for a server, and restarts the program unless ONNX Runtime's telemetry is off.
fn prepare_process(command: &Command) -> std::io::Result<()> {
    if matches!(command, Command::Serve(_)) {
        hold_hangups()?;
    }
    environment::without_telemetry()
}

/// `matches` tells flags from environment variables, which the parsed command does not.
fn dispatch(command: Command, matches: &ArgMatches) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(*args, matches.subcommand_matches("serve")),
        Command::Classify(args) => classify::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Warm(args) => warm::run(*args, matches.subcommand_matches("warm")),
        Command::Bench(args) => bench::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::ApiKey(args) => api_key::run(&args),
        Command::Openapi(args) => openapi::run(args.format),
        Command::Completions(args) => completions::run(args.shell),
        Command::Man(args) => man::run(&args),
    }
}

/// The runtime of the commands that run models: a thread for each CPU.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpu::available())
        .enable_all()
        .build()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
