//! The command line.

// The comments on arguments are shown in a terminal, not rendered.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::{
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
        self, DataSet, Fetched,
        imdb::{self, Imdb, TestReviews},
    },
    evaluate::{self, Labelled, TestPictures, evaluate_remote},
    export::{self, Trained},
    network::{self, Precision},
    optimizer::Rule,
    recipe::{self, Target},
    sentiment,
    training::{self, Config, Outcome, Schedule, Start, Task},
    transform::Transform,
};

/// What the shell is told when a signal ended the program.
const INTERRUPTED: u8 = 130;

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
    /// Measure a model directory on the test pictures, through the code that serves it.
    Evaluate(EvaluateArgs),
    /// Write test pictures as PNG files named LABEL_NUMBER.png, or test reviews as lines of JSON.
    Samples(SamplesArgs),
}

#[derive(Debug, Args)]
struct DataArgs {
    /// Directory with the data set's files, raw or gzipped [default: data/SET in $CLASSIFYD_CACHE, else in
    /// $XDG_CACHE_HOME/classifyd, else in ~/.cache/classifyd].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    fn directory(&self, set: DataSet) -> Result<PathBuf> {
        self.directory_of(Fetched::Pictures(set))
    }

    fn directory_of(&self, set: Fetched) -> Result<PathBuf> {
        match &self.data {
            Some(directory) => Ok(directory.clone()),
            None => set.directory(),
        }
    }
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// The data set.
    set: Fetched,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The classifier.
    target: Target,
    /// The network: cnn or mlp for digits, airbench or plain for images, resnet or mlp for fashion, blend, blend-random,
    /// ngrams, cnn, cnn-random or mean for sentiment [default: the first].
    #[arg(long)]
    network: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Directory with GloVe's vectors, for sentiment [default: data/glove beside the data set's].
    #[arg(long, value_name = "DIR")]
    glove: Option<PathBuf>,
    /// Model directory to write; one that is there is replaced [default: models/TARGET/1 for the target's first network,
    /// runs/TARGET-NETWORK/TARGET/1 for another].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Another model directory, whose accuracy the model card states as well.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
    /// Directory for checkpoints [default: runs/TARGET-NETWORK].
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

impl TrainArgs {
    fn start(&self) -> Start {
        match (self.resume, self.restart) {
            (true, _) => Start::Resume,
            (_, true) => Start::Restart,
            _ => Start::Fresh,
        }
    }
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

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// The model directory, such as models/digits/1.
    directory: PathBuf,
    /// The data set [default: the one that the model's serving.toml names].
    #[arg(long)]
    set: Option<Fetched>,
    #[command(flatten)]
    data: DataArgs,
    /// What to do to the test pictures first.
    #[arg(long, default_value = "none")]
    transform: Transform,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also send the pictures to the server at this address (such as http://127.0.0.1:8080), and fail if it gives one
    /// of them another label.
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Args)]
struct SamplesArgs {
    /// The data set.
    set: Fetched,
    #[command(flatten)]
    data: DataArgs,
    /// Directory to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many of each class: the first pictures of the test split, or reviews spread evenly over it.
    #[arg(long, default_value_t = 4, value_parser = at_least_one())]
    per_class: u32,
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
            Self::Cuda => bail!(
                "--device cuda: expected a GPU and a libtorch with CUDA, found {} GPUs and a libtorch {} CUDA",
                tch::Cuda::device_count(),
                if tch::utils::has_cuda() { "with" } else { "without" }
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

/// Does what the arguments say.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Fetch(args) => fetch(&args),
        Command::Train(args) => train(&args),
        Command::Evaluate(args) => evaluate(&args),
        Command::Samples(args) => samples(&args),
    }
}

