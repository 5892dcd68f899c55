//! Random search: each trial trains with settings that are drawn from a small space, in a run of
//! its own. The trials are compared on the validation samples.
//!
//! The settings of a trial depend on its number and the seed alone, so a search can be stopped,
//! resumed and made longer.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::Device;

use crate::{
    files::{create, read_json, write_json},
    pipeline::{Opening, Prepared, Subject, Task},
    training::{self, Config, ConfigOptions, Diverged, Outcome, Start},
};

/// The file that identifies a search, in the directory of its trials.
const SEARCH: &str = "search.json";
/// The file with a trial's result, in the directory of the trial.
const RESULT: &str = "result.json";

/// The values that a setting may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Values {
    /// One of these, each with the same probability.
    OneOf(Vec<String>),
    /// Any number between the two; with `log`, each order of magnitude has the same probability.
    Between { from: f64, to: f64, log: bool },
}

/// The values that each setting may take, by the name of its option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Space(BTreeMap<String, Values>);

/// The values of settings, by the name of their option.
pub type Settings = BTreeMap<String, String>;

impl Space {
    /// Reads a TOML file such as
    ///
    /// ```toml
    /// learning_rate = { from = 0.001, to = 0.1, log = true }
    /// schedule = ["cosine", "one-cycle"]
    /// ```
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let table: toml::Table = toml::from_str(&text).with_context(|| file.display().to_string())?;
        if table.is_empty() {
            bail!("{}: expected a setting, found none", file.display());
        }
        let read = |(name, value): (String, toml::Value)| {
            let values = values(&value).with_context(|| format!("{}: `{name}`", file.display()))?;
            Ok((name.replace('_', "-"), values))
        };
        table.into_iter().map(read).collect::<Result<_>>().map(Self)
    }

    /// Draws the settings of a trial.
    pub fn draw(&self, seed: u64, number: u32) -> Settings {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(number));
        let mut settings = Settings::new();
        for (name, values) in &self.0 {
            let part = f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0);
            let value = match values {
                Values::OneOf(list) => list[(part * list.len() as f64) as usize].clone(),
                Values::Between { from, to, log: true } => four_digits(from * (to / from).powf(part)),
                Values::Between { from, to, log: false } => four_digits(from + (to - from) * part),
            };
            settings.insert(name.clone(), value);
        }
        settings
    }
}

fn values(value: &toml::Value) -> Result<Values> {
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok(value.to_string()),
        _ => bail!("expected a text, a number, true or false, found {value}"),
    };
    match value {
        toml::Value::Array(list) if !list.is_empty() => {
            Ok(Values::OneOf(list.iter().map(scalar).collect::<Result<_>>()?))
        }
        toml::Value::Table(table) => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Between {
                from: f64,
                to: f64,
                #[serde(default)]
                log: bool,
            }
            let Between { from, to, log } = table.clone().try_into()?;
            let ordered = from < to && from.is_finite() && to.is_finite();
            if !ordered || log && from <= 0.0 {
                let above = if log { " above 0" } else { "" };
                bail!("expected `from`{above} and a larger `to`, found {from} and {to}");
            }
            Ok(Values::Between { from, to, log })
        }
        _ => bail!("expected a list of values, or {{ from = .., to = .., log = true }}, found {value}"),
    }
}

