//! The configuration of the server.
//!
//! # Sources
//!
//! A key can come from four sources. The first one that has the key decides:
//!
//! 1. a flag, as in `--queue-capacity 64`
//! 2. an environment variable, as in `CLASSIFYD_QUEUE_CAPACITY=64`
//! 3. the file that `--config` or `CLASSIFYD_CONFIG` names, as in `queue_capacity = 64`
//! 4. the default
//!
//! [`Settings`] holds what one source says: every key is an `Option`. clap fills one from flags and
//! environment, serde fills one from the file, and [`Config::load`] merges both into a [`Config`],
//! in which every key has its effective value. Nothing else in the program reads flags, variables
//! or the file, and a `Config` is never changed: on SIGHUP a new one is loaded.
//!
//! # Single models
//!
//! A table `[model.NAME]` of the file overrides some keys for one model ([`ModelTable`]). It wins
//! over all sources of the key for all models, flags included, because it is more specific.
//! [`Config::of_model`] gives the result. A model directory can have defaults of its own in
//! `serving.toml`; they apply to keys that are not set here, and `catalog::loading` merges them.
//!
//! # Origins
//!
//! [`Origins`] records where each value came from: the flag, the variable, or the line and column
//! in the file. `--print-config` prints the origin beside each value, and every error begins with
//! it, so that an operator knows which of the sources to change. Code that finds a value unusable
//! later, such as a certificate that does not exist, reports it with [`Config::mistake`] in the
//! same way.
//!
//! # Adding a key
//!
//! Add it to the list in `config/keys.rs`. That makes it a flag, a variable, a key of the file, an
//! entry of `--help` and the manual page and, if it says `per_model`, a key of `[model.NAME]`. Then
//! `WRITE_DOCUMENTS=1 cargo test --lib config` writes it to classifyd.example.toml and to the table
//! in docs/configuration.md. The limits of a value belong to its type (`config/values.rs`),
//! relations between keys to `config/check.rs`.

mod access;
mod check;
#[macro_use]
mod declare;
#[cfg(test)]
mod documents;
mod error;
mod file;
mod keys;
mod origin;
mod print;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use clap::ArgMatches;

pub use self::access::{ApiKey, CorsOrigin, KeyHash, RateLimit};
pub use self::error::ConfigError;
pub use self::file::unread;
pub use self::keys::{Config, Key, ModelConfig, ModelTable, Settings};
use self::origin::Location;
pub use self::origin::{Origin, Origins};
pub use self::values::{
    AccessLogMode, Address, Count, HumanDuration, List, LogFilter, LogFormat, Network, Size, Timeout,
};

impl Config {
    /// Merges flags and environment, which clap has merged already, with a file, and checks the
    /// result. `origins` tells flags from environment variables, see [`Self::origins_of`].
    pub fn load(flags: Settings, mut origins: Origins, file: Option<&Path>) -> Result<Self, ConfigError> {
        let from_file = match file {
            Some(path) => {
                let (settings, locations) = file::read(path)?;
                origins.add_file(locations);
                settings
            }
            None => Settings::default(),
        };
        let config = Self::resolve(flags, from_file, origins);
        config.check()?;
        Ok(config)
    }

    /// Which keys were flags, and which were environment variables.
    pub fn origins_of(matches: &ArgMatches) -> Origins {
        Origins::of_command_line(matches, Self::KEYS)
    }

    /// The models whose table names a version.
    pub fn pinned_versions(&self) -> BTreeMap<String, u64> {
        let version = |(name, table): (&String, &ModelTable)| Some((name.clone(), table.version?.get()));
        self.model.iter().filter_map(version).collect()
    }

    /// The key that decides on `key` for the model of this name: that of its own table if it is
    /// there.
    pub fn key_for(&self, name: &str, key: &str) -> String {
        let own = format!("model.{name}.{key}");
        match self.origins.of(&own) {
            Origin::Default => key.to_owned(),
            _ => own,
        }
    }

    /// An error for the value of this key, with the origin of the value.
    pub fn mistake(&self, key: &str, message: &str) -> ConfigError {
        ConfigError::Value {
            origin: self.origins.of(key).clone(),
            key: key.to_owned(),
            message: message.to_owned(),
        }
    }
}
