//! A classifier of one's own pictures as a model directory, measured there.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use classifier::{
    bundle::{CONFIG, MODEL, Measured as Figures, PREPROCESSOR_CONFIG, SERVING, Serving},
    golden::{GOLDEN, GoldenEntry, GoldenFile},
    image::{ImageLimits, decode, to_rgb},
};
use image::DynamicImage;
use tch::Device;

use super::{Measured, Request, card, source, transfer::Donor};
use crate::{
    data::image_folder::{ImageFiles, ImageFolder, read},
    evaluate::{Evaluation, evaluate},
    export::{AGREEMENT, GOLDEN_TOLERANCE, create, file_name, labels_json, publish, write, write_json},
    network::{Layer, Network, values},
    report,
    training::{Epoch, Source, probabilities},
    transform::png,
};
use onnx_graph::{Dim, ElementType, GraphBuilder, ModelFile};

/// At most so many golden samples, one of each class.
const GOLDEN_SAMPLES: usize = 20;
/// Golden samples are made smaller than this many pixels on their shorter side.
const GOLDEN_SIDE: u32 = 256;

/// The result of training, with where it came from.
pub(super) struct Trained<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) folder: &'a ImageFolder,
    pub(super) layers: &'a [Layer],
    /// What was trained: all of it, or the new last layer.
    pub(super) network: &'a Network,
    pub(super) donor: Option<&'a Donor>,
    /// The validation pictures as they were looked at in training.
    pub(super) validation: &'a dyn Source,
    pub(super) history: &'a [Epoch],
    /// The epoch that the weights are from, counted from 1.
    pub(super) best: u32,
}

