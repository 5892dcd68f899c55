//! Writes a trained model as a directory that the server loads, measures the written files through
//! `classifier`, and describes them.

pub mod card;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use classifier::{
    bundle::{CONFIG, MODEL, Measured as MeasuredOn, SERVING, Serving},
    golden::{GOLDEN, GoldenEntry, GoldenFile},
};
use onnx_graph::{Dim, ElementType, GraphBuilder, ModelFile};
use serde_json::json;
use tch::Device;

use crate::{
    evaluate::{Evaluation, evaluate},
    files::{create, remove, write, write_json},
    network::{Layer, Network, values},
    report,
    samples::LabelledSamples,
    training::{Config, Epoch, Source, probabilities},
};

/// The largest difference in a probability between ONNX Runtime and what was trained.
const AGREEMENT: f64 = 1e-4;
/// The largest difference in a score between the trainer's machine and the one that serves.
const GOLDEN_TOLERANCE: f32 = 1e-3;

/// The parts of a model directory, from a task that has finished training.
pub trait TrainedModel {
    fn config(&self) -> &Config;

    fn labels(&self) -> &[String];

    /// The name of what the model was trained on, for `serving.toml` and the graph's metadata.
    fn data_title(&self) -> String;

    /// The name of the network in the graph's metadata.
    fn network_name(&self) -> &str {
        &self.config().network
    }

    /// The kind of classification in the graph's metadata, in the words of Hugging Face.
    fn task(&self) -> &'static str {
        "image-classification"
    }

    /// Writes the graph with this metadata to `path`, and returns the name of its output.
    fn write_graph(&self, path: &Path, metadata: BTreeMap<String, String>) -> Result<String>;

    /// Writes the files that say how an input becomes a row.
    fn write_preprocessing(&self, directory: &Path) -> Result<()>;

    /// What `serving.toml` says apart from the output and the measurement.
    fn serving(&self) -> Serving {
        Serving::default()
    }

    /// The samples that the model is measured on.
    fn samples(&self) -> Samples<'_>;

    /// The probabilities that the trained parts themselves give for [`Samples::compared`], sample
    /// by sample.
    fn expected(&self) -> Result<Vec<f64>>;

    /// The golden samples, without their scores.
    fn golden(&self) -> Result<Vec<GoldenInput>>;

    /// The loop's epochs and the best of them. `None` if the loop trained nothing.
    fn history(&self) -> Option<(&[Epoch], u32)>;

    /// The model card, with further measurements of the model directory.
    fn card(&self, directory: &Path, measured: &Measured) -> Result<Card>;
}

/// The samples that a model is measured on.
pub struct Samples<'a> {
    /// The samples on which ONNX Runtime is compared with what was trained.
    pub compared: Box<dyn LabelledSamples + 'a>,
    /// The name of their split.
    pub split: &'static str,
    /// A test split, if it is not the one above.
    pub test: Option<&'a dyn LabelledSamples>,
}

/// A golden sample before it has scores.
#[derive(Debug)]
pub struct GoldenInput {
    /// The file's path in the model directory.
    pub file: String,
    pub label: String,
    pub bytes: Vec<u8>,
    /// The sample's index in [`Samples::compared`], if it is one of those as it stands.
    pub index: Option<usize>,
}

/// A model card and what else there is to tell.
#[derive(Debug, Default)]
pub struct Card {
    /// The text of `README.md`.
    pub text: String,
    /// Further results, for the terminal.
    pub notes: Vec<String>,
}

/// What was measured on the exported files.
#[derive(Debug)]
pub struct Measured {
    /// On [`Samples::compared`].
    pub compared: Evaluation,
    /// The split that [`Self::compared`] is of.
    pub compared_split: &'static str,
    /// On [`Samples::test`].
    pub test: Option<Evaluation>,
    /// The split that [`Self::reported`] is of.
    pub split: &'static str,
    /// The largest difference in a probability between ONNX Runtime and what was trained.
    pub agreement: f64,
    /// The size of the graph's file.
    pub bytes: u64,
    /// Further results, for the terminal.
    pub notes: Vec<String>,
}

impl Measured {
    /// The evaluation to judge the model by: on the test split, if there is one.
    pub fn reported(&self) -> &Evaluation {
        self.test.as_ref().unwrap_or(&self.compared)
    }
}

/// Writes the model directory `out` and replaces an earlier one. It appears once it is complete and
/// measured.
pub fn export(model: &dyn TrainedModel, out: &Path) -> Result<Measured> {
    publish(out, |directory| write_all(model, directory))
}

fn write_all(model: &dyn TrainedModel, directory: &Path) -> Result<Measured> {
    let graph = directory.join(MODEL);
    let output = model.write_graph(&graph, metadata(model))?;
    write_json(&directory.join(CONFIG), &labels_json(model.labels()))?;
    model.write_preprocessing(directory)?;
    write_serving(model, &output, None, directory)?;

    let samples = model.samples();
    let compared = samples.compared.as_ref();
    eprintln!(
        "measuring {} {} {} through ONNX Runtime",
        compared.len(),
        samples.split,
        compared.unit()
    );
    let measurement = evaluate(directory, compared)?;
    let agreement = agreement(&model.expected()?, &measurement.scores, &samples)?;
    let test = match samples.test {
        Some(test) => Some(evaluate(directory, test)?.evaluation),
        None => None,
    };
    let mut measured = Measured {
        compared: measurement.evaluation,
        compared_split: samples.split,
        split: if test.is_some() { "test" } else { samples.split },
        test,
        agreement,
        bytes: fs::metadata(&graph)
            .with_context(|| format!("cannot read {}", graph.display()))?
            .len(),
        notes: Vec::new(),
    };
    write_serving(model, &output, Some(&measured), directory)?;
    write_golden(model, &measurement.scores, directory)?;

    let card = model.card(directory, &measured)?;
    measured.notes = card.notes;
    write(&directory.join("README.md"), &card.text)?;
    let drawings = directory.join(report::DIRECTORY);
    if let Some((history, best)) = model.history() {
        report::write_curves(&drawings, history, Some(best))?;
    }
    report::write_evaluation(&drawings, measured.reported())?;
    report::link(directory)?;
    Ok(measured)
}

