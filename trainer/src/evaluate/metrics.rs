//! The figures that follow from the scores of labelled samples.

use std::iter;

use serde::{Deserialize, Serialize};

/// The number of bins of the calibration error, as in the paper that [`Calibration`] cites.
pub const CALIBRATION_BINS: usize = 15;
/// The k of the top-k accuracy.
const TOP: usize = 5;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    pub label: String,
    /// The number of samples with this label.
    pub support: usize,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Values between 0 and 1. A quotient whose divisor is 0 counts as 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The part of the samples classified as this label that have it.
    pub precision: f64,
    /// The part of the samples with this label that are classified as it.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
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

    /// The mean over the classes that have samples.
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

/// How far the highest scores are from the probabilities of being right, after C. Guo, G. Pleiss,
/// Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
///
/// Samples are put into bins of equal width by their highest score. The differences between the
/// accuracy and the mean highest score of each bin are averaged, weighted by the number of samples
/// in the bin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The expected calibration error, between 0 and 1. At 0, samples with a score of 0.8 are right
    /// in 8 of 10 cases.
    pub error: f64,
    /// The bins, from low scores to high ones.
    pub bins: Vec<CalibrationBin>,
}

/// The samples whose highest score is in one of [`CALIBRATION_BINS`] equal parts of 0 to 1,
/// including the upper bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    pub samples: usize,
    /// The mean of the highest scores; 0 without samples.
    pub confidence: f64,
    /// The part of the samples classified correctly; 0 without samples.
    pub accuracy: f64,
}

impl Calibration {
    /// Takes the highest score of each sample, and whether the label with that score is right.
    pub fn new(results: impl Iterator<Item = (f32, bool)>) -> Self {
        let mut sums = [(0_usize, 0.0_f64, 0_usize); CALIBRATION_BINS];
        let mut samples = 0;
        for (score, right) in results {
            let score = f64::from(score);
            // The upper bound of a bin belongs to it; so does 0 to the first bin.
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

/// Counts how often each label was given, for each true label.
pub(super) fn confusion(labels: usize, pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let mut confusion = vec![vec![0; labels]; labels];
    for (truth, given) in pairs {
        confusion[truth][given] += 1;
    }
    confusion
}

/// The figures of all classes, from a confusion matrix in the order of `labels`.
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

/// The part of the samples whose true label has one of the five highest scores. `None` if there are
/// at most five labels, because it would always be 1.
pub(super) fn top_5<'a>(labels: usize, samples: impl Iterator<Item = (usize, &'a [f32])>) -> Option<f64> {
    if labels <= TOP {
        return None;
    }
    let (mut found, mut count) = (0_usize, 0_usize);
    for (truth, scores) in samples {
        // Of equal scores, the first label ranks higher, as on the server.
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

/// The index of the highest score; of equal scores, the first, as on the server.
pub(super) fn best(scores: &[f32]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best
}

/// `part / whole`, or 0 if `whole` is 0.
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
    fn figures_follow_from_the_confusion_matrix() {
        let labels = ["cat", "dog", "owl", "yak"].map(str::to_owned).to_vec();
        // True and given label: 3 of 4 cats are found, 1 is called a dog; both dogs are found; the
        // owl is called a cat; there is no yak.
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
        // Always certain and always wrong.
        close(Calibration::new([(1.0, false)].into_iter()).error, 1.0);
        close(Calibration::new(iter::empty()).error, 0.0);
    }

    #[test]
    fn bins_are_weighted_by_their_size() {
        // Three samples between 13/15 and 14/15, two of them right; one between 9/15 and 10/15,
        // wrong.
        let results = [(0.9, true), (0.92, true), (0.91, false), (0.65, false)];
        let calibration = Calibration::new(results.into_iter());
        assert_eq!(calibration.bins.len(), CALIBRATION_BINS);
        assert_eq!(calibration.bins[13].samples, 3);
        close(calibration.bins[13].confidence, 0.91);
        close(calibration.bins[13].accuracy, 2.0 / 3.0);
        assert_eq!(calibration.bins[9].samples, 1);
        close(calibration.error, (3.0 * (0.91 - 2.0 / 3.0) + 0.65) / 4.0);
    }

    #[test]
    fn the_scores_0_and_1_are_in_the_first_and_last_bin() {
        let calibration = Calibration::new([(0.0, false), (1.0, true)].into_iter());
        assert_eq!(calibration.bins[0].samples, 1);
        assert_eq!(calibration.bins[14].samples, 1);
    }

    #[test]
    fn top_5_ranks_equal_scores_by_label() {
        let scores = [0.3, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1];
        let found = |truth| top_5(7, iter::once((truth, scores.as_slice()))).unwrap();
        // Of the equal scores, labels 1, 3 and 4 rank first.
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6].map(found),
            [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
        );
        assert_eq!(top_5(5, iter::once((0, &scores[..5]))), None);
    }
}
