//! The command line.

// The comments on arguments are shown in a terminal, not rendered.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use tch::Device;

use crate::{
    data::{self, mnist, mnist::Mnist},
    digits::Kind,
    evaluate::{self, TestPictures, evaluate_remote},
    export::{self, Trained},
    optimizer::Rule,
    training::{self, Config, Outcome, Start, Task},
    transform::Transform,
};

/// What the shell is told when a signal ended the program.
const INTERRUPTED: u8 = 130;

/// Trains and measures the classifiers that classifyd serves.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a data set and verify its checksums.
    Fetch(FetchArgs),
    /// Train a classifier and write its model directory.
    Train(TrainArgs),
    /// Measure a model directory on the test pictures, through the code that serves it.
    Evaluate(EvaluateArgs),
    /// Write test pictures as PNG files named LABEL_NUMBER.png.
    Samples(SamplesArgs),
}

/// Data sets that can be fetched.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DataSet {
    /// 60,000 + 10,000 handwritten digits.
    Mnist,
}

/// Classifiers that can be trained.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// Handwritten digits, from MNIST.
    Digits,
}

#[derive(Debug, Args)]
struct DataArgs {
    /// Directory with the data set's files, raw or gzipped [default: data/mnist in $CLASSIFYD_CACHE, else in
    /// $XDG_CACHE_HOME/classifyd, else in ~/.cache/classifyd].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    fn directory(&self) -> Result<PathBuf> {
        match &self.data {
            Some(directory) => Ok(directory.clone()),
            None => Ok(data::cache_directory()?.join("data/mnist")),
        }
    }
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// The data set.
    set: DataSet,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The classifier.
    target: Target,
    /// The network.
    #[arg(long, default_value = "cnn")]
    network: Kind,
    /// Passes over the training pictures [default: 20 for cnn, 10 for mlp].
    #[arg(long, value_parser = at_least_one())]
    epochs: Option<u32>,
    /// Pictures in a step [default: 128 for cnn, 64 for mlp].
    #[arg(long, value_parser = at_least_one())]
    batch_size: Option<u32>,
    /// The highest learning rate [default: 0.003 for cnn, 0.001 for mlp].
    #[arg(long, value_parser = positive)]
    learning_rate: Option<f64>,
    /// The rule for a step [default: adam].
    #[arg(long)]
    optimizer: Option<Rule>,
    /// All randomness follows from it: the same seed and number of threads give the same weights on a CPU.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this many epochs without a better validation accuracy.
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    patience: u32,
    #[command(flatten)]
    data: DataArgs,
    /// Model directory to write; one that is there is replaced [default: models/digits/1 for cnn,
    /// runs/digits-mlp/digits/1 for mlp].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Another model directory, whose accuracy the model card states as well.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
    /// Directory for checkpoints [default: runs/digits-NETWORK].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Go on from the checkpoint in the run's directory, if it has one.
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Discard the checkpoint in the run's directory.
    #[arg(long)]
    restart: bool,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// CPU threads [default: all].
    #[arg(long, value_parser = at_least_one())]
    threads: Option<u32>,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// The model directory, such as models/digits/1.
    directory: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// What to do to the test pictures first.
    #[arg(long, default_value = "none")]
    transform: Transform,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also send the pictures to the server at this address (such as http://127.0.0.1:8080), and fail if it gives one
    /// of them another label.
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Args)]
struct SamplesArgs {
    /// The data set.
    set: DataSet,
    #[command(flatten)]
    data: DataArgs,
    /// Directory to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many pictures of each class: the first ones of the test split.
    #[arg(long, default_value_t = 4, value_parser = at_least_one())]
    per_class: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceName {
    Cpu,
    /// The first NVIDIA GPU; needs a libtorch with CUDA.
    Cuda,
}

impl DeviceName {
    fn device(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda if tch::Cuda::is_available() => Ok(Device::Cuda(0)),
            Self::Cuda => bail!(
                "--device cuda: expected a GPU and a libtorch with CUDA, found {} GPUs and a libtorch {} CUDA",
                tch::Cuda::device_count(),
                if tch::utils::has_cuda() { "with" } else { "without" }
            ),
        }
    }
}

fn at_least_one() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=u64::from(u32::MAX))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Does what the arguments say.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Fetch(args) => fetch(&args),
        Command::Train(args) => train(&args),
        Command::Evaluate(args) => evaluate(&args),
        Command::Samples(args) => samples(&args),
    }
}

