//! The command line.

// The comments on arguments are shown in a terminal, not rendered.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

mod defaults;
mod measure;
mod next;
mod samples;
mod search;
mod tasks;
mod train;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tch::Device;

use crate::{data::FetchTarget, numbers::at_least_one};

/// The exit code of a program that a signal ended.
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
    #[command(subcommand, after_help = defaults::table(""))]
    Train(train::TrainCommand),
    /// Train with settings drawn at random, and show which ones are best on the validation samples.
    #[command(subcommand, after_help = defaults::table(""))]
    Search(search::SearchCommand),
    /// Measure a model directory on test samples, through the code that serves it.
    Evaluate(measure::EvaluateArgs),
    /// Draw a run's learning curves, or a model directory's confusion matrix and calibration, into
    /// its model card.
    Report(measure::ReportArgs),
    /// Write images of a data set as PNG files named LABEL_NUMBER.png, in directories, or as one
    /// sheet; or reviews as lines of JSON.
    Samples(samples::SamplesArgs),
}

#[derive(Debug, Args)]
struct DataArgs {
    /// The directory with the data set's files, raw or gzipped [default: data/SET in
    /// $CLASSIFYD_CACHE, else in $XDG_CACHE_HOME/classifyd, else in ~/.cache/classifyd].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    fn directory_of(&self, set: FetchTarget) -> Result<PathBuf> {
        match &self.data {
            Some(directory) => Ok(directory.clone()),
            None => set.directory(),
        }
    }
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// The data set.
    set: FetchTarget,
    #[command(flatten)]
    data: DataArgs,
}

/// Where training computes.
#[derive(Debug, Args)]
struct ComputeArgs {
    /// The device to compute on.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// CPU threads [default: all].
    #[arg(long, value_parser = at_least_one())]
    threads: Option<u32>,
}

impl ComputeArgs {
    /// Sets the number of threads and returns the device.
    fn apply(&self) -> Result<Device> {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads as i32);
        }
        self.device.device()
    }
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
            // `has_cuda` is false without a GPU; only a libtorch with CUDA brings the CUDA runtime.
            Self::Cuda if tch::utils::has_cudart() => bail!(
                "--device cuda: expected an NVIDIA GPU with a driver for CUDA 13, found none: nvidia-smi shows what the driver sees"
            ),
            Self::Cuda => bail!(
                "--device cuda: expected a libtorch with CUDA, found one for the CPU alone: build the trainer with \
                 LIBTORCH=$(scripts/setup-libtorch.sh gpu)"
            ),
        }
    }
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Fetch(args) => fetch(&args),
        Command::Train(command) => train::run(command),
        Command::Search(command) => search::run(command),
        Command::Evaluate(args) => measure::evaluate(&args),
        Command::Report(args) => measure::report(&args),
        Command::Samples(args) => samples::samples(&args),
    }
}

fn fetch(args: &FetchArgs) -> Result<ExitCode> {
    for path in args.set.fetch(&args.data.directory_of(args.set)?)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn interrupted() -> ExitCode {
    eprintln!("interrupted; resume with the same command and --resume");
    ExitCode::from(INTERRUPTED)
}

/// Returns a flag that becomes true at Ctrl-C or SIGTERM. A second signal ends the program at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("finishing the step and saving a checkpoint; press again to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
