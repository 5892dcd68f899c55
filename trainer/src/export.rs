//! A trained network, written as a directory that the server loads, measured there and described.

mod card;

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use classifier::{
    bundle::{CONFIG, MODEL, Measured, PREPROCESSOR_CONFIG, SERVING},
    golden::{GOLDEN, GoldenEntry, GoldenFile},
};
use serde::Serialize;
use serde_json::json;
use tch::Device;

use crate::{
    data::{Images, LoadedDataSet, TestImages},
    evaluate::{Evaluation, evaluate},
    network::{Network, values},
    recipe::Recipe,
    report,
    training::{Config, Epoch, probabilities},
    transform::{Transform, png},
};
use onnx_graph::{Dim, ElementType, GraphBuilder, ModelFile, metadata};

/// Largest difference in a probability between ONNX Runtime and libtorch.
pub(crate) const AGREEMENT: f32 = 1e-4;
/// Largest difference in a score between the trainer's machine and the one that serves.
pub(crate) const GOLDEN_TOLERANCE: f32 = 1e-3;
/// Golden samples of each class.
const GOLDEN_PER_CLASS: usize = 2;

/// The result of training, with where it came from.
#[derive(Debug)]
pub struct Trained<'a> {
    /// What it was made by.
    pub recipe: &'a Recipe,
    /// Its weights.
    pub network: &'a Network,
    /// How it was trained.
    pub config: &'a Config,
    /// How the epochs went.
    pub history: &'a [Epoch],
    /// The epoch that the weights are from, counted from 1.
    pub best: u32,
    /// What it was trained on and is measured on.
    pub data: &'a LoadedDataSet,
    /// How many pictures the weights were found with, and how many chose the epoch.
    pub split: (usize, usize),
    /// The command that made it.
    pub command: &'a str,
}

/// What was measured on the exported files.
#[derive(Debug)]
pub struct Measurements {
    /// The test pictures as published.
    pub test: Evaluation,
    /// The same on a canvas, drawn in various ways.
    pub canvas: Vec<Evaluation>,
    /// Largest difference in a probability between ONNX Runtime and libtorch on the test pictures.
    pub agreement: f32,
    /// Size of the graph's file.
    pub bytes: u64,
    /// Numbers found by training.
    pub parameters: usize,
    /// Another model directory on the same test pictures.
    pub compared: Option<Compared>,
}

/// Another model directory.
#[derive(Debug)]
pub struct Compared {
    /// Name of its network, if its graph says so.
    pub network: Option<String>,
    /// The test pictures as published.
    pub test: Evaluation,
}

/// Writes the model directory `out`, in place of one that may be there. It appears when it is complete and measured.
pub fn export(trained: &Trained<'_>, out: &Path, compare: Option<&Path>) -> Result<Measurements> {
    publish(out, |aside| write_all(trained, aside, compare))
}

/// Has `make` write a model directory aside, makes sure that a server would accept it, and puts it in the place of `out`.
pub(crate) fn publish<T>(out: &Path, make: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let name = out.file_name().with_context(|| {
        format!(
            "--out {}: expected a directory to write, such as models/digits/1",
            out.display()
        )
    })?;
    let parent = out.parent().unwrap_or(Path::new(""));
    let aside = parent.join(format!(".{}.part", name.to_string_lossy()));
    remove(&aside)?;
    create(&aside)?;
    let result = make(&aside)?;

    // What was written is what a server would accept: loaded, and its golden samples reproduced.
    let (samples, difference) = classifier::open(&aside)?.check_golden()?;
    eprintln!("{samples} golden samples reproduced, largest difference {difference:.1e}");
    let old = parent.join(format!(".{}.old", name.to_string_lossy()));
    remove(&old)?;
    if out.exists() {
        fs::rename(out, &old).with_context(|| format!("cannot replace {}", out.display()))?;
    }
    fs::rename(&aside, out).with_context(|| format!("cannot write {}", out.display()))?;
    remove(&old)?;
    Ok(result)
}

fn write_all(trained: &Trained<'_>, aside: &Path, compare: Option<&Path>) -> Result<Measurements> {
    write_graph(trained, aside)?;
    write_configs(trained, aside)?;

    eprintln!(
        "measuring {} test pictures through ONNX Runtime",
        trained.data.test.len()
    );
    let pictures = |transform| TestImages {
        images: Cow::Borrowed(&trained.data.test),
        transform,
    };
    let test = evaluate(aside, &pictures(Transform::None))?;
    let agreement = agreement(trained, &test.scores)?;
    write_golden(&trained.data.test, &test.scores, aside)?;
    write_serving(trained, Some(&test.evaluation), aside)?;
    let mut canvas = Vec::new();
    for &transform in trained.recipe.transforms {
        eprintln!("measuring them again, transform {}", transform.name());
        canvas.push(evaluate(aside, &pictures(transform))?.evaluation);
    }
    let compared = match compare {
        Some(directory) => Some(Compared {
            network: metadata(&directory.join(MODEL))?.remove("network"),
            test: evaluate(directory, &pictures(Transform::None))?.evaluation,
        }),
        None => None,
    };
    let graph = aside.join(MODEL);
    let measurements = Measurements {
        test: test.evaluation,
        canvas,
        agreement,
        bytes: fs::metadata(&graph)
            .with_context(|| format!("cannot read {}", graph.display()))?
            .len(),
        parameters: trained.network.parameters(),
        compared,
    };
    write(&aside.join("README.md"), &card::text(trained, &measurements))?;
    let pictures = aside.join(report::DIRECTORY);
    report::write_curves(&pictures, trained.history, Some(trained.best))?;
    report::write_evaluation(&pictures, &measurements.test)?;
    report::link(aside)?;
    Ok(measurements)
}

