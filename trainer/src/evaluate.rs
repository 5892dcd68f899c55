//! A model directory on test pictures, through `classifier`, as the server runs it.

use std::{fmt::Write as _, path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};
use classifier::Classifier;
use serde::{Deserialize, Serialize};

use crate::{data::Pictures, parallel::in_parallel, transform::Transform};

/// Decides where canvases put their digits; fixed, so that figures can be compared.
const CANVAS_SEED: u64 = 1;
/// Runs of the graph whose median time is reported.
const TIMED_RUNS: usize = 1000;

/// How a classifier did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Pictures classified.
    pub samples: usize,
    /// What was done to them first.
    pub transform: Transform,
    /// Part of them labelled right.
    pub accuracy: f64,
    /// Mean of the classes' figures.
    pub macro_average: Figures,
    /// In the order of the classifier's labels.
    pub classes: Vec<Class>,
    /// For each true label, how often each label was given.
    pub confusion: Vec<Vec<usize>>,
    /// Median time of the graph for one picture on one thread, in microseconds.
    pub microseconds: f64,
}

/// How a classifier did on one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// The class.
    pub label: String,
    /// How many pictures of it there were.
    pub support: usize,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Between 0 and 1. What would be divided by nothing is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of the pictures given this label, the part that has it.
    pub precision: f64,
    /// Of the pictures that have this label, the part given it.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

impl Figures {
    fn new(right: usize, given: usize, support: usize) -> Self {
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let precision = ratio(right as f64, given as f64);
        let recall = ratio(right as f64, support as f64);
        Self {
            precision,
            recall,
            f1: ratio(2.0 * precision * recall, precision + recall),
        }
    }
}

/// Scores of every picture, with what they come to.
#[derive(Debug)]
pub struct Measurement {
    /// What they come to.
    pub evaluation: Evaluation,
    /// For each picture, the score of every label.
    pub scores: Vec<Vec<f32>>,
}

/// Classifies every picture with the model directory and counts.
pub fn evaluate(directory: &Path, pictures: &Pictures, transform: Transform) -> Result<Measurement> {
    if pictures.is_empty() {
        bail!("expected pictures to classify, found none");
    }
    let mut classifier = classifier::open(directory)?;
    let labels = classifier.bundle().labels.clone();
    let truth = true_labels(&labels, pictures)?;
    let scores = in_parallel(
        pictures.len(),
        || Ok(classifier::open(directory)?),
        |classifier, at| Ok(classifier.scores(&encoded(pictures, transform, at)?)?),
    )?;
    let confusion = confusion(
        labels.len(),
        truth.iter().copied().zip(scores.iter().map(|row| best(row))),
    );
    let microseconds = microseconds(&mut classifier, pictures)?;
    Ok(Measurement {
        evaluation: Evaluation::new(labels, confusion, transform, microseconds),
        scores,
    })
}

impl Evaluation {
    fn new(labels: Vec<String>, confusion: Vec<Vec<usize>>, transform: Transform, microseconds: f64) -> Self {
        let classes: Vec<Class> = labels
            .into_iter()
            .enumerate()
            .map(|(at, label)| {
                let support = confusion[at].iter().sum();
                let given = confusion.iter().map(|row| row[at]).sum();
                Class {
                    label,
                    support,
                    figures: Figures::new(confusion[at][at], given, support),
                }
            })
            .collect();
        let samples: usize = classes.iter().map(|class| class.support).sum();
        let right: usize = confusion.iter().enumerate().map(|(at, row)| row[at]).sum();
        let mean = |figure: fn(&Figures) -> f64| {
            classes.iter().map(|class| figure(&class.figures)).sum::<f64>() / classes.len() as f64
        };
        Self {
            samples,
            transform,
            accuracy: right as f64 / samples as f64,
            macro_average: Figures {
                precision: mean(|figures| figures.precision),
                recall: mean(|figures| figures.recall),
                f1: mean(|figures| figures.f1),
            },
            classes,
            confusion,
            microseconds,
        }
    }

