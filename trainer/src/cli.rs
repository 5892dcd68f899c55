//! The command line.

// The comments on arguments are shown in a terminal, not rendered.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

mod next;
mod search;

use std::{
    borrow::Cow,
    env, fs, iter,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use serde_json::json;
use tch::Device;

use crate::{
    data::{
        self, DataSet, FetchTarget, TestImages,
        image_folder::ImageFiles,
        imdb::{self, Imdb, TestReviews},
    },
    evaluate::{self, evaluate_remote},
    export::{self, Trained},
    folder::{self, Options},
    network::Precision,
    optimizer::Rule,
    parallel,
    recipe::{self, Target},
    report,
    samples::LabelledSamples,
    sentiment,
    training::{self, Config, Outcome, Schedule, Start, Task},
    transform::{Transform, png},
};

/// What the shell is told when a signal ended the program.
const INTERRUPTED: u8 = 130;
/// Above the options of [`ConfigArgs`] in the help.
const SETTINGS: &str = "Settings (their defaults depend on the classifier and stand below)";

/// Trains and measures the classifiers that classifyd serves.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a data set and verify its checksums.
    Fetch(FetchArgs),
    /// Train a classifier and write its model directory.
    #[command(after_help = recipe::table())]
    Train(Box<TrainArgs>),
    /// Train with settings drawn at random, and show which ones are best on the validation samples.
    #[command(after_help = recipe::table())]
    Search(Box<search::SearchArgs>),
    /// Measure a model directory on the test pictures, through the code that serves it.
    Evaluate(EvaluateArgs),
    /// Draw a run's learning curves, or a model directory's confusion matrix and calibration, into its model card.
    Report(ReportArgs),
    /// Write pictures of a data set as PNG files named LABEL_NUMBER.png, or in folders, or as one sheet; of reviews,
    /// lines of JSON.
    Samples(SamplesArgs),
}

#[derive(Debug, Args)]
struct DataArgs {
    /// Directory with the data set's files, raw or gzipped [default: data/SET in $CLASSIFYD_CACHE, else in
    /// $XDG_CACHE_HOME/classifyd, else in ~/.cache/classifyd]. For `folder`, the one with the pictures; it has no default.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    fn directory(&self, set: DataSet) -> Result<PathBuf> {
        self.directory_of(FetchTarget::Images(set))
    }

    /// The folder of one's own pictures.
    fn folder(&self) -> Result<&Path> {
        let given = self.data.as_deref();
        given.context("--data: expected the folder with the pictures, found none")
    }

    fn directory_of(&self, set: FetchTarget) -> Result<PathBuf> {
        match &self.data {
            Some(directory) => Ok(directory.clone()),
            None => set.directory(),
        }
    }
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// The data set.
    set: FetchTarget,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The classifier.
    target: Target,
    /// The network: cnn or mlp for digits, airbench or plain for images, airbench, resnet or mlp for fashion, blend,
    /// blend-random, ngrams, cnn, cnn-random or mean for sentiment [default: the first].
    #[arg(long)]
    network: Option<String>,
    #[command(flatten)]
    data: DataArgs,
    /// Directory with GloVe's vectors, for sentiment [default: data/glove beside the data set's].
    #[arg(long, value_name = "DIR")]
    glove: Option<PathBuf>,
    /// Model directory to write; one that is there is replaced [default: models/TARGET/1 for the target's first network,
    /// runs/TARGET-NETWORK/TARGET/1 for another, RUN/TARGET/1 with --classes].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the pictures of these classes, separated by commas [default: all classes of the data set].
    #[arg(long, value_delimiter = ',', value_name = "CLASS,..")]
    classes: Vec<String>,
    /// Another model directory, whose accuracy the model card states as well.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
    /// Directory for checkpoints [default: runs/TARGET-NETWORK, with the names of --classes behind it].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Go on from the checkpoint in the run's directory, if it has one.
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Discard the checkpoint in the run's directory.
    #[arg(long)]
    restart: bool,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// CPU threads [default: all].
    #[arg(long, value_parser = at_least_one())]
    threads: Option<u32>,
    #[command(
        flatten,
        next_help_heading = "A folder of your own pictures (train folder --data DIR)"
    )]
    folder: FolderArgs,
    #[command(flatten, next_help_heading = SETTINGS)]
    config: ConfigArgs,
}

