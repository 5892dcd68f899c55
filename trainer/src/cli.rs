//! The command line.

use std::{
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
    optimizer::Rule,
    training::{self, Config, Outcome, Start, Task},
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
    /// Passes over the training pictures [default: 30 for cnn, 10 for mlp].
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
        Outcome::Finished { .. } => Ok(ExitCode::SUCCESS),
    }
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