fn fetch(args: &FetchArgs) -> Result<ExitCode> {
    for path in args.set.fetch(&args.data.directory_of(args.set)?)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn train(args: &TrainArgs) -> Result<ExitCode> {
    if args.target == Target::Sentiment {
        return train_sentiment(args);
    }
    let mut recipe = recipe::find(args.target, args.network.as_deref())?;
    let device = args.device.device()?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads as i32);
    }
    let data = recipe.set.open(&args.data.directory(recipe.set)?)?;
    let config = args.config.over(&recipe.config);
    network::set_dropout(&mut recipe.layers, config.dropout);
    let run = args.run.clone().unwrap_or_else(|| recipe.run());
    let out = args.out.clone().unwrap_or_else(|| recipe.out());

    // The last pictures of the training split tell which epoch was best: 5,000 of any of the sets.
    let count = data.training.len();
    let (training, validation) = data
        .training
        .clone()
        .split_at(count - recipe.set.validation(count));
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
        Outcome::Interrupted => {
            eprintln!("interrupted; go on with the same command and --resume");
            Ok(ExitCode::from(INTERRUPTED))
        }
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
            println!("wrote {}", out.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn train_sentiment(args: &TrainArgs) -> Result<ExitCode> {
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
        imdb: &Imdb::open(&args.data.directory_of(Fetched::Imdb)?)?,
        glove: &match &args.glove {
            Some(directory) => directory.clone(),
            None => Fetched::Glove.directory()?,
        },
        run: &args.run.clone().unwrap_or_else(|| kind.run()),
        start: args.start(),
        device: args.device.device()?,
        out: &args.out.clone().unwrap_or_else(|| kind.out()),
        command: &command(),
    };
    let stop = stop_on_signal()?;
    let Some(measured) = sentiment::train(&job, &stop)? else {
        eprintln!("interrupted; go on with the same command and --resume");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    print!("{}", measured.table());
    println!("wrote {}", job.out.display());
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

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let set = match args.set {
        Some(set) => set,
        None => own_set(&args.directory)?,
    };
    let directory = args.data.directory_of(set)?;
    match set {
        Fetched::Pictures(set) => {
            let pictures = set.open(&directory)?.test;
            let transform = args.transform;
            measure(args, &TestPictures { pictures: &pictures, transform })
        }
        Fetched::Imdb => measure(args, &TestReviews(&Imdb::open(&directory)?.test)),
        Fetched::Glove => bail!("--set: expected samples with labels, found word vectors"),
    }
}

fn measure(args: &EvaluateArgs, samples: &impl Labelled) -> Result<ExitCode> {
    let measured = evaluate::evaluate(&args.directory, samples)?;
    print!("{}", measured.evaluation.table());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&measured.evaluation).context("cannot write JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Some(url) = &args.url else {
        return Ok(ExitCode::SUCCESS);
    };
    let remote = evaluate_remote(url, &args.directory, samples, &measured.scores)?;
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

/// The data set that a model directory says it was measured on.
fn own_set(directory: &Path) -> Result<Fetched> {
    let measured = classifier::Bundle::open(directory)?.serving.measured;
    let set = measured.and_then(|measured| match DataSet::from_title(&measured.dataset) {
        Some(set) => Some(Fetched::Pictures(set)),
        None => (measured.dataset == imdb::TITLE).then_some(Fetched::Imdb),
    });
    set.with_context(|| {
        format!(
            "{}: serving.toml names no data set that is known here: name it with --set",
            directory.display()
        )
    })
}

fn samples(args: &SamplesArgs) -> Result<ExitCode> {
    let directory = args.data.directory_of(args.set)?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let test = match args.set {
        Fetched::Pictures(set) => set.open(&directory)?.test,
        Fetched::Imdb => {
            let path = args.out.join("imdb.jsonl");
            let mut lines = String::new();
            for review in imdb::spread(&Imdb::open(&directory)?.test, args.per_class as usize) {
                let line = json!({"name": review.name, "label": imdb::CLASSES[review.label], "text": review.text});
                lines += &(line.to_string() + "\n");
            }
            fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
            println!("{}", path.display());
            return Ok(ExitCode::SUCCESS);
        }
        Fetched::Glove => bail!("expected a data set with test samples, found word vectors"),
    };
    for at in test.first_of_each_class(args.per_class as usize) {
        let path = args.out.join(format!(
            "{}_{at}.png",
            export::file_name(test.class(at).unwrap_or_default())
        ));
        let picture = test.get(at).context("a picture is missing")?;
        fs::write(&path, data::png(&picture)?).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
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