/// Formats a number with four digits, which are enough to repeat a trial by hand.
fn four_digits(value: f64) -> String {
    let digits = 3 - value.abs().max(f64::MIN_POSITIVE).log10().floor() as i32;
    let text = format!("{value:.*}", digits.max(0) as usize);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Picks `wanted` of `all`, evenly spread, so that every class is among them if they are sorted by
/// class.
pub fn spread<T>(all: Vec<T>, wanted: Option<usize>) -> Vec<T> {
    let count = all.len();
    match wanted {
        Some(wanted) if wanted < count => {
            let kept = |(at, _): &(usize, T)| (at + 1) * wanted / count > at * wanted / count;
            all.into_iter()
                .enumerate()
                .filter(kept)
                .map(|(_, one)| one)
                .collect()
        }
        _ => all,
    }
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ending {
    Trained {
        /// The best epoch, counted from 1.
        epoch: u32,
        validation_loss: f64,
        validation_accuracy: f64,
    },
    Diverged,
}

/// A trial that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Counted from 1.
    pub number: u32,
    pub settings: Settings,
    pub ending: Ending,
}

/// The directory of a search, which has a directory for each trial.
#[derive(Debug)]
pub struct Search {
    directory: PathBuf,
}

impl Search {
    /// Opens or creates the directory. The directory of another search is rejected.
    pub fn open(directory: &Path, space: &Space, subject: &serde_json::Value, base: &Config) -> Result<Self> {
        let identity = serde_json::json!({ "subject": subject, "space": space, "base": base });
        let file = directory.join(SEARCH);
        if file.exists() {
            let found: serde_json::Value = read_json(&file)?;
            if found != identity {
                bail!(
                    "{}: expected a search with the same data, space and options, found another one: name another --run",
                    file.display()
                );
            }
        } else {
            create(directory)?;
            write_json(&file, &identity)?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// The directory of a trial's training run.
    pub fn run(&self, number: u32) -> PathBuf {
        self.directory.join(format!("trial-{number}"))
    }

    /// Reads a trial, if it has ended.
    pub fn ended(&self, number: u32) -> Result<Option<Trial>> {
        let file = self.run(number).join(RESULT);
        if !file.exists() {
            return Ok(None);
        }
        read_json(&file).map(Some)
    }

    /// Keeps a trial that has ended.
    pub fn keep(&self, trial: &Trial) -> Result<()> {
        write_json(&self.run(trial.number).join(RESULT), trial)
    }
}

/// What to search, and how.
#[derive(Debug)]
pub struct Request<'a> {
    /// The settings that all trials share, unless they are drawn.
    pub base: &'a Config,
    pub space: &'a Space,
    /// The number of trials.
    pub trials: u32,
    /// Train on this many samples only.
    pub samples: Option<u32>,
    /// The directory for the trials.
    pub run: &'a Path,
    pub device: Device,
}

/// Tries settings. Returns `None` if `stop` became true first. Trials that had ended before are not
/// repeated.
pub fn run(task: &dyn Task, request: &Request<'_>, stop: &AtomicBool) -> Result<Option<Vec<Trial>>> {
    let configs = check(task, request)?;
    let prepared = task.open(&Opening {
        config: request.base,
        device: request.device,
        run: request.run,
        start: None,
        samples: request.samples.map(|samples| samples as usize),
    })?;
    let subject = prepared.subject().context(
        "--network: this classifier trains no network, so it has no settings to search for: name another one",
    )?;
    let search = open(task, prepared.as_ref(), request)?;
    let mut trials = Vec::new();
    for (number, (settings, config)) in (1..).zip(configs) {
        if let Some(trial) = search.ended(number)? {
            trials.push(trial);
            continue;
        }
        eprintln!("trial {number} of {}: {}", request.trials, options(&settings));
        let Some(ending) = try_settings(subject, &config, request.device, &search.run(number), stop)? else {
            return Ok(None);
        };
        let trial = Trial {
            number,
            settings,
            ending,
        };
        search.keep(&trial)?;
        trials.push(trial);
    }
    Ok(Some(trials))
}

/// Draws and checks the settings of all trials, before anything is read or trained.
fn check(task: &dyn Task, request: &Request<'_>) -> Result<Vec<(Settings, Config)>> {
    let draw = |number| {
        let settings = request.space.draw(request.base.seed, number);
        if settings.contains_key("seed") && task.seed_selects_samples() {
            bail!(
                "--space: `seed` also decides which samples are trained on; give --seed instead, for all trials"
            );
        }
        let config = apply(&settings, request.base)?;
        Ok((settings, config))
    };
    (1..=request.trials).map(draw).collect()
}

fn open(task: &dyn Task, prepared: &dyn Prepared, request: &Request<'_>) -> Result<Search> {
    let identity = json!({
        "target": task.name(),
        "samples": request.samples,
        "what": prepared.identity()?,
    });
    Search::open(request.run, request.space, &identity, request.base)
}

fn try_settings(
    subject: Subject<'_>,
    config: &Config,
    device: Device,
    run: &Path,
    stop: &AtomicBool,
) -> Result<Option<Ending>> {
    match training::train(&subject.job(config, device), run, Start::Resume, stop) {
        Ok(Outcome::Interrupted) => Ok(None),
        Ok(Outcome::Finished { best, history, .. }) => {
            let mut epochs = history.iter();
            let epoch = epochs
                .find(|epoch| epoch.epoch == best)
                .context("the run has no best epoch")?;
            Ok(Some(Ending::Trained {
                epoch: best,
                validation_loss: epoch.validation_loss,
                validation_accuracy: epoch.validation_accuracy,
            }))
        }
        Err(error) if error.is::<Diverged>() => {
            eprintln!("{error}");
            Ok(Some(Ending::Diverged))
        }
        Err(error) => Err(error),
    }
}

/// Applies drawn settings to the others. They are parsed as options, and so are checked as options.
fn apply(settings: &Settings, base: &Config) -> Result<Config> {
    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Drawn {
        #[command(flatten)]
        options: ConfigOptions,
    }
    let arguments = settings.iter().map(|(name, value)| format!("--{name}={value}"));
    let drawn = Drawn::try_parse_from(arguments).and_then(|drawn| drawn.options.over(base.clone()));
    drawn.map_err(|error| {
        let text = error.to_string();
        anyhow::anyhow!("--space: {}", text.lines().next().unwrap_or_default())
    })
}

/// The trials in a table, best first, and the command that trains with the best settings.
pub fn table(trials: &[Trial], command: &str) -> String {
    let accuracy = |trial: &Trial| match trial.ending {
        Ending::Trained {
            validation_accuracy, ..
        } => validation_accuracy,
        Ending::Diverged => -1.0,
    };
    let mut sorted: Vec<&Trial> = trials.iter().collect();
    sorted.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)).then(a.number.cmp(&b.number)));
    let mut text = format!(
        "{:>5} {:>10} {:>8} {:>5}  settings\n",
        "trial", "accuracy", "loss", "epoch"
    );
    for trial in &sorted {
        let _ = match trial.ending {
            Ending::Trained {
                epoch,
                validation_loss,
                validation_accuracy,
            } => write!(
                text,
                "{:>5} {:>8.2} % {validation_loss:>8.4} {epoch:>5}",
                trial.number,
                100.0 * validation_accuracy
            ),
            Ending::Diverged => write!(
                text,
                "{:>5} {:>10} {:>8} {:>5}",
                trial.number, "diverged", "-", "-"
            ),
        };
        let _ = writeln!(text, "  {}", options(&trial.settings));
    }
    if let Some(best) = sorted.first().filter(|best| best.ending != Ending::Diverged) {
        let _ = writeln!(text, "\nthe best: {command} {}", options(&best.settings));
    }
    text
}

