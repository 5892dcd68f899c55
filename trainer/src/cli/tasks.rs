//! The options that say what to train. Each kind of data has its own, and no others.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    folder::{FolderOptions, FolderTask},
    numbers::at_least_one,
    parallel,
    pipeline::Task,
    recipe::{ImageTask, Target},
    sentiment::SentimentTask,
};

/// Options that make a task.
pub(super) trait TaskArgs: Args {
    fn task(self) -> Result<Box<dyn Task>>;
}

/// The options of a published image set. The target is known from the subcommand.
macro_rules! image_set {
    ($name:ident, $target:expr, $networks:literal) => {
        #[derive(Debug, Args)]
        pub(super) struct $name {
            #[doc = concat!("The network: ", $networks, " [default: the first].")]
            #[arg(long)]
            network: Option<String>,
            #[command(flatten)]
            data: super::DataArgs,
        }

        impl $name {
            pub(super) fn image_task(self) -> Result<ImageTask> {
                ImageTask::new($target, self.network.as_deref(), self.data.data)
            }
        }

        impl TaskArgs for $name {
            fn task(self) -> Result<Box<dyn Task>> {
                Ok(Box::new(self.image_task()?))
            }
        }
    };
}

image_set!(DigitsArgs, Target::Digits, "cnn or mlp");
image_set!(ImagesArgs, Target::Images, "airbench or plain");
image_set!(FashionArgs, Target::Fashion, "airbench, resnet or mlp");

#[derive(Debug, Args)]
pub(super) struct SentimentArgs {
    /// The network: blend, blend-random, ngrams, cnn, cnn-random or mean [default: the first].
    #[arg(long)]
    network: Option<String>,
    #[command(flatten)]
    data: super::DataArgs,
    /// The directory with GloVe's vectors [default: data/glove beside the data set's].
    #[arg(long, value_name = "DIR")]
    glove: Option<PathBuf>,
}

impl TaskArgs for SentimentArgs {
    fn task(self) -> Result<Box<dyn Task>> {
        let task = SentimentTask::new(self.network.as_deref(), self.data.data, self.glove)?;
        Ok(Box::new(task))
    }
}

#[derive(Debug, Args)]
pub(super) struct FolderArgs {
    /// The directory with the images: DIR/train/CLASS and DIR/val/CLASS, or DIR/CLASS.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Transfer: keep the graph of this classifier (a model directory) up to its last dense layer,
    /// and train a new last layer for the classes in DIR.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    #[command(flatten)]
    options: FolderOptions,
    /// Threads that read images ahead of the network. Their number changes the speed alone
    /// [default: one for each CPU].
    #[arg(long, value_parser = at_least_one(), conflicts_with = "from")]
    loaders: Option<u32>,
}

impl TaskArgs for FolderArgs {
    fn task(self) -> Result<Box<dyn Task>> {
        Ok(Box::new(FolderTask {
            data: self.data,
            from: self.from,
            options: self.options,
            loaders: self
                .loaders
                .map_or_else(parallel::cpus, |loaders| loaders as usize),
        }))
    }
}