fn fetch(args: &FetchArgs) -> Result<ExitCode> {
    let DataSet::Mnist = args.set;
    for path in mnist::fetch(&args.data.directory()?)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

impl TrainArgs {
    fn out(&self) -> PathBuf {
        let default = match self.network {
            Kind::Cnn => "models/digits/1",
            Kind::Mlp => "runs/digits-mlp/digits/1",
        };
        self.out.clone().unwrap_or_else(|| default.into())
    }

    fn config(&self) -> Config {
        let mut config = self.network.config();
        config.epochs = self.epochs.unwrap_or(config.epochs);
        config.batch_size = self.batch_size.unwrap_or(config.batch_size);
        config.learning_rate = self.learning_rate.unwrap_or(config.learning_rate);
        config.optimizer = self.optimizer.unwrap_or(config.optimizer);
        config.patience = self.patience;
        config.seed = self.seed;
        config
    }
}

fn train(args: &TrainArgs) -> Result<ExitCode> {
    let Target::Digits = args.target;
    let device = args.device.device()?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads as i32);
    }
    let mnist = Mnist::open(&args.data.directory()?)?;
    let config = args.config();
    let run = args
        .run
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(format!("digits-{}", args.network.name())));

    // The last twelfth of the training pictures, 5,000 of MNIST's, tells which epoch was best.
    let count = mnist.training.len();
    let (training, validation) = mnist.training.clone().split_at(count - count / 12);
    let task = Task {
        layers: &args.network.layers(),
        config: &config,
        training: &args.network.samples(&training, device)?,
        validation: &args.network.samples(&validation, device)?,
        device,
    };
    let start = match (args.resume, args.restart) {
        (true, _) => Start::Resume,
        (_, true) => Start::Restart,
        _ => Start::Fresh,
    };
    let stop = stop_on_signal()?;
    match training::train(&task, &run, start, &stop)? {
        Outcome::Interrupted => {
            eprintln!("interrupted; go on with the same command and --resume");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished {
            network,
            best,
            history,
        } => {
            let trained = Trained {
                kind: args.network,
                network: &network,
                config: &config,
                history: &history,
                best,
                data: &mnist,
                split: (training.len(), validation.len()),
                command: &command(),
            };
            let measured = export::export(&trained, &args.out(), args.compare.as_deref())?;
            print!("{}", measured.test.table());
            for canvas in &measured.canvas {
                println!(
                    "transform {}: accuracy {:.2} %",
                    canvas.transform.name(),
                    100.0 * canvas.accuracy
                );
            }
            println!("wrote {}", args.out().display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The command line as it would be typed in the repository.
fn command() -> String {
    let arguments = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let lasting = arguments.filter(|argument| argument != "--resume" && argument != "--restart");
    iter::once("trainer".to_owned())
        .chain(lasting)
        .collect::<Vec<_>>()
        .join(" ")
}

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let mnist = Mnist::open(&args.data.directory()?)?;
    let samples = TestPictures {
        pictures: &mnist.test,
        transform: args.transform,
    };
    let measured = evaluate::evaluate(&args.directory, &samples)?;
    print!("{}", measured.evaluation.table());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&measured.evaluation).context("cannot write JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Some(url) = &args.url else {
        return Ok(ExitCode::SUCCESS);
    };
    let remote = evaluate_remote(url, &args.directory, &samples, &measured.scores)?;
    println!(
        "\nover HTTP: accuracy {:.2} %, {} labels differ",
        100.0 * remote.accuracy,
        remote.different.len()
    );
    for (at, here, there) in &remote.different {
        println!("test picture {at}: {here} here, {there} over HTTP");
    }
    Ok(if remote.different.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn samples(args: &SamplesArgs) -> Result<ExitCode> {
    let DataSet::Mnist = args.set;
    let test = Mnist::open(&args.data.directory()?)?.test;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    for at in test.first_of_each_class(args.per_class as usize) {
        let path = args.out.join(format!("{}_{at}.png", test.labels()[at]));
        let picture = test.get(at).context("a picture is missing")?;
        fs::write(&path, data::png(&picture)?).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes true at Ctrl-C or SIGTERM. A second one ends the program at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("finishing the step and saving a checkpoint; once more to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
