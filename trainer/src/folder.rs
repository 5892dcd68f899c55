//! Trains a classifier on a directory of images, from scratch or from another classifier: the
//! pipeline's task for `train folder`.

mod card;
mod model;
mod source;
mod transfer;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{
        files::hexadecimal,
        image_folder::{ImageFolder, Split, read},
    },
    export::{TrainedModel, file_name},
    files::{create, read_json, write, write_json},
    network::{Layer, folder as networks},
    numbers::{at_least_one, open_part},
    optimizer::Rule,
    photo::Variation,
    pipeline::{Opening, Prepared, Request, Subject, Task, TrainedNetwork},
    search::spread,
    training::{self, Config, Schedule, Source, Start},
};
use model::FolderModel;
use source::Photos;
use transfer::{Donor, Views};

/// The file of a run that says which images and options it began with.
const FOLDER: &str = "folder.json";
/// The file of a run that lists the files that were not used.
const SKIPPED: &str = "skipped.txt";
/// The number of those that are also shown in the terminal.
const SKIPPED_SHOWN: usize = 10;

/// How images are split and changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
pub struct FolderOptions {
    /// The part of each class that is drawn for validation if DIR has no directory val.
    #[arg(long, value_name = "PART", value_parser = open_part, default_value_t = 0.2)]
    pub validation: f64,
    /// Rows and columns of the network's input, 16 to 1024. With --from, the other classifier's are
    /// used.
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=1024), conflicts_with = "from", default_value_t = 224)]
    pub size: u32,
    #[command(flatten)]
    pub variation: Variation,
    /// With --from: versions of each training image. The first is the image itself; the others are
    /// changed as --crop, --flip and --colour say.
    #[arg(long, value_parser = at_least_one(), requires = "from", default_value_t = 1)]
    pub views: u32,
}

/// A directory of images, and how to train on them.
#[derive(Debug)]
pub struct FolderTask {
    /// The directory with the images.
    pub data: PathBuf,
    /// A model directory whose graph is kept up to its last dense layer.
    pub from: Option<PathBuf>,
    pub options: FolderOptions,
    /// Threads that read and change images.
    pub loaders: usize,
}

/// The settings of training from scratch unless options say otherwise.
pub fn from_scratch() -> Config {
    Config {
        network: "residual".to_owned(),
        epochs: 40,
        batch_size: 32,
        learning_rate: 2e-3,
        schedule: Schedule::Cosine,
        optimizer: Rule::Adamw,
        weight_decay: 0.05,
        label_smoothing: 0.1,
        augment: true,
        average_decay: 0.99,
        patience: 20,
        ..Config::default()
    }
}

/// The settings of training a new last layer unless options say otherwise.
pub fn transfer() -> Config {
    Config {
        network: "transfer".to_owned(),
        epochs: 60,
        batch_size: 32,
        learning_rate: 2e-3,
        schedule: Schedule::Cosine,
        optimizer: Rule::Adamw,
        weight_decay: 0.2,
        patience: 60,
        ..Config::default()
    }
}

impl Task for FolderTask {
    fn name(&self) -> &'static str {
        "folder"
    }

    fn defaults(&self) -> Config {
        if self.from.is_some() {
            transfer()
        } else {
            from_scratch()
        }
    }

    fn default_run(&self) -> Result<PathBuf> {
        let model = plain_name(&self.data)?;
        Ok(match &self.from {
            None => format!("runs/{model}").into(),
            // `models/images/1` is version 1 of `images`.
            Some(from) => {
                let donor = from.canonicalize().unwrap_or_else(|_| from.clone());
                let donor = plain_name(donor.parent().unwrap_or(&donor))?;
                format!("runs/{model}-from-{donor}").into()
            }
        })
    }

    fn default_out(&self, run: &Path) -> Result<PathBuf> {
        Ok(run.join(plain_name(&self.data)?).join("1"))
    }

    fn seed_selects_samples(&self) -> bool {
        true
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.data)
    }

    fn open<'a>(&'a self, opening: &Opening<'_>) -> Result<Box<dyn Prepared + 'a>> {
        let seed = opening.config.seed;
        let mut images = ImageFolder::open(&self.data, self.options.validation, seed)?;
        report(&images);
        images.training.files = spread(images.training.files, opening.samples);
        let begun = self.begun(&images)?;
        if let Some(start) = opening.start {
            begin(opening.run, start, &begun)?;
            write_skipped(&opening.run.join(SKIPPED), &images)?;
        }
        let classes = images.training.classes.len() as i64;
        let (layers, donor, training, validation): (_, _, Box<dyn Source>, Box<dyn Source>) =
            if let Some(from) = &self.from {
                let views = Views {
                    count: self.options.views,
                    variation: self.options.variation,
                    seed,
                };
                let scratch = opening.run.join("features");
                let (donor, [training, validation]) =
                    Donor::open(from, &scratch, &images.training, &images.validation, views)?;
                let layers = networks::head(donor.backbone.width() as i64, classes);
                (layers, Some(donor), Box::new(training), Box::new(validation))
            } else {
                let options = &self.options;
                let photos = |files| Photos::new(files, options.size, options.variation, self.loaders);
                (
                    networks::residual(options.size, classes),
                    None,
                    Box::new(photos(&images.training)?),
                    Box::new(photos(&images.validation)?),
                )
            };
        Ok(Box::new(PreparedFolder {
            task: self,
            images,
            begun,
            layers,
            donor,
            training,
            validation,
        }))
    }
}

