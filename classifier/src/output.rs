//! From a graph's output to labels with scores: finite check, activation, top k.

use serde::{Deserialize, Serialize};

use crate::error::RunError;

/// The function that turns a graph's output into scores between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `exp(x) / sum(exp(x))`: exactly one label is right.
    Softmax,
    /// `1 / (1 + exp(-x))` for each label: any number of labels is right.
    Sigmoid,
    /// The graph computes probabilities itself.
    None,
}

/// Applies `activation` to one row of outputs.
///
/// # Errors
///
/// Fails with [`RunError::NonFinite`] if a value is infinite or not a number.
///
/// ```
/// use classifier::output::{Activation, scores};
///
/// assert_eq!(scores(&[2.0, 2.0], Activation::Softmax)?, [0.5, 0.5]);
/// assert!(scores(&[f32::NAN], Activation::Softmax).is_err());
/// # Ok::<(), classifier::RunError>(())
/// ```
pub fn scores(outputs: &[f32], activation: Activation) -> Result<Vec<f32>, RunError> {
    if let Some(at) = outputs.iter().position(|value| !value.is_finite()) {
        return Err(RunError::NonFinite {
            output: at,
            value: outputs[at],
        });
    }
    Ok(match activation {
        Activation::Softmax => softmax(outputs),
        Activation::Sigmoid => outputs.iter().map(|&x| sigmoid(x)).collect(),
        Activation::None => outputs.to_vec(),
    })
}

/// Softmax. The largest output is subtracted first, so that `exp` cannot overflow.
fn softmax(outputs: &[f32]) -> Vec<f32> {
    let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scores: Vec<f32> = outputs.iter().map(|&x| (x - largest).exp()).collect();
    let sum: f32 = scores.iter().sum();
    for score in &mut scores {
        *score /= sum;
    }
    scores
}

/// Logistic function, written so that `exp` never gets a large positive number.
fn sigmoid(x: f32) -> f32 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// Positions of the `k` highest scores, highest first. Equal scores keep their order.
///
/// Returns at least one position if there is a score, even if `k` is 0.
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let k = k.clamp(1, order.len().max(1));
    let descending = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, descending);
        order.truncate(k);
    }
    order.sort_unstable_by(descending);
    order
}

/// A label with its score.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelScore {
    /// Position of the label in [`Bundle::labels`](crate::Bundle::labels).
    pub index: usize,
    /// The label.
    pub label: String,
    /// The score, between 0 and 1.
    pub score: f32,
}

/// The best labels of one input, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// At least one label, in descending order of scores. Equal scores keep the order of the
    /// labels.
    pub top: Vec<LabelScore>,
    /// Whether the input is a text of which a part was cut off.
    pub truncated: bool,
}

impl Prediction {
    /// The `k` best labels, at least one.
    ///
    /// # Panics
    ///
    /// Panics if `scores` has more elements than `labels`.
    pub fn from_scores(scores: &[f32], labels: &[String], k: usize) -> Self {
        let score = |index: usize| LabelScore {
            index,
            label: labels[index].clone(),
            score: scores[index],
        };
        Self {
            top: top_k(scores, k).into_iter().map(score).collect(),
            truncated: false,
        }
    }

    /// The label with the highest score.
    ///
    /// # Panics
    ///
    /// Panics if [`Self::top`] was emptied.
    pub fn best(&self) -> &LabelScore {
        &self.top[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("label {i}")).collect()
    }

    #[test]
    fn softmax_survives_outputs_that_overflow_exp() {
        let scores = scores(&[1000.0, 999.0, -1000.0], Activation::Softmax).unwrap();
        assert!((scores[0] - 0.731_058_6).abs() < 1e-6, "{scores:?}");
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(scores[2], 0.0);
    }

    #[test]
    fn softmax_of_large_negative_outputs_is_not_zero_everywhere() {
        let scores = scores(&[-1000.0, -1001.0], Activation::Softmax).unwrap();
        assert!((scores[0] - 0.731_058_6).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn sigmoid_is_symmetric_and_finite_at_the_ends() {
        let scores = scores(&[-200.0, -1.0, 0.0, 1.0, 200.0], Activation::Sigmoid).unwrap();
        assert_eq!(scores[0], 0.0);
        assert!((scores[1] + scores[3] - 1.0).abs() < 1e-6);
        assert_eq!(scores[2], 0.5);
        assert_eq!(scores[4], 1.0);
    }

    #[test]
    fn probabilities_pass_through() {
        assert_eq!(scores(&[0.25, 0.75], Activation::None).unwrap(), [0.25, 0.75]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_an_error_for_every_activation() {
        for activation in [Activation::Softmax, Activation::Sigmoid, Activation::None] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = scores(&[0.0, bad, 1.0], activation).unwrap_err();
                assert!(matches!(error, RunError::NonFinite { output: 1, .. }), "{error}");
            }
        }
    }

    #[test]
    fn top_k_is_sorted_and_clamped() {
        let scores = [0.1, 0.4, 0.2, 0.3];
        let indices = |k| -> Vec<usize> {
            Prediction::from_scores(&scores, &labels(4), k)
                .top
                .iter()
                .map(|score| score.index)
                .collect()
        };
        assert_eq!(indices(2), [1, 3]);
        assert_eq!(indices(0), [1], "at least one");
        assert_eq!(indices(99), [1, 3, 2, 0], "at most all");
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_labels() {
        let prediction = Prediction::from_scores(&[0.25; 4], &labels(4), 3);
        let indices: Vec<usize> = prediction.top.iter().map(|score| score.index).collect();
        assert_eq!(indices, [0, 1, 2]);
    }
}
