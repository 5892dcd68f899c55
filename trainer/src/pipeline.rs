//! The one way from data to a measured model directory, whatever the data is.
//!
//! ```text
//!   Task          which data, which network, default settings and directories
//!     | open      reads the data, builds the network
//!   Prepared      the samples and layers of the loop
//!     |           training::train, the resumable loop     (search::run tries settings with the same)
//!     | finish    what is left to decide once the network is trained
//!   TrainedModel  the parts of a model directory
//!     |           export::export writes them, measures them through `classifier`, writes the card
//!   Measured
//! ```
//!
//! Three kinds of data implement the traits: published image sets ([`crate::recipe`]), reviews
//! ([`crate::sentiment`]) and a directory of images ([`crate::folder`]). A further kind is one more
//! implementation and one line for its arguments in [`crate::cli`].

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use anyhow::Result;
use tch::Device;

use crate::{
    export::{self, Measured, TrainedModel},
    network::{Layer, Network},
    training::{self, Config, Epoch, Job, Outcome, Source, Start},
};

/// What to train, before any data is read.
pub trait Task {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// The settings unless options say otherwise.
    fn defaults(&self) -> Config;

    /// The directory for checkpoints unless an option names another one.
    fn default_run(&self) -> Result<PathBuf>;

    /// The model directory to write unless an option names another one.
    fn default_out(&self, run: &Path) -> Result<PathBuf>;

    /// Whether the seed also decides which samples are trained on. A search cannot vary it then.
    fn seed_selects_samples(&self) -> bool {
        false
    }

    /// The directory of images that `trainer evaluate` measures on, if the data is no published
    /// set.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Reads the data and builds the network.
    fn open<'a>(&'a self, opening: &Opening<'_>) -> Result<Box<dyn Prepared + 'a>>;
}

/// What [`Task::open`] needs to know of the training run, or of the search.
#[derive(Debug)]
pub struct Opening<'a> {
    pub config: &'a Config,
    pub device: Device,
    /// A directory that the task may write to.
    pub run: &'a Path,
    /// What to do about an earlier run in the directory. `None` for a search, which checks for
    /// itself.
    pub start: Option<Start>,
    /// Train on this many samples only.
    pub samples: Option<usize>,
}

/// Data and network, ready to be trained.
pub trait Prepared {
    /// What the loop trains. `None` if the task has no network.
    fn subject(&self) -> Option<Subject<'_>>;

    /// What tells the data from other data. A search goes on only with the same.
    fn identity(&self) -> Result<serde_json::Value>;

    /// Decides what is left to decide once the network is trained.
    fn finish<'a>(
        &'a self,
        network: Option<TrainedNetwork>,
        request: &'a Request,
    ) -> Result<Box<dyn TrainedModel + 'a>>;
}

/// A network and the samples to train it with.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub layers: &'a [Layer],
    pub training: &'a dyn Source,
    pub validation: &'a dyn Source,
}

impl<'a> Subject<'a> {
    pub fn job(self, config: &'a Config, device: Device) -> Job<'a> {
        Job {
            layers: self.layers,
            config,
            training: self.training,
            validation: self.validation,
            device,
        }
    }
}

/// What the loop returns.
#[derive(Debug)]
pub struct TrainedNetwork {
    /// The weights with the best validation accuracy.
    pub network: Network,
    /// The epoch that the weights are from, counted from 1.
    pub best: u32,
    pub history: Vec<Epoch>,
}

/// A training run that was asked for.
#[derive(Debug)]
pub struct Request {
    pub config: Config,
    pub device: Device,
    /// The directory for checkpoints.
    pub run: PathBuf,
    /// The model directory to write.
    pub out: PathBuf,
    pub start: Start,
    /// The command line, for the model card.
    pub command: String,
}

/// Trains, exports and measures. Returns `None` if `stop` became true first; a checkpoint is left
/// then.
pub fn train(task: &dyn Task, request: &Request, stop: &AtomicBool) -> Result<Option<Measured>> {
    let prepared = task.open(&Opening {
        config: &request.config,
        device: request.device,
        run: &request.run,
        start: Some(request.start),
        samples: None,
    })?;
    let network = match prepared.subject() {
        None => None,
        Some(subject) => {
            let job = subject.job(&request.config, request.device);
            match training::train(&job, &request.run, request.start, stop)? {
                Outcome::Interrupted => return Ok(None),
                Outcome::Finished {
                    network,
                    best,
                    history,
                } => Some(TrainedNetwork {
                    network,
                    best,
                    history,
                }),
            }
        }
    };
    let model = prepared.finish(network, request)?;
    export::export(model.as_ref(), &request.out).map(Some)
}
