//! The command line.

mod help;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::config::{Address, Config, Settings};

/// Serves ONNX classifiers over HTTP: images and texts in, labels with scores out.
#[derive(Debug, Parser)]
#[command(name = "classifyd", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models of a directory over HTTP.
    Serve(Box<ServeArgs>),
    /// Classify files, directories and texts, locally or with a running server.
    Classify(Box<ClassifyArgs>),
    /// List the models of a directory: task, labels, size, accuracy.
    Models(ModelsArgs),
    /// Verify model directories: load each model and run its golden samples.
    Check(CheckArgs),
    /// Load every model once, to fill the cache of TensorRT engines.
    Warm(Box<WarmArgs>),
    /// Send load to a server and measure its responses.
    Bench(Box<crate::commands::bench::Args>),
    /// Check whether a running server is ready.
    Healthcheck(HealthcheckArgs),
    /// Create an API key for a client.
    ApiKey(ApiKeyArgs),
    /// Print the OpenAPI document.
    Openapi(OpenapiArgs),
    /// Print a shell completion script.
    Completions(CompletionsArgs),
    /// Print the manual page, or write the pages of all commands.
    Man(ManArgs),
}

/// The command line with its complete help. Completions and manual pages are made from it too.
pub fn command() -> clap::Command {
    help::complete(Cli::command())
}

/// Reports wrong usage as clap does and ends the process. If the value came from an environment
/// variable, the message names it: it is nowhere on the command line.
pub fn exit_with_usage(error: &clap::Error) -> ! {
    let _ = error.print();
    if let Some(variable) = variable_of(error) {
        eprintln!("The value comes from the environment variable {variable}.");
    }
    std::process::exit(error.exit_code())
}

fn variable_of(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split(' ').next()?;
    let is_flag = |word: String| word == flag || word.starts_with(&format!("{flag}="));
    if std::env::args().any(is_flag) {
        return None;
    }
    let key = flag.trim_start_matches("--").replace('-', "_");
    let key = Config::KEYS.iter().find(|known| known.name == key)?;
    Some(key.variable)
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TOML file with the same keys as the options below. Options and environment override it.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as TOML, with the origin of each value, and exit.
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// `warm` has the options of `serve`, so that the engines that it builds are the ones that `serve`
/// needs.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// TOML file with the same keys as the options below. Options and environment override it.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct ApiKeyArgs {
    /// Name of the client, which is a label of metrics. Letters, digits, '-', '_' and '.'.
    pub name: String,
}

/// Heading of the options that have an effect only with `--url`.
const REMOTE: &str = "With a running server";

#[derive(Debug, Args)]
pub struct ClassifyArgs {
    /// Files, directories (with their subdirectories) and patterns such as 'photos/**/*.jpg'; `-`
    /// is standard input. For a text classifier, an argument that does not look like a file name is
    /// a text.
    #[arg(required_unless_present = "text", value_name = "FILE|FOLDER|PATTERN|TEXT", value_hint = ValueHint::AnyPath)]
    pub inputs: Vec<OsString>,
    /// A text, even if it looks like a file name. May be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Vec<String>,
    /// Directory with the models.
    #[arg(long, env = "CLASSIFYD_MODELS", value_name = "DIR", default_value = "models")]
    pub models: PathBuf,
    /// Name of the model. Required if the directory holds several; a server can have a default.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else the usual places.
    #[arg(long, env = "CLASSIFYD_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Number of labels to print for each input.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: u32,
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Use the name of each file's directory as its expected label, and print the accuracy.
    #[arg(long)]
    pub labels_from_folders: bool,
    /// Number of inputs to classify concurrently. Default: the number of CPUs, or 8 with a server.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub concurrency: Option<usize>,
    /// Send the inputs to this server, as in `http://localhost:8080`, instead of a local model.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, help_heading = REMOTE)]
    pub url: Option<String>,
    /// API key, sent as `Authorization: Bearer`.
    #[arg(
        long,
        value_name = "KEY",
        env = "CLASSIFYD_API_KEY",
        hide_env_values = true,
        help_heading = REMOTE
    )]
    pub api_key: Option<String>,
    /// How long to wait for a response.
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = REMOTE)]
    #[arg(value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>()
        .map(NonZeroUsize::get)
        .map_err(|_| format!("expected a number of at least 1, found {text:?}"))
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Directory with the models. Default: the configured one, else `models`.
    #[arg(env = "CLASSIFYD_MODELS", value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Configuration file of the server, which names the default models.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Model for images if a request names none. Default: the configured one.
    #[arg(long, env = "CLASSIFYD_DEFAULT_IMAGE_MODEL", value_name = "NAME")]
    pub default_image_model: Option<String>,
    /// Model for texts if a request names none. Default: the configured one.
    #[arg(long, env = "CLASSIFYD_DEFAULT_TEXT_MODEL", value_name = "NAME")]
    pub default_text_model: Option<String>,
    /// Print one JSON object per line, with all labels, instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Directories with models, or single model directories.
    #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directories: Vec<PathBuf>,
    /// ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else the usual places.
    #[arg(long, env = "CLASSIFYD_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// URL of the server, as in `http://localhost:8080`. Default: from the configuration.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,
    /// Configuration file of the server.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port of the server. Default: the configured ones.
    #[arg(long, env = "CLASSIFYD_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<Address>,
    /// Check only whether the process is alive (/livez), not whether it is ready (/readyz).
    #[arg(long)]
    pub live: bool,
    /// How long to wait for the connection and the response.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to complete commands in.
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for classifyd.1, classifyd-serve.1 and so on. Default: print classifyd.1.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct OpenapiArgs {
    /// Format of the document.
    #[arg(long, value_enum, default_value_t)]
    pub format: OpenapiFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OpenapiFormat {
    #[default]
    Json,
    Yaml,
}