/// Lets `make` write a model directory beside `out`, checks that a server would accept it, and
/// replaces `out` with it.
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

fn metadata(model: &dyn TrainedModel) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("dataset".to_owned(), model.data_title()),
        ("network".to_owned(), model.network_name().to_owned()),
        ("seed".to_owned(), model.config().seed.to_string()),
        ("task".to_owned(), model.task().to_owned()),
    ])
}

/// Saves a graph, with this title and metadata.
pub(crate) fn save_graph(
    graph: GraphBuilder,
    title: &str,
    metadata: &BTreeMap<String, String>,
    path: &Path,
) -> Result<()> {
    ModelFile::new(graph, title, metadata)?
        .with_producer("classifyd trainer", env!("CARGO_PKG_VERSION"))
        .save(path)?;
    Ok(())
}

/// The name of the output of [`image_graph`].
pub(crate) const LOGITS: &str = "logits";

/// The graph of a network for images of `shape`: channels, rows and columns.
pub(crate) fn image_graph(
    name: &str,
    description: &str,
    shape: [i64; 3],
    network: &Network,
    classes: usize,
) -> Result<GraphBuilder> {
    let mut graph = GraphBuilder::new(name);
    graph.describe(description);
    let [channels, height, width] = shape.map(|length| Dim::Fixed(length as usize));
    let shape = [Dim::BATCH, channels, height, width];
    let input = graph.input("pixel_values", ElementType::Float, &shape);
    network.export(&mut graph, &input, LOGITS)?;
    graph.output(LOGITS, ElementType::Float, &[Dim::BATCH, Dim::Fixed(classes)]);
    Ok(graph)
}

/// `config.json` of a classifier with these labels.
fn labels_json(labels: &[String]) -> serde_json::Value {
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

fn write_serving(
    model: &dyn TrainedModel,
    output: &str,
    measured: Option<&Measured>,
    directory: &Path,
) -> Result<()> {
    let serving = Serving {
        output: Some(output.to_owned()),
        activation: None,
        measured: measured.map(|measured| MeasuredOn {
            dataset: model.data_title(),
            split: measured.split.to_owned(),
            samples: measured.reported().samples as u64,
            accuracy: measured.reported().accuracy,
        }),
        ..model.serving()
    };
    let mut table = toml::Table::try_from(&serving).context("cannot write serving.toml")?;
    table.retain(|_, value| value.as_table().is_none_or(|table| !table.is_empty()));
    write(&directory.join(SERVING), table.to_string())
}

/// The probabilities that a trained network gives, computed by libtorch on the CPU.
pub(crate) fn network_probabilities(
    layers: &[Layer],
    trained: &Network,
    samples: &dyn Source,
) -> Result<Vec<f64>> {
    let mut network = Network::new(layers, 0, Device::Cpu)?;
    network.load(trained.weights())?;
    let probabilities = values(&probabilities(&network, samples)?)?;
    Ok(probabilities.into_iter().map(f64::from).collect())
}

/// The largest difference between ONNX Runtime's scores and the trained parts'.
fn agreement(expected: &[f64], scores: &[Vec<f32>], samples: &Samples<'_>) -> Result<f64> {
    let largest = expected
        .iter()
        .zip(scores.iter().flatten())
        .map(|(trained, onnx)| (trained - f64::from(*onnx)).abs())
        .fold(0.0, f64::max);
    if expected.len() != scores.iter().map(Vec::len).sum::<usize>() || largest > AGREEMENT {
        bail!(
            "the exported graph and the trained network disagree: expected probabilities within {AGREEMENT} on all {} \
             {}, found a difference of {largest}",
            samples.split,
            samples.compared.unit()
        );
    }
    Ok(largest)
}

fn write_golden(model: &dyn TrainedModel, scores: &[Vec<f32>], directory: &Path) -> Result<()> {
    create(&directory.join("golden"))?;
    let mut classifier = classifier::open(directory)?;
    let mut samples = Vec::new();
    for input in model.golden()? {
        let path = directory.join(&input.file);
        fs::write(&path, &input.bytes).with_context(|| format!("cannot write {}", path.display()))?;
        let scores = match input.index {
            Some(index) => scores[index].clone(),
            None => classifier.scores(&input.bytes)?,
        };
        samples.push(GoldenEntry {
            file: input.file,
            label: input.label,
            scores,
        });
    }
    let golden = GoldenFile {
        tolerance: GOLDEN_TOLERANCE,
        samples,
    };
    write_json(&directory.join(GOLDEN), &golden)
}

/// A label as a part of a file name.
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
