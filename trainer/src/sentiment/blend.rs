//! Adds up the logits of the word sequences and of the network.

use tch::Tensor;

use super::Kind;

/// The blend's logit is `bias` plus the weighted logits of the word sequences and of the network.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Blend {
    pub(super) weights: [f64; 2],
    pub(super) bias: f64,
}

impl Blend {
    /// The blend that consists of one part alone.
    pub(super) fn of_part(part: usize) -> Self {
        let mut weights = [0.0; 2];
        weights[part] = 1.0;
        Self { weights, bias: 0.0 }
    }

    /// Finds the blend by logistic regression on reviews that nothing was trained on.
    pub(super) fn fit(kind: Kind, logits: &[[f64; 2]], positive: &[bool]) -> Self {
        let used = [kind.has_ngrams(), kind.has_network()];
        let rows: Vec<f64> = logits
            .iter()
            .flat_map(|row| {
                row.iter()
                    .zip(used)
                    .filter(|(_, used)| *used)
                    .map(|(logit, _)| *logit)
                    .chain([1.0])
            })
            .collect();
        let columns = used.iter().filter(|used| **used).count() + 1;
        let found = newton(&rows, columns, positive);
        let mut blend = Self {
            bias: found[columns - 1],
            ..Self::default()
        };
        let mut found = found.into_iter();
        for (weight, used) in blend.weights.iter_mut().zip(used) {
            if used {
                *weight = found.next().unwrap_or_default();
            }
        }
        blend
    }

    pub(super) fn logit(&self, logits: [f64; 2]) -> f64 {
        self.bias + self.weights[0] * logits[0] + self.weights[1] * logits[1]
    }
}

/// The weights of a logistic regression with few features, by Newton's method. A slight penalty
/// keeps them finite if the classes can be told apart without a mistake.
fn newton(rows: &[f64], columns: usize, positive: &[bool]) -> Vec<f64> {
    let features = Tensor::from_slice(rows).view([-1, columns as i64]);
    let labels: Vec<f64> = positive
        .iter()
        .map(|&positive| f64::from(u8::from(positive)))
        .collect();
    let labels = Tensor::from_slice(&labels);
    let mut weights = Tensor::zeros([columns as i64], tch::kind::DOUBLE_CPU);
    let penalty = Tensor::eye(columns as i64, tch::kind::DOUBLE_CPU) * 1e-3;
    for _ in 0..30 {
        let chances = features.mv(&weights).sigmoid();
        let gradient = features.tr().mv(&(&chances - &labels)) + penalty.mv(&weights);
        let spread = (&chances - &chances * &chances).unsqueeze(1);
        let curvature = features.tr().matmul(&(&features * spread)) + &penalty;
        weights -= curvature.inverse().mv(&gradient);
    }
    (0..columns as i64)
        .map(|at| weights.double_value(&[at]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_weighs_the_part_that_is_right_more_often_more() {
        // The first part is right in 9 of 10 cases, the second in 6 of 10.
        let mut logits = Vec::new();
        let mut positive = Vec::new();
        for at in 0..200 {
            let truth = at % 2 == 0;
            let sign = |right: bool| if right == truth { 1.0 } else { -1.0 };
            logits.push([sign(at / 2 % 10 != 0), 3.0 * sign(at / 2 % 10 < 6)]);
            positive.push(truth);
        }
        let found = Blend::fit(Kind::Blend, &logits, &positive);
        assert!(found.weights[0] > 3.0 * found.weights[1], "{found:?}");
        assert!(found.weights[0].is_finite() && found.bias.abs() < 0.1);
        let alone = Blend::fit(Kind::Ngrams, &logits, &positive);
        // Chances of 9 to 1.
        assert!((alone.weights[0] - 9f64.ln()).abs() < 0.05, "{alone:?}");
        assert_eq!(alone.weights[1], 0.0);
    }
}
