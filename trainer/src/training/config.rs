//! The settings of a training run: each is declared once, and is thereby a field of [`Config`], an
//! option of the command line with its help, and a key of the run's `config.json`.

use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::{
    network::Precision,
    numbers::{at_least_one, not_negative, part, positive},
    optimizer::{Hyperparameters, Rule},
};

/// Everything that decides how a training run goes. A run keeps it beside its weights and resumes
/// only with the same settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
pub struct Config {
    /// The name of the network.
    #[arg(skip)]
    pub network: String,
    /// Passes over the training samples.
    #[arg(long, value_parser = at_least_one())]
    pub epochs: u32,
    /// Samples in a step.
    #[arg(long, value_parser = at_least_one())]
    pub batch_size: u32,
    /// The highest learning rate.
    #[arg(long, value_parser = positive)]
    pub learning_rate: f64,
    /// How the learning rate changes over the run.
    #[arg(long)]
    pub schedule: Schedule,
    /// The optimizer's rule for a step.
    #[arg(long)]
    pub optimizer: Rule,
    /// The momentum of SGD.
    #[arg(long, value_parser = part)]
    pub momentum: f64,
    /// Whether SGD uses Nesterov momentum.
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub nesterov: bool,
    /// The learning rate of the shifts of normalisations is this many times higher; their decay is
    /// not.
    #[arg(long, value_parser = positive)]
    pub shift_rate: f64,
    /// Each step shrinks kernels and matrices by this part of the learning rate.
    #[arg(long, value_parser = not_negative)]
    pub weight_decay: f64,
    /// The probability with which dropout zeroes a value, in networks that have a dropout layer.
    #[arg(long, value_parser = part)]
    pub dropout: f64,
    /// This part of each label is spread evenly over all classes.
    #[arg(long, value_parser = part)]
    pub label_smoothing: f64,
    /// Mixes each sample with another one; the mixing ratio is drawn from Beta(MIXUP, MIXUP). 0
    /// turns mixing off.
    #[arg(long, value_parser = not_negative)]
    pub mixup: f64,
    /// Scales the gradients down if their common norm exceeds this; 0 turns clipping off.
    #[arg(long, value_parser = not_negative)]
    pub clip: f64,
    /// Whether training samples are changed at random each time.
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub augment: bool,
    /// The decay of the running average of the weights, which is what is exported; 0 exports the
    /// last weights.
    #[arg(long, value_parser = part)]
    pub average_decay: f64,
    /// Stop after this many epochs without a better validation accuracy.
    #[arg(long, value_parser = at_least_one())]
    pub patience: u32,
    /// The number format of convolutions during training.
    #[arg(long)]
    pub precision: Precision,
    /// The seed of all randomness: the same seed and number of threads give the same weights on a
    /// CPU.
    #[arg(long)]
    pub seed: u64,
}

impl Config {
    pub(super) fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters {
            rule: self.optimizer,
            momentum: self.momentum,
            nesterov: self.nesterov,
            shift_rate: self.shift_rate,
            weight_decay: self.weight_decay,
            clip: self.clip,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: String::new(),
            epochs: 10,
            batch_size: 128,
            learning_rate: 1e-3,
            schedule: Schedule::Cosine,
            optimizer: Rule::Adamw,
            momentum: 0.9,
            nesterov: true,
            shift_rate: 1.0,
            weight_decay: 0.0,
            dropout: 0.0,
            label_smoothing: 0.0,
            mixup: 0.0,
            clip: 0.0,
            augment: false,
            average_decay: 0.0,
            patience: 10,
            precision: Precision::F32,
            seed: 1,
        }
    }
}

/// The settings that a command line gives. The others are those of the recipe, which is known only
/// once the whole command line is parsed.
#[derive(Debug, Clone, Default)]
pub struct ConfigOptions(ArgMatches);

impl ConfigOptions {
    /// Returns `defaults` with the given settings in place.
    pub fn over(&self, defaults: Config) -> Result<Config, clap::Error> {
        let mut config = defaults;
        config.update_from_arg_matches(&self.0)?;
        Ok(config)
    }
}

impl FromArgMatches for ConfigOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

impl Args for ConfigOptions {
    fn augment_args(command: Command) -> Command {
        Config::augment_args_for_update(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Config::augment_args_for_update(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        options: ConfigOptions,
    }

    #[test]
    fn a_setting_that_is_not_given_keeps_its_default() {
        let defaults = Config {
            network: "cnn".to_owned(),
            epochs: 7,
            nesterov: false,
            ..Config::default()
        };
        let line = Line::try_parse_from(["--momentum", "0.5", "--augment", "true"]).unwrap();
        let config = line.options.over(defaults.clone()).unwrap();
        let expected = Config {
            momentum: 0.5,
            augment: true,
            ..defaults
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn every_setting_is_an_option() {
        let settings = serde_json::to_value(Config::default()).unwrap();
        let command = ConfigOptions::augment_args(Command::new("trainer"));
        let options: Vec<String> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .map(|name| name.replace('-', "_"))
            .collect();
        for name in settings
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| *name != "network")
        {
            assert!(options.contains(name), "{name}");
        }
    }
}