/// Settings as on the command line.
pub fn options(settings: &Settings) -> String {
    let options: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("--{name} {value}"))
        .collect();
    options.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(text: &str) -> Result<Space> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("space.toml");
        fs::write(&file, text)?;
        Space::read(&file)
    }

    #[test]
    fn a_trial_draws_its_own_settings_within_the_space() {
        let space = space(
            "learning_rate = { from = 0.001, to = 0.1, log = true }\nmomentum = { from = 0.5, to = 0.9 }\n\
             schedule = [\"cosine\", \"step\"]\nbatch_size = [16, 32]",
        )
        .unwrap();
        let drawn: Vec<Settings> = (1..=200).map(|number| space.draw(7, number)).collect();
        assert_eq!(drawn[4], space.draw(7, 5), "whatever was drawn before");
        assert_ne!(drawn[4], space.draw(8, 5));
        let numbers = |name: &str| -> Vec<f64> {
            drawn
                .iter()
                .map(|settings| settings[name].parse().unwrap())
                .collect()
        };
        let rates = numbers("learning-rate");
        assert!(rates.iter().all(|rate| (0.001..=0.1).contains(rate)));
        let low = rates.iter().filter(|rate| **rate < 0.01).count();
        assert!(
            (70..130).contains(&low),
            "each order of magnitude is as likely: {low}"
        );
        assert!(
            numbers("momentum")
                .iter()
                .all(|momentum| (0.5..=0.9).contains(momentum))
        );
        for (name, values) in [("schedule", ["cosine", "step"]), ("batch-size", ["16", "32"])] {
            for value in values {
                assert!(
                    drawn.iter().any(|settings| settings[name] == value),
                    "{name} {value}"
                );
            }
        }
    }

    #[test]
    fn a_space_that_is_none_is_told_by_name() {
        for (text, part) in [
            ("", "expected a setting"),
            ("momentum = []", "`momentum`"),
            ("momentum = 0.9", "`momentum`"),
            ("momentum = { from = 1, to = 0.5 }", "a larger `to`"),
            ("learning_rate = { from = 0, to = 1, log = true }", "above 0"),
            (
                "learning_rate = { from = 1, to = 2, logarithmic = true }",
                "logarithmic",
            ),
        ] {
            let error = format!("{:#}", space(text).unwrap_err());
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }

    #[test]
    fn the_table_has_the_best_first_and_says_how_to_repeat_it() {
        let trial = |number, accuracy: Option<f64>| Trial {
            number,
            settings: Settings::from([("momentum".to_owned(), format!("0.{number}"))]),
            ending: accuracy.map_or(Ending::Diverged, |validation_accuracy| Ending::Trained {
                epoch: 2,
                validation_loss: 0.5,
                validation_accuracy,
            }),
        };
        let trials = [trial(1, Some(0.5)), trial(2, None), trial(3, Some(0.75))];
        let text = table(&trials, "trainer train digits");
        let order: Vec<&str> = text
            .lines()
            .skip(1)
            .take(3)
            .map(|line| line[..5].trim())
            .collect();
        assert_eq!(order, ["3", "1", "2"]);
        assert!(
            text.ends_with("the best: trainer train digits --momentum 0.3\n"),
            "{text}"
        );
        assert!(!table(&trials[1..2], "").contains("the best"));
    }

    #[test]
    fn a_part_is_spread_over_the_whole() {
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(spread(all.clone(), Some(3)), [3, 6, 9]);
        assert_eq!(spread(all.clone(), Some(7)).len(), 7);
        assert_eq!(spread(all.clone(), Some(11)), all);
        assert_eq!(spread(all.clone(), None), all);
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        assert_eq!(four_digits(0.012_345), "0.01235");
        assert_eq!(four_digits(0.5), "0.5");
        assert_eq!(four_digits(12_345.6), "12346");
    }
}