/// What only `train folder` takes.
#[derive(Debug, Args)]
struct FolderArgs {
    /// Transfer: keep the graph of this classifier (a model directory) up to its last dense layer, and train a new last
    /// layer for the folder's classes.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Part of each class that is drawn for validation where DIR has no folder val [default: 0.2].
    #[arg(long, value_name = "PART", value_parser = open_part)]
    validation: Option<f64>,
    /// Rows and columns of the network's input, 16 to 1024; with --from those of the other classifier [default: 224].
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=1024), conflicts_with = "from")]
    size: Option<u32>,
    /// The smallest part of a picture's area that training cuts out; 1 keeps all of it [default: 0.35].
    #[arg(long, value_name = "PART", value_parser = area)]
    crop: Option<f64>,
    /// Training mirrors every second picture; say false where left and right matter, as in letters [default: true].
    #[arg(long, value_name = "true|false")]
    flip: Option<bool>,
    /// Training multiplies brightness, contrast and saturation by up to 1 minus and plus this [default: 0.3].
    #[arg(long, value_name = "PART", value_parser = part)]
    colour: Option<f64>,
    /// With --from: versions of each training picture, the picture itself and others that are changed as --crop, --flip
    /// and --colour say [default: 1].
    #[arg(long, value_parser = at_least_one(), requires = "from")]
    views: Option<u32>,
    /// Threads that read pictures ahead of the network; their number changes nothing but the speed [default: one for each
    /// CPU].
    #[arg(long, value_parser = at_least_one(), conflicts_with = "from")]
    loaders: Option<u32>,
}

impl FolderArgs {
    fn options(&self) -> Options {
        let mut options = Options::default();
        options.validation = self.validation.unwrap_or(options.validation);
        options.size = self.size.unwrap_or(options.size);
        options.views = self.views.unwrap_or(options.views);
        let variation = &mut options.variation;
        variation.crop = self.crop.unwrap_or(variation.crop);
        variation.flip = self.flip.unwrap_or(variation.flip);
        variation.colour = self.colour.unwrap_or(variation.colour);
        options
    }

    /// How to train unless options say otherwise.
    fn defaults(&self) -> Config {
        if self.from.is_some() {
            folder::transfer()
        } else {
            folder::from_scratch()
        }
    }

    fn given<'a>(&'a self, data: &'a Path) -> folder::Given<'a> {
        folder::Given {
            data,
            from: self.from.as_deref(),
            options: self.options(),
            loaders: self
                .loaders
                .map_or_else(parallel::cpus, |loaders| loaders as usize),
        }
    }