impl FolderTask {
    fn begun(&self, images: &ImageFolder) -> Result<Begun> {
        let graph = match &self.from {
            Some(from) => Some(read(&from.join(classifier::bundle::MODEL))?),
            None => None,
        };
        Ok(Begun {
            options: self.options.clone(),
            data: hexadecimal(&images.sum),
            from: graph.map(|graph| hexadecimal(&Md5::digest(&graph))),
        })
    }
}

/// A directory's name as a part of a file name.
fn plain_name(directory: &Path) -> Result<String> {
    let whole = directory
        .canonicalize()
        .with_context(|| format!("cannot find {}", directory.display()))?;
    let name = whole.file_name().map(|name| file_name(&name.to_string_lossy()));
    Ok(name.unwrap_or_else(|| "folder".to_owned()))
}

struct PreparedFolder<'a> {
    task: &'a FolderTask,
    images: ImageFolder,
    begun: Begun,
    layers: Vec<Layer>,
    /// In transfer, the classifier that computes the features.
    donor: Option<Donor>,
    training: Box<dyn Source>,
    validation: Box<dyn Source>,
}

impl Prepared for PreparedFolder<'_> {
    fn subject(&self) -> Option<Subject<'_>> {
        Some(Subject {
            layers: &self.layers,
            training: self.training.as_ref(),
            validation: self.validation.as_ref(),
        })
    }

    fn identity(&self) -> Result<Value> {
        serde_json::to_value(&self.begun).context("cannot write JSON")
    }

    fn finish<'a>(
        &'a self,
        network: Option<TrainedNetwork>,
        request: &'a Request,
    ) -> Result<Box<dyn TrainedModel + 'a>> {
        Ok(Box::new(FolderModel {
            prepared: self,
            request,
            trained: network.context("the task always has a network")?,
        }))
    }
}

/// What a run began with, apart from its [`Config`]. A run resumes only with the same.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Begun {
    options: FolderOptions,
    /// The sum of all files.
    data: String,
    /// The sum of the other classifier's graph.
    from: Option<String>,
}

/// Checks that a resumed run has the images and options that it began with, and keeps those of a
/// new one.
fn begin(run: &Path, start: Start, begun: &Begun) -> Result<()> {
    let path = run.join(FOLDER);
    let used = training::is_run(run);
    if used && start == Start::Resume {
        let saved: Begun = read_json(&path)?;
        let difference = if saved.data != begun.data {
            "the images differ from those that the run began with (some were added, removed, renamed or changed)"
        } else if saved.from != begun.from {
            "--from names another classifier than the one that the run began with"
        } else if saved.options != begun.options {
            "the options for images differ from those that the run began with"
        } else {
            return Ok(());
        };
        bail!(
            "{}: {difference}: resume with the same ones, or pass --restart",
            path.display()
        );
    }
    // The loop rejects a used directory that is neither resumed nor restarted; its file must stay.
    if !used || start == Start::Restart {
        create(run)?;
        write_json(&path, begun)?;
    }
    Ok(())
}

/// Shows what was found in the directory.
fn report(images: &ImageFolder) {
    let split = match images.split {
        Split::Given => String::new(),
        Split::Drawn(part) => format!(" (drawn, {:.0} % of each class)", 100.0 * part),
    };
    let test = images
        .test
        .as_ref()
        .map_or(String::new(), |test| format!(", {} for test", test.len()));
    eprintln!(
        "{} classes, {} images for training, {} for validation{split}{test}",
        images.training.classes.len(),
        images.training.len(),
        images.validation.len(),
    );
    if !images.skipped.is_empty() {
        eprintln!("skipped {} files:", images.skipped.len());
    }
    for skipped in images.skipped.iter().take(SKIPPED_SHOWN) {
        eprintln!("  {skipped}");
    }
    if images.skipped.len() > SKIPPED_SHOWN {
        eprintln!(
            "  and {} more, see {SKIPPED} in the run's directory",
            images.skipped.len() - SKIPPED_SHOWN
        );
    }
    if let [(one, other), ..] = images.duplicates.as_slice() {
        eprintln!(
            "warning: {} images for validation or test are also among those for training, so their figures will look \
             too good; the first is {}, which equals {}",
            images.duplicates.len(),
            other.display(),
            one.display()
        );
    }
}

fn write_skipped(path: &Path, images: &ImageFolder) -> Result<()> {
    let lines = images.skipped.iter().map(|skipped| format!("{skipped}\n"));
    write(path, lines.collect::<String>())
}
