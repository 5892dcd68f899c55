//! What the scores of many labelled samples come to.

use std::iter;

use serde::{Deserialize, Serialize};

/// Bins of the calibration error, as in the paper that made it common; see [`Calibration`].
pub const CALIBRATION_BINS: usize = 15;
/// The true label counts as found if it is among so many of the highest scores.
const TOP: usize = 5;

/// How a classifier did on one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// The class.
    pub label: String,
    /// How many samples of it there were.
    pub support: usize,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Between 0 and 1. What would be divided by nothing is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of the samples given this label, the part that has it.
    pub precision: f64,
    /// Of the samples that have this label, the part given it.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

impl Figures {
    fn new(right: usize, given: usize, support: usize) -> Self {
        let precision = ratio(right as f64, given as f64);
        let recall = ratio(right as f64, support as f64);
        Self {
            precision,
            recall,
            f1: ratio(2.0 * precision * recall, precision + recall),
        }
    }

    /// Mean over those classes that had samples: a class without any cannot be found or missed.
    pub(super) fn mean(classes: &[Class]) -> Self {
        let present = || classes.iter().filter(|class| class.support > 0);
        let mean = |figure: fn(&Self) -> f64| {
            let sum: f64 = present().map(|class| figure(&class.figures)).sum();
            ratio(sum, present().count() as f64)
        };
        Self {
            precision: mean(|figures| figures.precision),
            recall: mean(|figures| figures.recall),
            f1: mean(|figures| figures.f1),
        }
    }
}

/// How far the highest scores are from being the probabilities that they look like.
///
/// C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3: samples
/// are put into bins of equal width by their highest score, and the differences between a bin's accuracy and its mean
/// highest score are averaged, weighted by the bins' sizes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The expected calibration error, between 0 (a score of 0.8 is right in 8 of 10 cases) and 1.
    pub error: f64,
    /// From the lowest scores to the highest.
    pub bins: Vec<CalibrationBin>,
}

/// Samples whose highest score lies in one of [`CALIBRATION_BINS`] equal parts of 0 to 1, upper bound included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// How many there are.
    pub samples: usize,
    /// Mean of their highest scores; 0 for no samples.
    pub confidence: f64,
    /// Part of them labelled right; 0 for no samples.
    pub accuracy: f64,
}

impl Calibration {
    /// From each sample's highest score, and whether the label with that score is right.
    pub fn new(answers: impl Iterator<Item = (f32, bool)>) -> Self {
        let mut sums = [(0_usize, 0.0_f64, 0_usize); CALIBRATION_BINS];
        let mut samples = 0;
        for (score, right) in answers {
            let score = f64::from(score);
            // Upper bounds belong to their bin: 1 to the last one, 0 to the first.
            let at = ((score * CALIBRATION_BINS as f64).ceil() as usize).clamp(1, CALIBRATION_BINS) - 1;
            sums[at].0 += 1;
            sums[at].1 += score;
            sums[at].2 += usize::from(right);
            samples += 1;
        }
        let bins: Vec<CalibrationBin> = sums
            .into_iter()
            .map(|(samples, scores, right)| CalibrationBin {
                samples,
                confidence: ratio(scores, samples as f64),
                accuracy: ratio(right as f64, samples as f64),
            })
            .collect();
        let weighted = |bin: &CalibrationBin| bin.samples as f64 * (bin.accuracy - bin.confidence).abs();
        Self {
            error: ratio(bins.iter().map(weighted).sum(), f64::from(samples)),
            bins,
        }
    }
}

/// For each true label, how often each label was given.
pub(super) fn confusion(labels: usize, pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let mut confusion = vec![vec![0; labels]; labels];
    for (truth, given) in pairs {
        confusion[truth][given] += 1;
    }
    confusion
}

/// The classes' figures, from a confusion matrix in the order of `labels`.
pub(super) fn classes(labels: Vec<String>, confusion: &[Vec<usize>]) -> Vec<Class> {
    iter::zip(labels, confusion)
        .enumerate()
        .map(|(at, (label, row))| {
            let support = row.iter().sum();
            let given = confusion.iter().map(|row| row[at]).sum();
            Class {
                label,
                support,
                figures: Figures::new(row[at], given, support),
            }
        })
        .collect()
}