    /// The names of the options that were given.
    fn names(&self) -> Vec<&'static str> {
        [
            ("--from", self.from.is_some()),
            ("--validation", self.validation.is_some()),
            ("--size", self.size.is_some()),
            ("--crop", self.crop.is_some()),
            ("--flip", self.flip.is_some()),
            ("--colour", self.colour.is_some()),
            ("--views", self.views.is_some()),
            ("--loaders", self.loaders.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }
}

/// What a run's [`Config`] takes from the command line. The defaults are the recipe's and stand at the end of the help.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Passes over the training samples.
    #[arg(long, value_parser = at_least_one())]
    epochs: Option<u32>,
    /// Samples in a step.
    #[arg(long, value_parser = at_least_one())]
    batch_size: Option<u32>,
    /// The highest learning rate.
    #[arg(long, value_parser = positive)]
    learning_rate: Option<f64>,
    /// How the learning rate goes over the run.
    #[arg(long)]
    schedule: Option<Schedule>,
    /// The rule for a step.
    #[arg(long)]
    optimizer: Option<Rule>,
    /// How much of the last step SGD repeats.
    #[arg(long, value_parser = part)]
    momentum: Option<f64>,
    /// SGD looks ahead along its momentum.
    #[arg(long, value_name = "true|false")]
    nesterov: Option<bool>,
    /// Shifts of normalisations learn this many times faster, and decay as the rest does.
    #[arg(long, value_parser = positive)]
    shift_rate: Option<f64>,
    /// Shrinks kernels and matrices by this part of the learning rate in each step.
    #[arg(long, value_parser = not_negative)]
    weight_decay: Option<f64>,
    /// Probability with which a value before the last layer is dropped.
    #[arg(long, value_parser = part)]
    dropout: Option<f64>,
    /// This part of each label is spread evenly over all classes.
    #[arg(long, value_parser = part)]
    label_smoothing: Option<f64>,
    /// Mixes each sample with another one; the part is drawn from Beta(MIXUP, MIXUP). 0 mixes nothing.
    #[arg(long, value_parser = not_negative)]
    mixup: Option<f64>,
    /// Scales all gradients down where their norm, taken together, exceeds this; 0 leaves them.
    #[arg(long, value_parser = not_negative)]
    clip: Option<f64>,
    /// Change training samples each time.
    #[arg(long, value_name = "true|false")]
    augment: Option<bool>,
    /// The weights that are kept move by 1 minus this towards the trained ones in each step; 0 keeps the trained ones.
    #[arg(long, value_parser = part)]
    average_decay: Option<f64>,
    /// Stop after this many epochs without a better validation accuracy.
    #[arg(long, value_parser = at_least_one())]
    patience: Option<u32>,
    /// How numbers are kept within a pass.
    #[arg(long)]
    precision: Option<Precision>,
    /// All randomness follows from it: the same seed and number of threads give the same weights on a CPU.
    #[arg(long)]
    seed: Option<u64>,
}

impl ConfigArgs {
    fn over(&self, defaults: &Config) -> Config {
        Config {
            network: defaults.network.clone(),
            epochs: self.epochs.unwrap_or(defaults.epochs),
            batch_size: self.batch_size.unwrap_or(defaults.batch_size),
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            schedule: self.schedule.unwrap_or(defaults.schedule),
            optimizer: self.optimizer.unwrap_or(defaults.optimizer),
            momentum: self.momentum.unwrap_or(defaults.momentum),
            nesterov: self.nesterov.unwrap_or(defaults.nesterov),
            shift_rate: self.shift_rate.unwrap_or(defaults.shift_rate),
            weight_decay: self.weight_decay.unwrap_or(defaults.weight_decay),
            dropout: self.dropout.unwrap_or(defaults.dropout),
            label_smoothing: self.label_smoothing.unwrap_or(defaults.label_smoothing),
            mixup: self.mixup.unwrap_or(defaults.mixup),
            clip: self.clip.unwrap_or(defaults.clip),
            augment: self.augment.unwrap_or(defaults.augment),
            average_decay: self.average_decay.unwrap_or(defaults.average_decay),
            patience: self.patience.unwrap_or(defaults.patience),
            precision: self.precision.unwrap_or(defaults.precision),
            seed: self.seed.unwrap_or(defaults.seed),
        }
    }
}

/// Which samples a model directory is measured on.
#[derive(Debug, Args)]
struct MeasureArgs {
    /// The data set [default: the one that the model's serving.toml names].
    #[arg(long)]
    set: Option<FetchTarget>,
    #[command(flatten)]
    data: DataArgs,
    /// Measure on the pictures of this folder instead: those in DIR/test, else in DIR/val, else in DIR itself, in folders
    /// named after their classes.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["set", "data", "transform"])]
    folder: Option<PathBuf>,
    /// What to do to the test pictures first.
    #[arg(long, default_value = "none")]
    transform: Transform,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// The model directory, such as models/digits/1.
    directory: PathBuf,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the confusion matrix and the calibration into this directory, as SVG, with the figures as JSON.
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Also send the samples to the server at this address (such as http://127.0.0.1:8080), and fail if it gives one
    /// of them another label.
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// A run's directory, whose learning curves are drawn, or a model directory, which is measured and drawn.
    path: PathBuf,
    /// Model directory whose card shows the learning curves [default: they stay in the run's directory].
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    measure: MeasureArgs,
}

/// A part of a published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PublishedSplit {
    Train,
    Test,
}

