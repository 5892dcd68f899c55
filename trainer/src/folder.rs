//! `train folder`: a classifier of one's own pictures, from scratch or from another classifier.

mod card;
mod export;
mod source;
mod transfer;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use anyhow::{Context as _, Result, bail};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::{
    data::{
        files::hexadecimal,
        image_folder::{ImageFolder, Split, read},
    },
    evaluate::Evaluation,
    network::{Layer, folder as networks},
    optimizer::Rule,
    photo::Variation,
    search::{Subject, spread},
    training::{self, Config, Outcome, Schedule, Source, Start, Task},
};
use source::Photos;
use transfer::{Donor, Views};

/// What a run of this kind keeps beside its configuration.
const FOLDER: &str = "folder.json";
/// Where a run lists the files that were not used.
const SKIPPED: &str = "skipped.txt";
/// How many of those are also said.
const SAID: usize = 10;

/// How pictures are split and changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Part of each class that is drawn for validation, where there is no folder for it.
    pub validation: f64,
    /// Rows and columns of the network's input; those of the other classifier in transfer.
    pub size: u32,
    /// How training changes pictures.
    pub variation: Variation,
    /// Versions of each training picture whose features transfer computes: the picture itself and changed ones.
    pub views: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            validation: 0.2,
            size: 224,
            variation: Variation {
                crop: 0.35,
                flip: true,
                colour: 0.3,
            },
            views: 1,
        }
    }
}

/// How a network is trained from scratch unless options say otherwise.
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

/// How a new last layer is trained unless options say otherwise.
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

/// The pictures, and what is to be done to them.
#[derive(Debug)]
pub struct Given<'a> {
    /// The folder with the pictures.
    pub data: &'a Path,
    /// A model directory whose graph is kept up to its last dense layer.
    pub from: Option<&'a Path>,
    /// How pictures are split and changed.
    pub options: Options,
    /// Threads that read and change pictures.
    pub loaders: usize,
}

/// What is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The pictures, and what is to be done to them.
    pub given: Given<'a>,
    /// How to train.
    pub config: Config,
    /// Where to compute.
    pub device: Device,
    /// Directory for checkpoints.
    pub run: PathBuf,
    /// Model directory to write.
    pub out: PathBuf,
    /// What to do about a run directory that is in use.
    pub start: Start,
    /// The command line, for the model card.
    pub command: String,
}

/// What was measured on the exported files.
#[derive(Debug)]
pub struct Measured {
    /// On the pictures that chose the epoch.
    pub validation: Evaluation,
    /// On pictures that nothing was chosen with, where the folder has some.
    pub test: Option<Evaluation>,
    /// Largest difference in a probability between ONNX Runtime and libtorch.
    pub agreement: f32,
    /// Size of the graph's file.
    pub bytes: u64,
}

impl Measured {
    /// The figures to go by.
    pub fn best_known(&self) -> &Evaluation {
        self.test.as_ref().unwrap_or(&self.validation)
    }
}

/// What a run began with, apart from its [`Config`]. A run goes on with the same.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Begun {
    options: Options,
    /// Sum of all files.
    data: String,
    /// Sum of the other classifier's graph.
    from: Option<String>,
}

/// Trains, exports and measures. `None` if `stop` became true before the end; a checkpoint is left then.
pub fn train(request: &Request<'_>, stop: &AtomicBool) -> Result<Option<Measured>> {
    let given = &request.given;
    let folder = ImageFolder::open(given.data, given.options.validation, request.config.seed)?;
    say(&folder);
    begin(request, &folder)?;
    let run = &request.run;
    write_skipped(&run.join(SKIPPED), &folder)?;

    let prepared = prepare(given, &folder, request.config.seed, run)?;
    let task = Task {
        layers: &prepared.layers,
        config: &request.config,
        training: prepared.training.as_ref(),
        validation: prepared.validation.as_ref(),
        device: request.device,
    };
    match training::train(&task, run, request.start, stop)? {
        Outcome::Interrupted => Ok(None),
        Outcome::Finished {
            network,
            best,
            history,
        } => {
            let trained = export::Trained {
                request,
                folder: &folder,
                layers: &prepared.layers,
                network: &network,
                donor: prepared.donor.as_ref(),
                validation: prepared.validation.as_ref(),
                history: &history,
                best,
            };
            export::export(&trained).map(Some)
        }
    }
}

/// What is trained, and on what.
struct Prepared {
    layers: Vec<Layer>,
    /// In transfer, the classifier that gives the features.
    donor: Option<Donor>,
    training: Box<dyn Source>,
    validation: Box<dyn Source>,
}