    /// All of it as text for a terminal.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} pictures, transform {}: accuracy {:.2} %, {:.1} us a picture (graph, batch 1, 1 thread)\n\n",
            self.samples,
            self.transform.name(),
            100.0 * self.accuracy,
            self.microseconds,
        );
        let mut line = |name: &str, figures: &Figures, support: usize| {
            let Figures {
                precision,
                recall,
                f1,
            } = figures;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{name:>12} {precision:>10.4} {recall:>10.4} {f1:>10.4} {support:>8}"
            );
        };
        for class in &self.classes {
            line(&class.label, &class.figures, class.support);
        }
        line("macro", &self.macro_average, self.samples);
        let head = format!(
            "{:>12} {:>10} {:>10} {:>10} {:>8}\n",
            "label", "precision", "recall", "F1", "pictures"
        );
        if let Some(at) = text.find("\n\n") {
            text.insert_str(at + 2, &head);
        }
        text += "\ntrue label by row, given label by column\n";
        let row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
            let mut row = format!("{name:>12}");
            for cell in cells {
                let _ = write!(row, " {cell:>5}");
            }
            row + "\n"
        };
        text += &row("", &mut self.classes.iter().map(|class| class.label.clone()));
        for (class, counts) in self.classes.iter().zip(&self.confusion) {
            text += &row(&class.label, &mut counts.iter().map(ToString::to_string));
        }
        text
    }
}

/// What the server behind `url` answers, next to what `scores` say.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Part of the pictures that the server labelled right.
    pub accuracy: f64,
    /// Pictures that the server labels otherwise than this program: number, label here, label there.
    pub different: Vec<(usize, String, String)>,
}

/// Sends every picture to a running server and compares its labels with those of `scores`.
pub fn evaluate_remote(
    url: &str,
    directory: &Path,
    pictures: &Pictures,
    transform: Transform,
    scores: &[Vec<f32>],
) -> Result<Remote> {
    let labels = classifier::Bundle::open(directory)?.labels;
    let truth = true_labels(&labels, pictures)?;
    let (model, version) = name_and_version(directory)?;
    let address = format!("{}/v1/classify?model={model}", url.trim_end_matches('/'));
    let answers = in_parallel(
        pictures.len(),
        || {
            Ok(ureq::Agent::from(
                ureq::config::Config::builder()
                    .http_status_as_error(false)
                    .build(),
            ))
        },
        |agent, at| {
            let picture = encoded(pictures, transform, at)?;
            let answer = ask(agent, &address, transform, &picture)?;
            if answer.version != version {
                bail!(
                    "{address}: expected version {version} of {model}, found version {}",
                    answer.version
                );
            }
            match <[RemoteResult; 1]>::try_from(answer.results) {
                Ok([result]) => Ok(result.label),
                Err(results) => bail!("{address}: expected 1 result, found {}", results.len()),
            }
        },
    )?;
    let mut right = 0;
    let mut different = Vec::new();
    for (at, there) in answers.into_iter().enumerate() {
        let here = &labels[best(&scores[at])];
        right += usize::from(there == labels[truth[at]]);
        if *here != there {
            different.push((at, here.clone(), there));
        }
    }
    Ok(Remote {
        accuracy: right as f64 / pictures.len() as f64,
        different,
    })
}

#[derive(Debug, Deserialize)]
struct Answer {
    version: String,
    results: Vec<RemoteResult>,
}

#[derive(Debug, Deserialize)]
struct RemoteResult {
    label: String,
}

fn ask(agent: &ureq::Agent, address: &str, transform: Transform, picture: &[u8]) -> Result<Answer> {
    let kind = if transform == Transform::Jpeg {
        "image/jpeg"
    } else {
        "image/png"
    };
    let mut answer = agent
        .post(address)
        .content_type(kind)
        .send(picture)
        .with_context(|| format!("cannot reach {address}"))?;
    let status = answer.status();
    let body = answer
        .body_mut()
        .read_to_string()
        .with_context(|| format!("cannot read from {address}"))?;
    if !status.is_success() {
        bail!("{address}: expected an answer, found status {status}: {body}");
    }
    serde_json::from_str(&body).with_context(|| format!("{address}: expected a classification, found {body}"))
}