#[derive(Debug, Args)]
struct SamplesArgs {
    /// The data set.
    set: FetchTarget,
    #[command(flatten)]
    data: DataArgs,
    /// Directory to write to.
    #[arg(long, value_name = "DIR", required_unless_present = "sheet")]
    out: Option<PathBuf>,
    /// Also, or instead, write one PNG file with a row for each class, in the order of the labels.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Which part of the data set.
    #[arg(long, default_value = "test")]
    split: PublishedSplit,
    /// How many of each class: the first pictures, or reviews spread evenly over their numbers.
    #[arg(long, default_value_t = 4, value_parser = at_least_one())]
    per_class: u32,
    /// How many pictures of each class to pass over first.
    #[arg(long, default_value_t = 0)]
    skip: u32,
    /// Only these classes, separated by commas [default: all].
    #[arg(long, value_delimiter = ',', value_name = "CLASS,..")]
    classes: Vec<String>,
    /// Write DIR/LABEL/NUMBER.png, as `train folder` reads them.
    #[arg(long)]
    folders: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceName {
    Cpu,
    /// The first NVIDIA GPU; needs a libtorch with CUDA.
    Cuda,
}

impl DeviceName {
    fn device(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda if tch::Cuda::is_available() => Ok(Device::Cuda(0)),
            // `has_cuda` asks for a GPU as well; the CUDA runtime is what only a libtorch with CUDA brings.
            Self::Cuda if tch::utils::has_cudart() => bail!(
                "--device cuda: expected an NVIDIA GPU with a driver for CUDA 13, found none: nvidia-smi shows what the driver sees"
            ),
            Self::Cuda => bail!(
                "--device cuda: expected a libtorch with CUDA, found one for the CPU alone: build the trainer with \
                 LIBTORCH=$(scripts/setup-libtorch.sh gpu)"
            ),
        }
    }
}

fn at_least_one() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=u64::from(u32::MAX))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number of at least 0".to_owned()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..1.0).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to below 1".to_owned()),
    }
}

fn open_part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1.0 => Ok(number),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

fn area(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1.0 => Ok(number),
        _ => Err("expected a number above 0, at most 1".to_owned()),
    }
}

/// Does what the arguments say.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Fetch(args) => fetch(&args),
        Command::Train(args) => train(&args),
        Command::Search(args) => search::run(&args),
        Command::Evaluate(args) => evaluate(&args),
        Command::Report(args) => draw(&args),
        Command::Samples(args) => samples(&args),
    }
}

