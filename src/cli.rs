//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Settings;

/// Serves ONNX classifiers over HTTP: POST an image or a text, get labels with scores.
#[derive(Debug, Parser)]
#[command(name = "classifyd", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.")]
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
    /// Classify files on the command line, without a server.
    Classify(ClassifyArgs),
    /// Prove model directories: load each, run its golden samples.
    Check(CheckArgs),
    /// Send requests to a server and measure its answers.
    Bench(Box<crate::bench::Args>),
    /// Ask a running server whether it is ready: exit code 0 if it is, else 1 with the reason. For containers.
    Healthcheck(HealthcheckArgs),
    /// Make an API key: its entry for the configuration on standard output, the key itself on standard error.
    ApiKey(ApiKeyArgs),
    /// Print the OpenAPI document.
    Openapi(OpenapiArgs),
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// File with the same keys as the options below, in TOML. Options and environment are stronger.
    #[arg(long, env = "CLASSIFYD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as TOML, with where each value came from, and exit.
    #[arg(long)]
    pub print_config: bool,
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

/// Options of `classify`.
#[derive(Debug, Args)]
pub struct ClassifyArgs {
    /// Files of pictures or texts; `-` is standard input. For a text classifier, what names no file is the text itself.
    #[arg(required = true, value_name = "FILE|TEXT")]
    pub inputs: Vec<String>,
    /// Folder of the models.
    #[arg(long, env = "CLASSIFYD_MODELS", default_value = "models")]
    pub models: PathBuf,
    /// Name of the model. Needed where the folder holds several.
    #[arg(long)]
    pub model: Option<String>,
    /// How many labels to print for each input.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: u32,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// File of the ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else where it is usually found.
    #[arg(long, env = "CLASSIFYD_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folders of models, or single model directories.
    #[arg(required = true)]
    pub directories: Vec<PathBuf>,
    /// File of the ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else where it is usually found.
    #[arg(long, env = "CLASSIFYD_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
}

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Server to ask, as in `http://localhost:8080`. Default: where one with this configuration listens.
    #[arg(long)]
    pub url: Option<String>,
    /// File of the server's configuration.
    #[arg(long, env = "CLASSIFYD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address and port that the server listens on, if not the configured ones.
    #[arg(long, env = "CLASSIFYD_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Ask only whether the process is alive (/livez), not whether it takes traffic (/readyz).
    #[arg(long)]
    pub live: bool,
    /// How long to wait for the connection, and for the answer.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
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