/// Part of the samples whose true label has one of the five highest scores. Nothing where there are no more labels than
/// that, for it would be 1 whatever the classifier does.
pub(super) fn top_5<'a>(labels: usize, samples: impl Iterator<Item = (usize, &'a [f32])>) -> Option<f64> {
    if labels <= TOP {
        return None;
    }
    let (mut found, mut count) = (0_usize, 0_usize);
    for (truth, scores) in samples {
        // Of equal scores the first label wins, as in an answer of the server.
        let better = scores
            .iter()
            .enumerate()
            .filter(|&(at, &score)| score > scores[truth] || (score == scores[truth] && at < truth))
            .count();
        found += usize::from(better < TOP);
        count += 1;
    }
    Some(ratio(found as f64, count as f64))
}

/// Place of the highest score; the first of equal ones, as in an answer of the server.
pub(super) fn best(scores: &[f32]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best
}

/// 0 for a part of nothing.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn figures_are_those_of_the_confusion_matrix() {
        let labels = ["cat", "dog", "owl", "yak"].map(str::to_owned).to_vec();
        // Truth and answer: 3 cats of 4 found, 1 called a dog; both dogs found; the owl called a cat; no yak at all.
        let pairs = [(0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (2, 0)];
        let confusion = confusion(4, pairs.into_iter());
        assert_eq!(
            confusion,
            [[3, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
        );
        let classes = classes(labels, &confusion);
        let [cat, dog, owl, yak] = classes.as_slice() else {
            panic!("four classes")
        };
        assert_eq!([cat.support, dog.support, owl.support, yak.support], [4, 2, 1, 0]);
        close(cat.figures.precision, 0.75);
        close(cat.figures.recall, 0.75);
        close(dog.figures.precision, 2.0 / 3.0);
        close(dog.figures.recall, 1.0);
        close(dog.figures.f1, 0.8);
        assert_eq!(owl.figures, Figures::default(), "nothing was called an owl");
        let mean = Figures::mean(&classes);
        close(mean.recall, (0.75 + 1.0) / 3.0);
        close(mean.f1, (0.75 + 0.8) / 3.0);
    }

    #[test]
    fn a_calibrated_classifier_has_no_calibration_error() {
        // 0.8 is right in 8 of 10 cases.
        let honest = (0..10).map(|at| (0.8, at < 8));
        close(Calibration::new(honest).error, 0.0);
        // Always sure and always wrong.
        close(Calibration::new([(1.0, false)].into_iter()).error, 1.0);
        close(Calibration::new(iter::empty()).error, 0.0);
    }

    #[test]
    fn bins_are_weighted_by_their_size() {
        // Three samples between 13/15 and 14/15, two of them right; one between 9/15 and 10/15, wrong.
        let answers = [(0.9, true), (0.92, true), (0.91, false), (0.65, false)];
        let calibration = Calibration::new(answers.into_iter());
        assert_eq!(calibration.bins.len(), CALIBRATION_BINS);
        assert_eq!(calibration.bins[13].samples, 3);
        close(calibration.bins[13].confidence, 0.91);
        close(calibration.bins[13].accuracy, 2.0 / 3.0);
        assert_eq!(calibration.bins[9].samples, 1);
        close(calibration.error, (3.0 * (0.91 - 2.0 / 3.0) + 0.65) / 4.0);
    }

    #[test]
    fn the_lowest_and_the_highest_score_have_a_bin() {
        let calibration = Calibration::new([(0.0, false), (1.0, true)].into_iter());
        assert_eq!(calibration.bins[0].samples, 1);
        assert_eq!(calibration.bins[14].samples, 1);
    }

    #[test]
    fn five_guesses() {
        let scores = [0.3, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1];
        let found = |truth| top_5(7, iter::once((truth, scores.as_slice()))).unwrap();
        // Of the equal scores, those of labels 1, 3 and 4 come first.
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6].map(found),
            [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
        );
        assert_eq!(top_5(5, iter::once((0, &scores[..5]))), None);
    }
}