fn fetch(args: &FetchArgs) -> Result<ExitCode> {
    for path in args.set.fetch(&args.data.directory_of(args.set)?)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

impl TrainArgs {
    fn start(&self) -> Start {
        match (self.resume, self.restart) {
            (true, _) => Start::Resume,
            (_, true) => Start::Restart,
            _ => Start::Fresh,
        }
    }
}

fn interrupted() -> ExitCode {
    eprintln!("interrupted; go on with the same command and --resume");
    ExitCode::from(INTERRUPTED)
}

fn train_folder(args: &TrainArgs) -> Result<ExitCode> {
    let data = args.data.folder()?;
    if let Some(network) = &args.network {
        bail!("--network: expected none, for a folder has one network, found {network}");
    }
    for (option, given) in [
        ("--compare", args.compare.is_some()),
        ("--classes", !args.classes.is_empty()),
    ] {
        if given {
            bail!("{option}: only a published data set has this option");
        }
    }
    let device = args.device.device()?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads as i32);
    }
    let from = args.folder.from.as_deref();
    let defaults = args.folder.defaults();
    let name = |path: &Path| -> Result<String> {
        let whole = path
            .canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))?;
        let name = whole
            .file_name()
            .map(|name| export::file_name(&name.to_string_lossy()));
        Ok(name.unwrap_or_else(|| "folder".to_owned()))
    };
    let model = name(data)?;
    let run = match (&args.run, from) {
        (Some(run), _) => run.clone(),
        (None, None) => format!("runs/{model}").into(),
        // models/images/1 is version 1 of images.
        (None, Some(from)) => {
            let donor = from.canonicalize().unwrap_or_else(|_| from.to_path_buf());
            format!("runs/{model}-from-{}", name(donor.parent().unwrap_or(&donor))?).into()
        }
    };
    let request = folder::Request {
        given: args.folder.given(data),
        config: args.config.over(&defaults),
        device,
        out: args.out.clone().unwrap_or_else(|| run.join(&model).join("1")),
        run,
        start: args.start(),
        command: command(),
    };
    let stop = stop_on_signal()?;
    let Some(measured) = folder::train(&request, &stop)? else {
        return Ok(interrupted());
    };
    print!("{}", measured.best_known().table());
    if measured.test.is_some() {
        println!(
            "\nvalidation: accuracy {:.2} %",
            100.0 * measured.validation.accuracy
        );
    }
    println!("{}", next::steps(&request.out, Some(data)));
    Ok(ExitCode::SUCCESS)
}

fn train(args: &TrainArgs) -> Result<ExitCode> {
    if args.target == Target::Folder {
        return train_folder(args);
    }
    if args.target == Target::Sentiment {
        return train_sentiment(args);
    }
    if let [option, ..] = args.folder.names().as_slice() {
        bail!("{option}: only `train folder` has this option");
    }
    let mut recipe = recipe::find(args.target, args.network.as_deref())?;
    let device = args.device.device()?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads as i32);
    }
    let mut data = recipe.set.open(&args.data.directory(recipe.set)?)?;
    let config = args.config.over(&recipe.config);
    let (mut run, mut out) = (recipe.run(), recipe.out());
    if !args.classes.is_empty() {
        data = data.only(&args.classes)?;
        recipe.only(data.training.classes());
        let names = recipe.labels.iter().map(|class| export::file_name(class));
        run = iter::once(run.display().to_string())
            .chain(names)
            .collect::<Vec<_>>()
            .join("-")
            .into();
        out = args
            .run
            .as_ref()
            .unwrap_or(&run)
            .join(args.target.name())
            .join("1");
    }
    let run = args.run.clone().unwrap_or(run);
    let out = args.out.clone().unwrap_or(out);

    // The last pictures of the training split tell which epoch was best: 5,000 of any of the sets.
    let (training, validation) = data.held_out();
    let samples = [
        recipe.samples(&training, device)?,
        recipe.samples(&validation, device)?,
    ];
    let task = Task {
        layers: &recipe.layers,
        config: &config,
        training: samples[0].as_ref(),
        validation: samples[1].as_ref(),
        device,
    };
    let stop = stop_on_signal()?;
    match training::train(&task, &run, args.start(), &stop)? {
        Outcome::Interrupted => Ok(interrupted()),
        Outcome::Finished {
            network,
            best,
            history,
        } => {
            let trained = Trained {
                recipe: &recipe,
                network: &network,
                config: &config,
                history: &history,
                best,
                data: &data,
                split: (training.len(), validation.len()),
                command: &command(),
            };
            let measured = export::export(&trained, &out, args.compare.as_deref())?;
            print!("{}", measured.test.table());
            for canvas in &measured.canvas {
                println!(
                    "transform {}: accuracy {:.2} %",
                    canvas.transform.name(),
                    100.0 * canvas.accuracy
                );
            }
            println!("{}", next::steps(&out, None));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn glove(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(directory) => Ok(directory.to_owned()),
        None => FetchTarget::Glove.directory(),
    }
}

fn train_sentiment(args: &TrainArgs) -> Result<ExitCode> {
    if !args.classes.is_empty() {
        bail!("--classes: only data sets of pictures have this option");
    }
    let kind = sentiment::Kind::find(args.network.as_deref())?;
    if args.compare.is_some() {
        bail!(
            "--compare: expected none for sentiment, whose card compares itself with every network that was trained into \
             its default place"
        );
    }
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads as i32);
    }
    let job = sentiment::Job {
        kind,
        config: &args.config.over(&kind.config()),
        imdb: &Imdb::open(&args.data.directory_of(FetchTarget::Imdb)?)?,
        glove: &glove(args.glove.as_deref())?,
        run: &args.run.clone().unwrap_or_else(|| kind.run()),
        start: args.start(),
        device: args.device.device()?,
        out: &args.out.clone().unwrap_or_else(|| kind.out()),
        command: &command(),
    };
    let stop = stop_on_signal()?;
    let Some(measured) = sentiment::train(&job, &stop)? else {
        return Ok(interrupted());
    };
    print!("{}", measured.table());
    println!("{}", next::steps(job.out, None));
    Ok(ExitCode::SUCCESS)
}

