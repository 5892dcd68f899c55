//! `trainer search`.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser};
use serde_json::{Value, json};

use super::{
    ConfigArgs, DataArgs, DeviceName, FolderArgs, SETTINGS, at_least_one, glove, interrupted, stop_on_signal,
};
use crate::{
    data::{FetchTarget, imdb::Imdb},
    folder,
    recipe::{self, Target},
    search::{self, Ending, Search, Settings, Space, Subject, Trial},
    sentiment,
    training::{self, Config, Diverged, Outcome, Start, Task},
};

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// The classifier.
    target: Target,
    /// The network, as in `train` [default: the one that is served]. Of a blend, the network alone is searched for.
    #[arg(long)]
    network: Option<String>,
    /// TOML file with what to draw from, a line for each option of `train` that is about training:
    /// `learning_rate = { from = 0.001, to = 0.1, log = true }` or `schedule = ["cosine", "step"]`.
    #[arg(long, value_name = "FILE")]
    space: PathBuf,
    /// How many settings are tried. A later call with more goes on.
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    trials: u32,
    /// Train on so many samples only: the first pictures of a published data set, reviews and pictures of a folder spread
    /// evenly [default: all but those that are held out].
    #[arg(long, value_parser = at_least_one())]
    samples: Option<u32>,
    #[command(flatten)]
    data: DataArgs,
    /// Directory with GloVe's vectors, for sentiment [default: data/glove beside the data set's].
    #[arg(long, value_name = "DIR")]
    glove: Option<PathBuf>,
    /// Directory for the trials; those that it has are not repeated [default: runs/search-TARGET-NETWORK].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// CPU threads [default: all].
    #[arg(long, value_parser = at_least_one())]
    threads: Option<u32>,
    #[command(
        flatten,
        next_help_heading = "A folder of your own pictures (search folder --data DIR)"
    )]
    folder: FolderArgs,
    #[command(flatten, next_help_heading = SETTINGS)]
    config: ConfigArgs,
}

/// The options of a search that `train` does not have.
const OWN: [&str; 4] = ["space", "trials", "samples", "run"];

pub(super) fn run(args: &SearchArgs) -> Result<ExitCode> {
    let device = args.device.device()?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads as i32);
    }
    let base = base(args)?;
    let space = Space::read(&args.space)?;
    // Wrong names and values are told before anything is read or trained.
    for number in 1..=args.trials {
        let settings = space.draw(base.seed, number);
        if settings.contains_key("seed") && matches!(args.target, Target::Sentiment | Target::Folder) {
            bail!(
                "--space: `seed` also decides what is trained on; give --seed instead, which holds for all trials"
            );
        }
        drawn(&settings, &base)?;
    }
    let run = args
        .run
        .clone()
        .unwrap_or_else(|| format!("runs/search-{}-{}", args.target.name(), base.network).into());
    let (subject, what) = subject(args, &base, &run)?;
    let identity = json!({ "target": args.target.name(), "samples": args.samples, "what": what });
    let search = Search::open(&run, &space, &identity, &base)?;
    let stop = stop_on_signal()?;
    let mut trials = Vec::new();
    for number in 1..=args.trials {
        if let Some(trial) = search.ended(number)? {
            trials.push(trial);
            continue;
        }
        let settings = space.draw(base.seed, number);
        eprintln!(
            "trial {number} of {}: {}",
            args.trials,
            search::options(&settings)
        );
        let config = drawn(&settings, &base)?;
        let task = Task {
            layers: &subject.layers,
            config: &config,
            training: subject.training.as_ref(),
            validation: subject.validation.as_ref(),
            device,
        };
        let ending = match training::train(&task, &search.run(number), Start::Resume, &stop) {
            Ok(Outcome::Interrupted) => return Ok(interrupted()),
            Ok(Outcome::Finished { best, history, .. }) => {
                let epoch = history
                    .iter()
                    .find(|epoch| epoch.epoch == best)
                    .context("the run has no best epoch")?;
                Ending::Trained {
                    epoch: best,
                    validation_loss: epoch.validation_loss,
                    validation_accuracy: epoch.validation_accuracy,
                }
            }
            Err(error) if error.is::<Diverged>() => {
                eprintln!("{error}");
                Ending::Diverged
            }
            Err(error) => return Err(error),
        };
        let trial = Trial {
            number,
            settings,
            ending,
        };
        search.keep(&trial)?;
        trials.push(trial);
    }
    let arguments = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let command = train_command(arguments, &space.draw(base.seed, 1));
    print!("{}", search::table(&trials, &command));
    Ok(ExitCode::SUCCESS)
}

/// What holds for all trials.
fn base(args: &SearchArgs) -> Result<Config> {
    if let ([option, ..], false) = (args.folder.names().as_slice(), args.target == Target::Folder) {
        bail!("{option}: only `search folder` has this option");
    }
    let defaults = match args.target {
        Target::Folder => {
            if let Some(network) = &args.network {
                bail!("--network: expected none, for a folder has one network, found {network}");
            }
            args.folder.defaults()
        }
        Target::Sentiment => sentiment::Kind::find(args.network.as_deref())?.config(),
        target => recipe::find(target, args.network.as_deref())?.config,
    };
    Ok(args.config.over(&defaults))
}

/// What is trained, and what tells it from other data.
fn subject(args: &SearchArgs, base: &Config, run: &Path) -> Result<(Subject, Value)> {
    let samples = args.samples.map(|samples| samples as usize);
    match args.target {
        Target::Folder => {
            let given = args.folder.given(args.data.folder()?);
            folder::subject(&given, base.seed, run, samples)
        }
        Target::Sentiment => {
            let kind = sentiment::Kind::find(args.network.as_deref())?;
            let imdb = Imdb::open(&args.data.directory_of(FetchTarget::Imdb)?)?;
            let glove = glove(args.glove.as_deref())?;
            let subject = sentiment::subject(kind, base, (&imdb, &glove), run, samples)?;
            Ok((subject, json!(imdb.title())))
        }
        target => {
            let recipe = recipe::find(target, args.network.as_deref())?;
            let data = recipe.set.open(&args.data.directory(recipe.set)?)?;
            let (training, validation) = data.held_out();
            let kept = training.len().min(samples.unwrap_or(usize::MAX));
            let device = args.device.device()?;
            let subject = Subject {
                training: recipe.samples(&training.split_at(kept).0, device)?,
                validation: recipe.samples(&validation, device)?,
                layers: recipe.layers,
            };
            Ok((subject, json!(data.title())))
        }
    }
}

/// The command line of a search as one of `train`: without what only a search has, and without what it draws.
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

/// Drawn settings over the others, read as options are, so that they are checked as options are.
fn drawn(settings: &Settings, base: &Config) -> Result<Config> {
    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Drawn {
        #[command(flatten)]
        config: ConfigArgs,
    }
    let options = settings.iter().map(|(name, value)| format!("--{name}={value}"));
    match Drawn::try_parse_from(options) {
        Ok(drawn) => Ok(drawn.config.over(base)),
        Err(error) => {
            let text = error.to_string();
            bail!("--space: {}", text.lines().next().unwrap_or_default())
        }
    }
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
