//! A model directory on labelled samples, through `classifier`, as the server runs it.

mod metrics;
mod remote;
mod table;

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};
use classifier::{Classifier, bundle::ProblemType};
use serde::{Deserialize, Serialize};

use crate::{parallel::in_parallel, progress::Bar, samples::LabelledSamples, transform::Transform};
pub use metrics::{CALIBRATION_BINS, Calibration, CalibrationBin, Class, Figures};
pub use remote::{Remote, evaluate_remote};

/// Samples whose runs are timed.
const TIMED_SAMPLES: usize = 100;
/// Runs of the graph whose median time is reported.
const TIMED_RUNS: usize = 1000;
/// How many of the slowest and of the most wrong samples are reported.
const REMARKABLE: usize = 5;
/// Samples that looked slowest, for each that is reported: they are measured again, alone.
const SUSPECTS: usize = 4;
/// How often.
const SUSPECT_RUNS: usize = 5;

/// How a classifier did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Samples classified.
    pub samples: usize,
    /// What they are, in the plural.
    pub unit: String,
    /// What was done to them first.
    pub transform: Transform,
    /// Part of them labelled right.
    pub accuracy: f64,
    /// Part of them whose true label has one of the five highest scores; nothing for at most five labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_5: Option<f64>,
    /// Mean of the figures of those classes that had samples.
    pub macro_average: Figures,
    /// In the order of the classifier's labels.
    pub classes: Vec<Class>,
    /// For each true label, how often each label was given.
    pub confusion: Vec<Vec<usize>>,
    /// How far scores are from probabilities.
    pub calibration: Calibration,
    /// Median time of the graph for one sample on one thread, in microseconds.
    pub microseconds: f64,
    /// The samples that took longest, the slowest first.
    pub slowest: Vec<Slow>,
    /// The samples that got a wrong label with the highest scores, the highest first.
    pub most_wrong: Vec<Wrong>,
}

/// A sample that took long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    /// What the sample is called.
    pub name: String,
    /// From its bytes to its scores on one thread: the shortest of several times.
    pub microseconds: f64,
}

/// A sample that got a wrong label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    /// What the sample is called.
    pub name: String,
    /// The true label.
    pub label: String,
    /// The label with the highest score.
    pub given: String,
    /// That score.
    pub score: f32,
    /// The score of the true label.
    pub true_score: f32,
}

impl Evaluation {
    /// Wrong labels with how often they were given: count, true label, given label; the commonest first.
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

    /// All of it as text for a terminal.
    pub fn table(&self) -> String {
        table::text(self)
    }
}

/// Scores of every sample, with what they come to.
#[derive(Debug)]
pub struct Measurement {
    /// What they come to.
    pub evaluation: Evaluation,
    /// For each sample, the score of every label.
    pub scores: Vec<Vec<f32>>,
}

/// Classifies every sample with the model directory and counts.
pub fn evaluate(directory: &Path, samples: &dyn LabelledSamples) -> Result<Measurement> {
    if samples.is_empty() {
        bail!("expected {} to classify, found none", samples.unit());
    }
    let mut classifier = classifier::open(directory)?;
    if classifier.bundle().problem_type != ProblemType::SingleLabelClassification {
        bail!(
            "{}: expected a classifier with one right label for each input (single_label_classification), found a \
             multi-label one: its figures are of another kind",
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
    let answers = pairs()
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
        calibration: Calibration::new(answers),
        microseconds: graph_time(&mut classifier, samples)?,
        slowest: slowest(&mut classifier, samples, &times)?,
        most_wrong: most_wrong(samples, &labels, &truth, &scores),
    };
    Ok(Measurement { evaluation, scores })
}

/// One sample's scores, and the microseconds from its bytes to them.
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

/// For each sample, where its label stands in the classifier's.
fn true_labels(labels: &[String], samples: &dyn LabelledSamples) -> Result<Vec<usize>> {
    let place = |at: usize| {
        let truth = samples.label(at);
        labels.iter().position(|label| *label == truth).with_context(|| {
            format!(
                "{} has the label {truth:?}; expected one of the classifier's labels, which are {labels:?}",
                samples.name(at)
            )
        })
    };
    (0..samples.len()).map(place).collect()
}

/// Median time of the graph alone, in microseconds.
fn graph_time(classifier: &mut Classifier, samples: &dyn LabelledSamples) -> Result<f64> {
    let mut rows = Vec::new();
    for at in 0..samples.len().min(TIMED_SAMPLES) {
        let input = samples.input(at)?;
        let prepared = classifier
            .bundle()
            .preprocessor
            .prepare(input.bytes(), &classifier::Limits::default())
            .with_context(|| samples.name(at))?;
        rows.push(prepared.row);
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

/// The samples that take longest. `times` were taken side by side, when a thread may have had to wait, so those that
/// look slowest are measured again.
fn slowest(classifier: &mut Classifier, samples: &dyn LabelledSamples, times: &[f64]) -> Result<Vec<Slow>> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|&a, &b| times[b].total_cmp(&times[a]));
    let mut slowest = Vec::new();
    for at in order.into_iter().take(REMARKABLE * SUSPECTS) {
        let mut shortest = f64::INFINITY;
        for _ in 0..SUSPECT_RUNS {
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