/// The command line as it would be typed in the repository.
fn command() -> String {
    let arguments = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let lasting = arguments.filter(|argument| argument != "--resume" && argument != "--restart");
    iter::once("trainer".to_owned())
        .chain(lasting)
        .collect::<Vec<_>>()
        .join(" ")
}

impl MeasureArgs {
    fn samples(&self, directory: &Path) -> Result<Box<dyn LabelledSamples>> {
        if let Some(folder) = &self.folder {
            return Ok(Box::new(ImageFiles::to_measure(folder)?));
        }
        let set = match self.set {
            Some(set) => set,
            None => own_set(directory)?,
        };
        let data = self.data.directory_of(set)?;
        Ok(match set {
            FetchTarget::Images(set) => {
                let mut pictures = set.open(&data)?.test;
                let labels = classifier::Bundle::open(directory)?.labels;
                let known = |label| pictures.classes().contains(label);
                if labels.len() < pictures.classes().len() && labels.iter().all(known) {
                    eprintln!("measuring on the pictures of {} alone", labels.join(", "));
                    pictures = pictures.only(&labels)?;
                }
                Box::new(TestImages {
                    images: Cow::Owned(pictures),
                    transform: self.transform,
                })
            }
            FetchTarget::Imdb => Box::new(TestReviews(Cow::Owned(Imdb::open(&data)?.test))),
            FetchTarget::Glove => bail!("--set: expected samples with labels, found word vectors"),
        })
    }
}

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let samples = args.measure.samples(&args.directory)?;
    let measured = evaluate::evaluate(&args.directory, samples.as_ref())?;
    print!("{}", measured.evaluation.table());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&measured.evaluation).context("cannot write JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(folder) = &args.pictures {
        say_written(&report::write_evaluation(folder, &measured.evaluation)?);
    }
    let Some(url) = &args.url else {
        return Ok(ExitCode::SUCCESS);
    };
    let remote = evaluate_remote(url, &args.directory, samples.as_ref(), &measured.scores)?;
    println!(
        "\nover HTTP: accuracy {:.2} %, {} labels differ",
        100.0 * remote.accuracy,
        remote.different.len()
    );
    for (at, here, there) in &remote.different {
        println!("{}: {here} here, {there} over HTTP", samples.name(*at));
    }
    Ok(if remote.different.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn draw(args: &ReportArgs) -> Result<ExitCode> {
    if training::is_run(&args.path) {
        let (history, best) = training::history(&args.path)?;
        let folder = match &args.into {
            Some(directory) => directory.join(report::DIRECTORY),
            None => args.path.clone(),
        };
        say_written(&[report::write_curves(&folder, &history, best)?]);
        if let Some(directory) = &args.into {
            report::link(directory)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.path.join(classifier::bundle::MODEL).exists() {
        bail!(
            "{}: expected a run's directory (with a state.json) or a model directory (with a model.onnx), found neither",
            args.path.display()
        );
    }
    let samples = args.measure.samples(&args.path)?;
    let measured = evaluate::evaluate(&args.path, samples.as_ref())?;
    say_written(&report::write_evaluation(
        &args.path.join(report::DIRECTORY),
        &measured.evaluation,
    )?);
    report::link(&args.path)?;
    Ok(ExitCode::SUCCESS)
}

fn say_written(paths: &[PathBuf]) {
    for path in paths {
        println!("{}", path.display());
    }
}

/// The data set that a model directory says it was measured on.
fn own_set(directory: &Path) -> Result<FetchTarget> {
    let measured = classifier::Bundle::open(directory)?.serving.measured;
    let set = measured.and_then(|measured| match DataSet::from_title(&measured.dataset) {
        Some(set) => Some(FetchTarget::Images(set)),
        None => (measured.dataset == imdb::TITLE).then_some(FetchTarget::Imdb),
    });
    set.with_context(|| {
        format!(
            "{}: serving.toml names no data set that is known here: name it with --set",
            directory.display()
        )
    })
}

fn samples(args: &SamplesArgs) -> Result<ExitCode> {
    let set = match args.set {
        FetchTarget::Images(set) => set,
        FetchTarget::Imdb => return review_samples(args),
        FetchTarget::Glove => bail!("expected a data set with samples, found word vectors"),
    };
    let data = set.open(&args.data.directory(set)?)?;
    let pictures = match args.split {
        PublishedSplit::Train => data.training,
        PublishedSplit::Test => data.test,
    };
    let known = pictures.classes();
    data::check_classes(known, &args.classes)?;
    let (skip, count) = (args.skip as usize, args.per_class as usize);
    let wanted = |class: &String| args.classes.is_empty() || args.classes.contains(class);
    let mut places = Vec::new();
    for (label, _) in known.iter().enumerate().filter(|(_, class)| wanted(class)) {
        let own = pictures.labels().iter().enumerate();
        let own = own
            .filter(|(_, found)| usize::from(**found) == label)
            .map(|(at, _)| at);
        places.extend(own.skip(skip).take(count));
    }
    if let Some(out) = &args.out {
        for &at in &places {
            let class = export::file_name(pictures.class(at).unwrap_or_default());
            let path = if args.folders {
                out.join(class).join(format!("{at:05}.png"))
            } else {
                out.join(format!("{class}_{at}.png"))
            };
            let folder = path.parent().unwrap_or(out);
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
            let picture = pictures.get(at).context("a picture is missing")?;
            fs::write(&path, png(&picture)?).with_context(|| format!("cannot write {}", path.display()))?;
            if !args.folders {
                println!("{}", path.display());
            }
        }
        if args.folders {
            println!("{}", out.display());
        }
    }
    if let Some(path) = &args.sheet {
        let sheet = data::sheet(&pictures, &places, args.per_class)?;
        fs::write(path, png(&sheet)?).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn review_samples(args: &SamplesArgs) -> Result<ExitCode> {
    let (Some(out), None, false, [], 0) = (
        &args.out,
        &args.sheet,
        args.folders,
        args.classes.as_slice(),
        args.skip,
    ) else {
        bail!("expected --out, and neither --sheet, --folders, --classes nor --skip, for reviews");
    };
    let imdb = Imdb::open(&args.data.directory_of(FetchTarget::Imdb)?)?;
    let reviews = match args.split {
        PublishedSplit::Train => imdb.training,
        PublishedSplit::Test => imdb.test,
    };
    let mut lines = String::new();
    for review in imdb::spread(&reviews, args.per_class as usize) {
        let line = json!({"name": review.name, "label": imdb::CLASSES[review.label], "text": review.text});
        lines += &(line.to_string() + "\n");
    }
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let path = out.join("imdb.jsonl");
    fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Becomes true at Ctrl-C or SIGTERM. A second one ends the program at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("finishing the step and saving a checkpoint; once more to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
