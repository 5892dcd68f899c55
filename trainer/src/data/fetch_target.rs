use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::builder::PossibleValue;

use super::{data_set::DataSet, glove, imdb};

/// What `trainer fetch` can fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchTarget {
    Images(DataSet),
    Imdb,
    Glove,
}

impl FetchTarget {
    /// The name on the command line, which is also the name of the directory in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Images(set) => set.name(),
            Self::Imdb => "imdb",
            Self::Glove => "glove",
        }
    }

    /// The directory that holds the data unless `--data` names another one.
    pub fn directory(self) -> Result<PathBuf> {
        Ok(cache_directory()?.join("data").join(self.name()))
    }

    /// Fetches the published files that `directory` lacks, verifies all of them, and returns their
    /// paths.
    pub fn fetch(self, directory: &Path) -> Result<Vec<PathBuf>> {
        match self {
            Self::Images(set) => set.fetch(directory),
            Self::Imdb => imdb::fetch(directory),
            Self::Glove => glove::fetch(directory),
        }
    }
}

impl clap::ValueEnum for FetchTarget {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Images(DataSet::Mnist),
            Self::Images(DataSet::FashionMnist),
            Self::Images(DataSet::Cifar10),
            Self::Imdb,
            Self::Glove,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Images(set) => set.to_possible_value(),
            Self::Imdb => Some(PossibleValue::new("imdb").help("25,000 + 25,000 movie reviews")),
            Self::Glove => {
                Some(PossibleValue::new("glove").help("Vectors of 341,479 English words, 100 numbers each"))
            }
        }
    }
}

/// The cache is outside the repository, so that several clones share it.
fn cache_directory() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("CLASSIFYD_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("classifyd")))
        .or_else(|| Some(set("HOME")?.join(".cache/classifyd")))
        .context(
            "none of CLASSIFYD_CACHE, XDG_CACHE_HOME and HOME is set: name the data directory with --data",
        )
}
