//! Measures a model directory on labelled samples through the `classifier` crate, which the server
//! uses too.

mod metrics;
mod remote;
mod table;

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};
use classifier::{Classifier, Row, bundle::ProblemType};
use serde::{Deserialize, Serialize};

use crate::{parallel::in_parallel, progress::Bar, samples::LabelledSamples, transform::Transform};
pub use metrics::{CALIBRATION_BINS, Calibration, CalibrationBin, Class, Figures};
pub use remote::{RemoteComparison, evaluate_remote};

/// The number of samples for the graph's time.
const TIMED_SAMPLES: usize = 100;
/// The number of runs for the graph's time, which is their median.
const TIMED_RUNS: usize = 1000;
/// The number of samples in [`Evaluation::slowest`] and in [`Evaluation::most_wrong`].
const REMARKABLE: usize = 5;
/// For each of the slowest samples to report, this many candidates are measured again.
const CANDIDATES: usize = 4;
/// The number of repeated measurements of a candidate.
const CANDIDATE_RUNS: usize = 5;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub samples: usize,
    /// The plural noun for the samples.
    pub unit: String,
    /// The transform of the samples.
    pub transform: Transform,
    /// The part of the samples classified correctly.
    pub accuracy: f64,
    /// The part of the samples whose true label has one of the five highest scores; `None` for at
    /// most five labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_5: Option<f64>,
    /// The mean of the figures over the classes that have samples.
    pub macro_average: Figures,
    /// The figures of each class, in the order of the classifier's labels.
    pub classes: Vec<Class>,
    /// How often each label was given, for each true label.
    pub confusion: Vec<Vec<usize>>,
    pub calibration: Calibration,
    /// The median time of the graph for one sample on one thread, in microseconds.
    pub microseconds: f64,
    /// The samples that took longest, slowest first.
    pub slowest: Vec<Slow>,
    /// The misclassified samples with the highest scores, highest first.
    pub most_wrong: Vec<Wrong>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    pub name: String,
    /// The time from the bytes to the scores on one thread, the shortest of several runs.
    pub microseconds: f64,
}

/// A misclassified sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    pub name: String,
    /// The true label.
    pub label: String,
    /// The label with the highest score.
    pub given: String,
    pub score: f32,
    /// The score of the true label.
    pub true_score: f32,
}

impl Evaluation {
    /// The pairs of labels that were confused: count, true label and given label, most frequent
    /// first.
    pub fn mistakes(&self) -> Vec<(usize, &str, &str)> {
        let label = |at: usize| self.classes[at].label.as_str();
        let mut mistakes = Vec::new();
        for (truth, row) in self.confusion.iter().enumerate() {
            for (given, &count) in row.iter().enumerate() {
                if truth != given && count > 0 {
                    mistakes.push((count, label(truth), label(given)));
                }
            }
        }
        mistakes.sort_by_key(|&(count, ..)| std::cmp::Reverse(count));
        mistakes
    }

    /// Formats the evaluation for a terminal.
    pub fn table(&self) -> String {
        table::text(self)
    }
}

#[derive(Debug)]
pub struct Measurement {
    pub evaluation: Evaluation,
    /// The score of every label, for each sample.
    pub scores: Vec<Vec<f32>>,
}

/// Classifies every sample with a model directory.
pub fn evaluate(directory: &Path, samples: &dyn LabelledSamples) -> Result<Measurement> {
    if samples.is_empty() {
        bail!("expected {} to classify, found none", samples.unit());
    }
    let mut classifier = classifier::open(directory)?;
    if classifier.bundle().problem_type != ProblemType::SingleLabelClassification {
        bail!(
            "{}: evaluation needs a single-label classifier (single_label_classification), found a multi-label one",
            directory.display()
        );
    }
    let labels = classifier.bundle().labels.clone();
    let truth = true_labels(&labels, samples)?;
    let bar = Bar::samples("evaluate", samples.len() as u64, 0);
    let measured = in_parallel(
        samples.len(),
        || Ok(classifier::open(directory)?),
        |classifier, at| {
            let result = timed_scores(classifier, samples, at)?;
            bar.advance(1);
            Ok(result)
        },
    )?;
    bar.finish();
    let (scores, times): (Vec<Vec<f32>>, Vec<f64>) = measured.into_iter().unzip();
    let given: Vec<usize> = scores.iter().map(|row| metrics::best(row)).collect();
    let pairs = || truth.iter().copied().zip(given.iter().copied());
    let confusion = metrics::confusion(labels.len(), pairs());
    let right = pairs().filter(|(truth, given)| truth == given).count();
    let results = pairs()
        .zip(&scores)
        .map(|((truth, given), scores)| (scores[given], truth == given));
    let classes = metrics::classes(labels.clone(), &confusion);
    let evaluation = Evaluation {
        samples: samples.len(),
        unit: samples.unit().to_owned(),
        transform: samples.transform(),
        accuracy: metrics::ratio(right as f64, samples.len() as f64),
        top_5: metrics::top_5(
            labels.len(),
            truth.iter().copied().zip(scores.iter().map(Vec::as_slice)),
        ),
        macro_average: Figures::mean(&classes),
        classes,
        confusion,
        calibration: Calibration::new(results),
        microseconds: graph_time(&mut classifier, samples)?,
        slowest: slowest(&mut classifier, samples, &times)?,
        most_wrong: most_wrong(samples, &labels, &truth, &scores),
    };
    Ok(Measurement { evaluation, scores })
}