fn write_graph(trained: &Trained<'_>, directory: &Path) -> Result<()> {
    let recipe = trained.recipe;
    let mut graph = GraphBuilder::new(&format!("{}-{}", recipe.target.name(), recipe.network));
    graph.describe(&recipe.summary);
    let [channels, height, width] = recipe.input.map(|length| Dim::Fixed(length as usize));
    let input = graph.input(
        "pixel_values",
        ElementType::Float,
        &[Dim::BATCH, channels, height, width],
    );
    trained.network.export(&mut graph, &input, "logits")?;
    let logits = [Dim::BATCH, Dim::Fixed(recipe.labels.len())];
    graph.output("logits", ElementType::Float, &logits);
    let metadata = BTreeMap::from([
        ("dataset".to_owned(), trained.data.title()),
        ("network".to_owned(), recipe.network.to_owned()),
        ("seed".to_owned(), trained.config.seed.to_string()),
        ("task".to_owned(), "image-classification".to_owned()),
    ]);
    ModelFile::new(graph, recipe.title, &metadata)?
        .with_producer("classifyd trainer", env!("CARGO_PKG_VERSION"))
        .save(&directory.join(MODEL))?;
    Ok(())
}

fn write_configs(trained: &Trained<'_>, directory: &Path) -> Result<()> {
    write_json(&directory.join(CONFIG), &labels_json(&trained.recipe.labels))?;
    write_json(&directory.join(PREPROCESSOR_CONFIG), &trained.recipe.preprocessor)?;
    write_serving(trained, None, directory)
}

/// `config.json` of a classifier with these labels.
pub(crate) fn labels_json(labels: &[String]) -> serde_json::Value {
    let labels = labels.iter().enumerate();
    let id2label: BTreeMap<String, &String> = labels
        .clone()
        .map(|(at, label)| (at.to_string(), label))
        .collect();
    let label2id: BTreeMap<&String, usize> = labels.map(|(at, label)| (label, at)).collect();
    json!({
        "id2label": id2label,
        "label2id": label2id,
        "problem_type": "single_label_classification",
    })
}

/// What we have to say in `serving.toml`; see [`classifier::bundle::Serving`].
#[derive(Debug, Serialize)]
struct Serving {
    output: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
}

fn write_serving(trained: &Trained<'_>, test: Option<&Evaluation>, directory: &Path) -> Result<()> {
    let serving = Serving {
        output: "logits",
        measured: test.map(|test| Measured {
            dataset: trained.data.title(),
            split: "test".to_owned(),
            samples: test.samples as u64,
            accuracy: test.accuracy,
        }),
    };
    let toml = toml::to_string(&serving).context("cannot write serving.toml")?;
    write(&directory.join(SERVING), &toml)
}

/// Compares ONNX Runtime's scores with libtorch's on every test picture.
fn agreement(trained: &Trained<'_>, scores: &[Vec<f32>]) -> Result<f32> {
    let samples = trained.recipe.samples(&trained.data.test, Device::Cpu)?;
    let mut network = Network::new(&trained.recipe.layers, 0, Device::Cpu)?;
    network.load(trained.network.weights())?;
    let expected = values(&probabilities(&network, samples.as_ref())?)?;
    let largest = expected
        .iter()
        .zip(scores.iter().flatten())
        .map(|(libtorch, onnx)| (libtorch - onnx).abs())
        .fold(0.0, f32::max);
    if expected.len() != scores.iter().map(Vec::len).sum::<usize>() || largest > AGREEMENT {
        bail!(
            "the exported graph does not do what the trained network does: expected probabilities within {AGREEMENT} \
             of libtorch's on all test pictures, found a difference of {largest}"
        );
    }
    Ok(largest)
}

fn write_golden(pictures: &Images, scores: &[Vec<f32>], directory: &Path) -> Result<()> {
    create(&directory.join("golden"))?;
    let mut samples = Vec::new();
    for at in pictures.first_of_each_class(GOLDEN_PER_CLASS) {
        let label = pictures.class(at).context("a picture has no class")?;
        let file = format!("golden/{}_{at}.png", file_name(label));
        let picture = pictures.get(at).context("a picture is missing")?;
        let path = directory.join(&file);
        fs::write(&path, png(&picture)?).with_context(|| format!("cannot write {}", path.display()))?;
        samples.push(GoldenEntry {
            file,
            label: label.to_owned(),
            scores: scores[at].clone(),
        });
    }
    let golden = GoldenFile {
        tolerance: GOLDEN_TOLERANCE,
        samples,
    };
    write_json(&directory.join(GOLDEN), &golden)
}

/// A label as part of a file's name.
pub(crate) fn file_name(label: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    label.chars().map(plain).collect::<String>().to_lowercase()
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).with_context(|| format!("cannot write {}", path.display()))?;
    write(path, &(text + "\n"))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

pub(crate) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