/// The network and the pictures that a search tries settings with, and what tells them from others. Of the pictures to
/// learn from, `samples` are used; `run` is a directory to work in.
pub fn subject(
    given: &Given<'_>,
    seed: u64,
    run: &Path,
    samples: Option<usize>,
) -> Result<(Subject, serde_json::Value)> {
    let mut folder = ImageFolder::open(given.data, given.options.validation, seed)?;
    say(&folder);
    folder.training.files = spread(folder.training.files, samples);
    let begun = serde_json::to_value(begun(given, &folder)?).context("cannot write JSON")?;
    let prepared = prepare(given, &folder, seed, run)?;
    let subject = Subject {
        layers: prepared.layers,
        training: prepared.training,
        validation: prepared.validation,
    };
    Ok((subject, begun))
}

fn prepare(given: &Given<'_>, folder: &ImageFolder, seed: u64, run: &Path) -> Result<Prepared> {
    let options = &given.options;
    let classes = folder.training.classes.len() as i64;
    Ok(if let Some(from) = given.from {
        let views = Views {
            count: options.views,
            variation: options.variation,
            seed,
        };
        let scratch = run.join("features");
        let (donor, [training, validation]) =
            Donor::open(from, &scratch, &folder.training, &folder.validation, views)?;
        Prepared {
            layers: networks::head(donor.backbone.width() as i64, classes),
            donor: Some(donor),
            training: Box::new(training),
            validation: Box::new(validation),
        }
    } else {
        let photos = |files| Photos::new(files, options.size, options.variation, given.loaders);
        Prepared {
            layers: networks::residual(options.size, classes),
            donor: None,
            training: Box::new(photos(&folder.training)?),
            validation: Box::new(photos(&folder.validation)?),
        }
    })
}

fn begun(given: &Given<'_>, folder: &ImageFolder) -> Result<Begun> {
    let graph = given
        .from
        .map(|from| read(&from.join(classifier::bundle::MODEL)))
        .transpose()?;
    Ok(Begun {
        options: given.options.clone(),
        data: hexadecimal(&folder.sum),
        from: graph.map(|graph| hexadecimal(&Md5::digest(&graph))),
    })
}

/// Makes sure that a run which is resumed goes on with the pictures and options that it was begun with.
fn begin(request: &Request<'_>, folder: &ImageFolder) -> Result<()> {
    let begun = begun(&request.given, folder)?;
    let path = request.run.join(FOLDER);
    let used = training::is_run(&request.run);
    if used && request.start == Start::Resume {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let saved: Begun = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let what = if saved.data != begun.data {
            "the pictures are not those with which the run was begun (some were added, removed, renamed or changed)"
        } else if saved.from != begun.from {
            "--from is not the classifier with which the run was begun"
        } else if saved.options != begun.options {
            "the options for pictures are not those with which the run was begun"
        } else {
            return Ok(());
        };
        bail!(
            "{}: {what}: resume with the same ones, or --restart",
            path.display()
        );
    }
    // A run that is in use and neither resumed nor restarted will be refused; its file must stay as it is.
    if !used || request.start == Start::Restart {
        fs::create_dir_all(&request.run)
            .with_context(|| format!("cannot create {}", request.run.display()))?;
        let text = serde_json::to_string_pretty(&begun).context("cannot write JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Tells what was found.
fn say(folder: &ImageFolder) {
    let split = match folder.split {
        Split::Given => String::new(),
        Split::Drawn(part) => format!(" (drawn, {:.0} % of each class)", 100.0 * part),
    };
    eprintln!(
        "{} classes, {} pictures for training, {} for validation{split}{}",
        folder.training.classes.len(),
        folder.training.len(),
        folder.validation.len(),
        folder
            .test
            .as_ref()
            .map_or(String::new(), |test| format!(", {} for test", test.len()))
    );
    if !folder.skipped.is_empty() {
        eprintln!("skipped {} files:", folder.skipped.len());
    }
    for skipped in folder.skipped.iter().take(SAID) {
        eprintln!("  {skipped}");
    }
    if folder.skipped.len() > SAID {
        eprintln!(
            "  and {} more, see {SKIPPED} in the run's directory",
            folder.skipped.len() - SAID
        );
    }
    if let [(one, other), ..] = folder.duplicates.as_slice() {
        eprintln!(
            "warning: {} pictures for validation or test are among those for training as well, so their figures will \
             look too good; the first is {}, the same as {}",
            folder.duplicates.len(),
            other.display(),
            one.display()
        );
    }
}

fn write_skipped(path: &Path, folder: &ImageFolder) -> Result<()> {
    let lines: Vec<String> = folder
        .skipped
        .iter()
        .map(|skipped| format!("{skipped}\n"))
        .collect();
    fs::write(path, lines.concat()).with_context(|| format!("cannot write {}", path.display()))
}