/// The scores of one sample, and the microseconds from its bytes to them.
fn timed_scores(
    classifier: &mut Classifier,
    samples: &dyn LabelledSamples,
    at: usize,
) -> Result<(Vec<f32>, f64)> {
    let input = samples.input(at)?;
    let begun = Instant::now();
    let scores = classifier.scores(input.bytes());
    let time = begun.elapsed().as_secs_f64() * 1e6;
    Ok((scores.with_context(|| samples.name(at))?, time))
}

/// The index of each sample's label among the classifier's labels.
fn true_labels(labels: &[String], samples: &dyn LabelledSamples) -> Result<Vec<usize>> {
    let place = |at: usize| {
        let truth = samples.label(at);
        labels.iter().position(|label| *label == truth).with_context(|| {
            format!(
                "{}: expected one of the classifier's labels {labels:?}, found {truth:?}",
                samples.name(at)
            )
        })
    };
    (0..samples.len()).map(place).collect()
}

/// The median time of the graph alone, in microseconds.
fn graph_time(classifier: &mut Classifier, samples: &dyn LabelledSamples) -> Result<f64> {
    let mut rows = Vec::new();
    for at in 0..samples.len().min(TIMED_SAMPLES) {
        let input = samples.input(at)?;
        let prepared = classifier
            .bundle()
            .preprocessor
            .prepare(input.bytes(), &classifier::ImageLimits::default())
            .with_context(|| samples.name(at))?;
        rows.push(prepared.row);
    }
    median_time(classifier, &rows, TIMED_RUNS)
}

/// The median time of the graph for one row, in microseconds. Takes the rows in turns, until there
/// were `runs` runs.
pub fn median_time(classifier: &mut Classifier, rows: &[Row], runs: usize) -> Result<f64> {
    let mut times = Vec::with_capacity(runs);
    for row in rows.chunks(1).cycle().take(runs) {
        let begun = Instant::now();
        classifier.run(row)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times.get(runs / 2).copied().context("there are no rows to time")
}

/// The samples that take longest. `times` were measured on several threads, which may have had to
/// wait for a CPU, so the slowest candidates are measured again, alone.
fn slowest(classifier: &mut Classifier, samples: &dyn LabelledSamples, times: &[f64]) -> Result<Vec<Slow>> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|&a, &b| times[b].total_cmp(&times[a]));
    let mut slowest = Vec::new();
    for at in order.into_iter().take(REMARKABLE * CANDIDATES) {
        let mut shortest = f64::INFINITY;
        for _ in 0..CANDIDATE_RUNS {
            shortest = shortest.min(timed_scores(classifier, samples, at)?.1);
        }
        slowest.push(Slow {
            name: samples.name(at),
            microseconds: shortest,
        });
    }
    slowest.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
    slowest.truncate(REMARKABLE);
    Ok(slowest)
}

fn most_wrong(
    samples: &dyn LabelledSamples,
    labels: &[String],
    truth: &[usize],
    scores: &[Vec<f32>],
) -> Vec<Wrong> {
    let mut wrong: Vec<(usize, usize, f32)> = scores
        .iter()
        .enumerate()
        .map(|(at, row)| (at, metrics::best(row)))
        .filter(|&(at, given)| given != truth[at])
        .map(|(at, given)| (at, given, scores[at][given]))
        .collect();
    wrong.sort_by(|a, b| b.2.total_cmp(&a.2));
    let wrong = wrong.into_iter().take(REMARKABLE);
    wrong
        .map(|(at, given, score)| Wrong {
            name: samples.name(at),
            label: labels[truth[at]].clone(),
            given: labels[given].clone(),
            score,
            true_score: scores[at][truth[at]],
        })
        .collect()
}
