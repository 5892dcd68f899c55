//! `trainer search`.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    ComputeArgs, defaults, interrupted, stop_on_signal,
    tasks::{DigitsArgs, FashionArgs, FolderArgs, ImagesArgs, SentimentArgs, TaskArgs},
};
use crate::{
    numbers::at_least_one,
    search::{self, Request, Settings, Space},
    training::ConfigOptions,
};

#[derive(Debug, Subcommand)]
pub(super) enum SearchCommand {
    /// Handwritten digits, from MNIST.
    #[command(after_help = defaults::table("digits"))]
    Digits(Box<SearchArgs<DigitsArgs>>),
    /// Animals and vehicles in colour, from CIFAR-10.
    #[command(after_help = defaults::table("images"))]
    Images(Box<SearchArgs<ImagesArgs>>),
    /// Clothes, from Fashion-MNIST.
    #[command(after_help = defaults::table("fashion"))]
    Fashion(Box<SearchArgs<FashionArgs>>),
    /// Movie reviews, from IMDb. Of a blend, only the network is searched.
    #[command(after_help = defaults::table("sentiment"))]
    Sentiment(Box<SearchArgs<SentimentArgs>>),
    /// Images of your own, in directories named after their classes.
    #[command(after_help = defaults::table("folder"))]
    Folder(Box<SearchArgs<FolderArgs>>),
}

#[derive(Debug, Args)]
pub(super) struct SearchArgs<T: Args> {
    #[command(flatten)]
    task: T,
    /// A TOML file with what to draw from, one line for each setting:
    /// `learning_rate = { from = 0.001, to = 0.1, log = true }` or `schedule = ["cosine", "step"]`.
    #[arg(long, value_name = "FILE")]
    space: PathBuf,
    /// The number of trials. A later call with more of them continues the search.
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    trials: u32,
    /// Train on this many samples only: the first images of a published data set; reviews and
    /// images of your own spread evenly [default: all but those that are held out].
    #[arg(long, value_parser = at_least_one())]
    samples: Option<u32>,
    /// The directory for the trials; finished trials in it are not repeated [default:
    /// runs/search-TARGET-NETWORK].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(
        flatten,
        next_help_heading = "Settings (their defaults depend on the network and are listed below)"
    )]
    settings: ConfigOptions,
}

/// The options of a search that `train` does not have.
const OWN: [&str; 4] = ["space", "trials", "samples", "run"];

pub(super) fn run(command: SearchCommand) -> Result<ExitCode> {
    match command {
        SearchCommand::Digits(args) => search(*args),
        SearchCommand::Images(args) => search(*args),
        SearchCommand::Fashion(args) => search(*args),
        SearchCommand::Sentiment(args) => search(*args),
        SearchCommand::Folder(args) => search(*args),
    }
}

fn search<T: TaskArgs>(args: SearchArgs<T>) -> Result<ExitCode> {
    let task = args.task.task()?;
    let base = args.settings.over(task.defaults())?;
    let space = Space::read(&args.space)?;
    let run = args
        .run
        .unwrap_or_else(|| format!("runs/search-{}-{}", task.name(), base.network).into());
    let request = Request {
        base: &base,
        space: &space,
        trials: args.trials,
        samples: args.samples,
        run: &run,
        device: args.compute.apply()?,
    };
    let stop = stop_on_signal()?;
    let Some(trials) = search::run(task.as_ref(), &request, &stop)? else {
        return Ok(interrupted());
    };
    let arguments = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let command = train_command(arguments, &space.draw(base.seed, 1));
    print!("{}", search::table(&trials, &command));
    Ok(ExitCode::SUCCESS)
}

/// The `train` command for a search's command line: without the options that only a search has, and
/// without the settings that it draws.
fn train_command(arguments: impl Iterator<Item = String>, drawn: &Settings) -> String {
    let mut command = vec!["trainer".to_owned()];
    let mut arguments = arguments.skip(1);
    while let Some(argument) = arguments.next() {
        let name = argument
            .strip_prefix("--")
            .map(|name| name.split('=').next().unwrap_or(name));
        match name {
            Some(name) if OWN.contains(&name) || drawn.contains_key(name) => {
                if !argument.contains('=') {
                    arguments.next();
                }
            }
            None if argument == "search" && command.len() == 1 => command.push("train".to_owned()),
            _ => command.push(argument),
        }
    }
    command.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_trial_is_repeated_with_the_options_that_all_had() {
        let line = "target/release/trainer search digits --space a.toml --epochs 2 --trials=3 --momentum 0.5 --data d --run r";
        let drawn = Settings::from([("momentum".to_owned(), "0.7".to_owned())]);
        let command = train_command(line.split(' ').map(str::to_owned), &drawn);
        assert_eq!(command, "trainer train digits --epochs 2 --data d");
    }
}
