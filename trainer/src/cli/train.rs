//! `trainer train`.

use std::{env, iter, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    ComputeArgs, defaults, interrupted, next, stop_on_signal,
    tasks::{DigitsArgs, FashionArgs, FolderArgs, ImagesArgs, SentimentArgs, TaskArgs},
};
use crate::{
    pipeline::{self, Request, Task},
    training::{ConfigOptions, Start},
};

#[derive(Debug, Subcommand)]
pub(super) enum TrainCommand {
    /// Handwritten digits, from MNIST.
    #[command(after_help = defaults::table("digits"))]
    Digits(Box<TrainArgs<DataSetArgs<DigitsArgs>>>),
    /// Animals and vehicles in colour, from CIFAR-10.
    #[command(after_help = defaults::table("images"))]
    Images(Box<TrainArgs<DataSetArgs<ImagesArgs>>>),
    /// Clothes, from Fashion-MNIST.
    #[command(after_help = defaults::table("fashion"))]
    Fashion(Box<TrainArgs<DataSetArgs<FashionArgs>>>),
    /// Movie reviews, from IMDb.
    #[command(after_help = defaults::table("sentiment"))]
    Sentiment(Box<TrainArgs<SentimentArgs>>),
    /// Images of your own, in directories named after their classes.
    #[command(after_help = defaults::table("folder"))]
    Folder(Box<TrainArgs<FolderArgs>>),
}

/// Options of training that a search does not have.
#[derive(Debug, Args)]
pub(super) struct DataSetArgs<T: Args> {
    #[command(flatten)]
    set: T,
    /// Train on the images of these classes only, separated by commas [default: all classes].
    #[arg(long, value_delimiter = ',', value_name = "CLASS,..")]
    classes: Vec<String>,
    /// Another model directory, whose accuracy the model card states as well.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
}

macro_rules! data_set_task {
    ($($set:ty),*) => {$(
        impl TaskArgs for DataSetArgs<$set> {
            fn task(self) -> Result<Box<dyn Task>> {
                let task = self.set.image_task()?.only(self.classes)?;
                Ok(Box::new(task.compared_with(self.compare)))
            }
        }
    )*};
}

data_set_task!(DigitsArgs, ImagesArgs, FashionArgs);

#[derive(Debug, Args)]
pub(super) struct TrainArgs<T: Args> {
    #[command(flatten)]
    task: T,
    /// The model directory to write; an earlier one is replaced [default: models/TARGET/1 for the
    /// target's first network, runs/TARGET-NETWORK/TARGET/1 for another, and a directory below the
    /// run's for images of your own and with --classes].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The directory for checkpoints [default: runs/TARGET-NETWORK, with the names of --classes;
    /// for images of your own runs/NAME].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Resume from the checkpoint in the run's directory, if it has one.
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Discard the checkpoint in the run's directory.
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(
        flatten,
        next_help_heading = "Settings (their defaults depend on the network and are listed below)"
    )]
    settings: ConfigOptions,
}

pub(super) fn run(command: TrainCommand) -> Result<ExitCode> {
    match command {
        TrainCommand::Digits(args) => train(*args),
        TrainCommand::Images(args) => train(*args),
        TrainCommand::Fashion(args) => train(*args),
        TrainCommand::Sentiment(args) => train(*args),
        TrainCommand::Folder(args) => train(*args),
    }
}

fn train<T: TaskArgs>(args: TrainArgs<T>) -> Result<ExitCode> {
    let task = args.task.task()?;
    let run = match args.run {
        Some(run) => run,
        None => task.default_run()?,
    };
    let out = match args.out {
        Some(out) => out,
        None => task.default_out(&run)?,
    };
    let request = Request {
        config: args.settings.over(task.defaults())?,
        device: args.compute.apply()?,
        run,
        out,
        start: match (args.resume, args.restart) {
            (true, _) => Start::Resume,
            (_, true) => Start::Restart,
            _ => Start::Fresh,
        },
        command: command_line(),
    };
    let stop = stop_on_signal()?;
    let Some(measured) = pipeline::train(task.as_ref(), &request, &stop)? else {
        return Ok(interrupted());
    };
    print!("{}", measured.reported().table());
    for note in &measured.notes {
        println!("{note}");
    }
    println!("{}", next::steps(&request.out, task.folder()));
    Ok(ExitCode::SUCCESS)
}

/// The command line as a user types it in the repository.
fn command_line() -> String {
    let arguments = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let lasting = arguments.filter(|argument| argument != "--resume" && argument != "--restart");
    iter::once("trainer".to_owned())
        .chain(lasting)
        .collect::<Vec<_>>()
        .join(" ")
}