impl Trained<'_> {
    /// What the pictures are called in public: the folder's name.
    pub(super) fn name(&self) -> String {
        let path = self
            .request
            .given
            .data
            .canonicalize()
            .unwrap_or_else(|_| self.request.given.data.to_path_buf());
        path.file_name()
            .map_or_else(|| "folder".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    pub(super) fn classes(&self) -> &[String] {
        &self.folder.training.classes
    }
}

/// Writes the model directory in place of one that may be there. It appears when it is complete and measured.
pub(super) fn export(trained: &Trained<'_>) -> Result<Measured> {
    let folder = trained.folder;
    publish(&trained.request.out, |aside| {
        let output = write_graph(trained, aside)?;
        write_configs(trained, aside)?;
        write_serving(trained, &output, None, aside)?;

        eprintln!("measuring through ONNX Runtime");
        let validation = evaluate(aside, &folder.validation)?;
        let agreement = agreement(trained, &validation.scores)?;
        let test = folder
            .test
            .as_ref()
            .map(|test| evaluate(aside, test))
            .transpose()?;
        let graph = aside.join(MODEL);
        let measured = Measured {
            validation: validation.evaluation,
            test: test.map(|test| test.evaluation),
            agreement,
            bytes: fs::metadata(&graph)
                .with_context(|| format!("cannot read {}", graph.display()))?
                .len(),
        };
        write_serving(trained, &output, Some(&measured), aside)?;
        write_golden(&folder.validation, aside)?;
        write(&aside.join("README.md"), &card::text(trained, &measured))?;
        let pictures = aside.join(report::DIRECTORY);
        report::write_curves(&pictures, trained.history, Some(trained.best))?;
        report::write_evaluation(&pictures, measured.best_known())?;
        report::link(aside)?;
        Ok(measured)
    })
}

/// Gives the name of the output.
fn write_graph(trained: &Trained<'_>, directory: &Path) -> Result<String> {
    let name = trained.name();
    let description = format!("pictures like those in the folder {name} to one logit for each class");
    let mut metadata = BTreeMap::from([
        ("dataset".to_owned(), format!("folder {name}")),
        ("network".to_owned(), trained.request.config.network.clone()),
        ("seed".to_owned(), trained.request.config.seed.to_string()),
        ("task".to_owned(), "image-classification".to_owned()),
    ]);
    let path = directory.join(MODEL);
    if let Some(donor) = trained.donor {
        let from = donor.bundle.directory.display().to_string();
        metadata.insert("transferred_from".to_owned(), from);
        let (bytes, output) = donor.with_head(trained.network, &description, &metadata)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(output);
    }
    let side = Dim::Fixed(trained.request.given.options.size as usize);
    let output = "logits";
    let mut graph = GraphBuilder::new("folder");
    graph.describe(&description);
    let shape = [Dim::BATCH, Dim::Fixed(3), side, side];
    let input = graph.input("pixel_values", ElementType::Float, &shape);
    trained.network.export(&mut graph, &input, output)?;
    let logits = [Dim::BATCH, Dim::Fixed(trained.classes().len())];
    graph.output(output, ElementType::Float, &logits);
    ModelFile::new(graph, &name, &metadata)?
        .with_producer("classifyd trainer", env!("CARGO_PKG_VERSION"))
        .save(&path)?;
    Ok(output.to_owned())
}

fn write_configs(trained: &Trained<'_>, directory: &Path) -> Result<()> {
    write_json(&directory.join(CONFIG), &labels_json(trained.classes()))?;
    let path = directory.join(PREPROCESSOR_CONFIG);
    match trained.donor {
        Some(donor) => {
            let bytes = read(&donor.bundle.directory.join(PREPROCESSOR_CONFIG))?;
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        }
        None => write_json(&path, &source::preprocessor(trained.request.given.options.size)),
    }
}

fn write_serving(
    trained: &Trained<'_>,
    output: &str,
    measured: Option<&Measured>,
    directory: &Path,
) -> Result<()> {
    // How the other classifier wants to be run is how its graph wants to be run.
    let kept = trained
        .donor
        .map(|donor| donor.bundle.serving.clone())
        .unwrap_or_default();
    let serving = Serving {
        output: Some(output.to_owned()),
        activation: None,
        measured: measured.map(|measured| {
            let Evaluation {
                samples, accuracy, ..
            } = *measured.best_known();
            Figures {
                dataset: format!("folder {}", trained.name()),
                split: if measured.test.is_some() {
                    "test"
                } else {
                    "validation"
                }
                .to_owned(),
                samples: samples as u64,
                accuracy,
            }
        }),
        ..kept
    };
    let mut table = toml::Table::try_from(&serving).context("cannot write serving.toml")?;
    table.retain(|_, value| value.as_table().is_none_or(|table| !table.is_empty()));
    write(&directory.join(SERVING), &table.to_string())
}

/// Compares ONNX Runtime's scores with libtorch's on every validation picture.
fn agreement(trained: &Trained<'_>, scores: &[Vec<f32>]) -> Result<f32> {
    let mut network = Network::new(trained.layers, 0, Device::Cpu)?;
    network.load(trained.network.weights())?;
    let expected = values(&probabilities(&network, trained.validation)?)?;
    let largest = expected
        .iter()
        .zip(scores.iter().flatten())
        .map(|(libtorch, onnx)| (libtorch - onnx).abs())
        .fold(0.0, f32::max);
    if expected.len() != scores.iter().map(Vec::len).sum::<usize>() || largest > AGREEMENT {
        bail!(
            "the exported graph does not do what the trained network does: expected probabilities within {AGREEMENT} \
             of libtorch's on all validation pictures, found a difference of {largest}"
        );
    }
    Ok(largest)
}

/// One validation picture of each class, made small, with the scores that it gets.
fn write_golden(files: &ImageFiles, directory: &Path) -> Result<()> {
    create(&directory.join("golden"))?;
    let mut classifier = classifier::open(directory)?;
    let mut samples = Vec::new();
    for at in files.first_of_each_class(1).into_iter().take(GOLDEN_SAMPLES) {
        let (path, class) = &files.files[at];
        let label = files.classes[*class].clone();
        let bytes = small(path)?;
        // Labels may differ in nothing that a file's name shows.
        let file = format!("golden/{class}_{}.png", file_name(&label));
        let target = directory.join(&file);
        fs::write(&target, &bytes).with_context(|| format!("cannot write {}", target.display()))?;
        let scores = classifier.scores(&bytes)?;
        samples.push(GoldenEntry { file, label, scores });
    }
    let golden = GoldenFile {
        tolerance: GOLDEN_TOLERANCE,
        samples,
    };
    write_json(&directory.join(GOLDEN), &golden)
}

fn small(path: &Path) -> Result<Vec<u8>> {
    let picture = || -> Result<Vec<u8>> {
        let picture = DynamicImage::ImageRgb8(to_rgb(decode(&read(path)?, &ImageLimits::default())?));
        let (width, height) = (picture.width(), picture.height());
        let shorter = width.min(height);
        if shorter <= GOLDEN_SIDE {
            return png(&picture);
        }
        let scaled = |side: u32| (u64::from(side) * u64::from(GOLDEN_SIDE) / u64::from(shorter)) as u32;
        let filter = image::imageops::FilterType::Triangle;
        png(&picture.resize_exact(scaled(width), scaled(height), filter))
    };
    picture().with_context(|| path.display().to_string())
}