/// `models/digits/1` is version 1 of `digits`.
fn name_and_version(directory: &Path) -> Result<(String, String)> {
    let path = directory
        .canonicalize()
        .with_context(|| format!("cannot find {}", directory.display()))?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parts = name(&path).zip(path.parent().and_then(name));
    let (version, model) = parts.with_context(|| {
        format!(
            "{}: expected a path that ends with a model's name and version",
            path.display()
        )
    })?;
    Ok((model, version))
}

fn encoded(pictures: &Pictures, transform: Transform, at: usize) -> Result<Vec<u8>> {
    let picture = pictures.get(at).context("a picture is missing")?;
    transform.apply(&picture, CANVAS_SEED, at)
}

/// For each picture, where its class stands in the classifier's labels.
fn true_labels(labels: &[String], pictures: &Pictures) -> Result<Vec<usize>> {
    let place = |class: &u8| {
        let class = class.to_string();
        labels.iter().position(|label| *label == class).with_context(|| {
            format!(
                "the data has the class {class}; expected it among the classifier's labels, found {labels:?}"
            )
        })
    };
    pictures.labels().iter().map(place).collect()
}

fn confusion(labels: usize, pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let mut confusion = vec![vec![0; labels]; labels];
    for (truth, given) in pairs {
        confusion[truth][given] += 1;
    }
    confusion
}

/// Place of the highest score; the first of equal ones, as in an answer of the server.
fn best(scores: &[f32]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best
}

fn microseconds(classifier: &mut Classifier, pictures: &Pictures) -> Result<f64> {
    let mut rows = Vec::new();
    for picture in pictures.iter().take(100) {
        let picture = image::DynamicImage::ImageLuma8(picture);
        rows.push(classifier::Row::from(
            classifier.bundle().preprocessor.image()?.apply(picture)?,
        ));
    }
    let mut times = Vec::with_capacity(TIMED_RUNS);
    for row in rows.chunks(1).cycle().take(TIMED_RUNS) {
        let begun = Instant::now();
        classifier.run(row)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMED_RUNS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_confusion_matrix() {
        let labels = ["cat", "dog", "owl"].map(str::to_owned).to_vec();
        // Truth and answer: 3 cats of 4 found, 1 called a dog; both dogs found; the owl called a cat.
        let pairs = [(0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (2, 0)];
        let confusion = confusion(3, pairs.into_iter());
        assert_eq!(confusion, [[3, 1, 0], [0, 2, 0], [1, 0, 0]]);
        let evaluation = Evaluation::new(labels, confusion, Transform::None, 1.0);
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}, {expected}");
        assert_eq!(evaluation.samples, 7);
        close(evaluation.accuracy, 5.0 / 7.0);
        let [cat, dog, owl] = evaluation.classes.as_slice() else {
            panic!("three classes")
        };
        assert_eq!([cat.support, dog.support, owl.support], [4, 2, 1]);
        close(cat.figures.precision, 0.75);
        close(cat.figures.recall, 0.75);
        close(dog.figures.precision, 2.0 / 3.0);
        close(dog.figures.recall, 1.0);
        close(dog.figures.f1, 0.8);
        assert_eq!(owl.figures, Figures::default(), "nothing was called an owl");
        close(evaluation.macro_average.recall, (0.75 + 1.0) / 3.0);
        let table = evaluation.table();
        assert!(table.contains("accuracy 71.43 %"), "{table}");
        assert!(
            table.contains("         dog     0.6667     1.0000     0.8000        2\n"),
            "{table}"
        );
        assert!(table.contains("         owl     1     0     0\n"), "{table}");
    }

    #[test]
    fn the_directory_names_the_model_and_its_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digits/3");
        std::fs::create_dir_all(&path).unwrap();
        let expected = ("digits".to_owned(), "3".to_owned());
        assert_eq!(name_and_version(&path).unwrap(), expected);
        assert_eq!(name_and_version(&path.join("../3/.")).unwrap(), expected);
    }
}
