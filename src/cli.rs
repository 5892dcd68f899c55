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

/// Serves ONNX classifiers over HTTP: pictures and texts in, labels with scores out.
#[derive(Debug, Parser)]
#[command(name = "classifyd", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models of a folder over HTTP.
    Serve(Box<ServeArgs>),
    /// Classify files, folders and texts, here or with a running server.
    Classify(Box<ClassifyArgs>),
    /// List the models of a folder: task, labels, size, accuracy.
    Models(ModelsArgs),
    /// Prove model directories: load each, run its golden samples.
    Check(CheckArgs),
    /// Load every model once, which fills the cache of TensorRT engines.
    Warm(Box<WarmArgs>),
    /// Send requests to a server and measure its answers.
    Bench(Box<crate::commands::bench::Args>),
    /// Ask a running server whether it is ready.
    Healthcheck(HealthcheckArgs),
    /// Make an API key for a client.
    ApiKey(ApiKeyArgs),
    /// Print the OpenAPI document.
    Openapi(OpenapiArgs),
    /// Print the script that completes this command line in a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands.
    Man(ManArgs),
}

/// The command line with its help in full; what the shell's completions and the manual pages are made of as well.
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

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// File with the same keys as the options below, in TOML. Options and environment are stronger.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as TOML, with where each value came from, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// Every key of the configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `warm`: those of `serve`, so that what is built is what it needs.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// File with the same keys as the options below, in TOML. Options and environment are stronger.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Every key of the configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `api-key`.
#[derive(Debug, Args)]
pub struct ApiKeyArgs {
    /// Who gets it: letters, digits, '-', '_', '.'. A label of metrics.
    pub name: String,
}

/// Heading of the options that only a request to a server needs.
const REMOTE: &str = "With a running server";

/// Options of `classify`.
#[derive(Debug, Args)]
pub struct ClassifyArgs {
    /// Files, folders (with all below them) and patterns such as 'photos/**/*.jpg'; `-` is standard input. For a text classifier,
    /// what names no file, and does not look as if it did, is the text itself.
    #[arg(required_unless_present = "text", value_name = "FILE|FOLDER|PATTERN|TEXT", value_hint = ValueHint::AnyPath)]
    pub inputs: Vec<OsString>,
    /// Take this as a text, whatever it looks like. May be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Vec<String>,
    /// Folder of the models.
    #[arg(long, env = "CLASSIFYD_MODELS", value_name = "DIR", default_value = "models")]
    pub models: PathBuf,
    /// Name of the model. Needed where the folder holds several; a server may have a default.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// File of the ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else where it is usually found.
    #[arg(long, env = "CLASSIFYD_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// How many labels to print for each input.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: u32,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Take the name of each file's folder for its label, and say how many are right.
    #[arg(long)]
    pub labels_from_folders: bool,
    /// How many inputs are under way at once. Default: one for each CPU, or 8 with a server.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub concurrency: Option<usize>,
    /// Ask this server, as in `http://localhost:8080`, instead of opening a model here.
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
    /// How long to wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = REMOTE)]
    #[arg(value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>()
        .map(NonZeroUsize::get)
        .map_err(|_| format!("expected a number of at least 1, found {text:?}"))
}

/// Options of `models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Folder of the models. Default: that of the configuration, else `models`.
    #[arg(env = "CLASSIFYD_MODELS", value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// File of the server's configuration, which says what the default models are.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Model for pictures when a request names none, if not the configured one.
    #[arg(long, env = "CLASSIFYD_DEFAULT_IMAGE_MODEL", value_name = "NAME")]
    pub default_image_model: Option<String>,
    /// Model for texts when a request names none, if not the configured one.
    #[arg(long, env = "CLASSIFYD_DEFAULT_TEXT_MODEL", value_name = "NAME")]
    pub default_text_model: Option<String>,
    /// Print one JSON object a line, with all labels, instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folders of models, or single model directories.
    #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directories: Vec<PathBuf>,
    /// File of the ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else where it is usually found.
    #[arg(long, env = "CLASSIFYD_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Server to ask, as in `http://localhost:8080`. Default: where one with this configuration listens.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,
    /// File of the server's configuration.
    #[arg(long, env = "CLASSIFYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port that the server listens on, if not the configured ones.
    #[arg(long, env = "CLASSIFYD_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<Address>,
    /// Ask only whether the process is alive (/livez), not whether it takes traffic (/readyz).
    #[arg(long)]
    pub live: bool,
    /// How long to wait for the connection, and for the answer.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for classifyd.1, classifyd-serve.1 and so on. Default: print classifyd.1.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

/// Options of `openapi`.
#[derive(Debug, Args)]
pub struct OpenapiArgs {
    /// How to write it.
    #[arg(long, value_enum, default_value_t)]
    pub format: OpenapiFormat,
}

/// How the OpenAPI document is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OpenapiFormat {
    /// As JSON.
    #[default]
    Json,
    /// As YAML.
    Yaml,
}
