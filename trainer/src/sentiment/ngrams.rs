//! Sequences and pairs of words, each with a weight of its own.
//!
//! A review's features are the words in it, the sequences of two and of three, and the pairs of words with one to three
//! others between them, each counted once. They are scaled by their log-count ratio (Wang and Manning, "Baselines and
//! Bigrams", 2012) and weighted by logistic regression. The weights go into one table of bytes by a hash that the exported
//! graph computes as well, so that the classifier needs no list of the sequences.

use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

use crate::progress::Bar;

/// Ids of words are below this.
pub const WORD_LIMIT: i64 = 1 << 16;

/// A way to pick words around a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// How far from the first word the others are.
    pub offsets: &'static [usize],
    /// Added to the hash, so that the same words picked in another way have another place.
    pub salt: i64,
}

/// All of them. The pairs with gaps beyond three made the validation accuracy worse.
pub const KINDS: [Kind; 6] = [
    Kind {
        offsets: &[0],
        salt: 0,
    },
    Kind {
        offsets: &[0, 1],
        salt: 1_299_709,
    },
    Kind {
        offsets: &[0, 1, 2],
        salt: 2_750_159,
    },
    Kind {
        offsets: &[0, 2],
        salt: 4_256_233,
    },
    Kind {
        offsets: &[0, 3],
        salt: 5_800_079,
    },
    Kind {
        offsets: &[0, 4],
        salt: 7_368_787,
    },
];

/// The longest offset of [`KINDS`].
pub const REACH: usize = 4;

/// What the first, second and third word are multiplied by. With ids below [`WORD_LIMIT`] nothing overflows.
pub const FACTORS: [i64; 3] = [2_654_435_761, 2_246_822_519, 3_266_489_917];

/// Places in the table: a prime, so that hashes spread.
pub const PLACES: i64 = 8_388_593;

/// How many features keep their weight: those with the largest. Few of the places are taken then, so that sequences that
/// training never saw seldom meet a weight.
const KEPT: usize = 700_000;

/// Features that are in fewer training reviews are left out.
const LEAST_REVIEWS: usize = 2;

/// Times that the solver goes over the reviews.
const PASSES: u32 = 20;

/// One feature, exactly: which of [`KINDS`], and the words.
fn key(kind: usize, words: impl Iterator<Item = i64>) -> u64 {
    words.fold(kind as u64 + 1, |key, word| (key << 16) | word as u64)
}

/// The place in the table of the feature that picks these words.
pub fn place(kind: &Kind, words: impl Iterator<Item = i64>) -> i64 {
    let products = words.zip(FACTORS).map(|(word, factor)| word * factor);
    (products.sum::<i64>() + kind.salt) % PLACES
}

fn picked<'a>(kind: &'a Kind, ids: &'a [i64]) -> impl Iterator<Item = impl Iterator<Item = i64> + 'a> + 'a {
    let last = kind.offsets.last().copied().unwrap_or(0);
    (0..ids.len().saturating_sub(last)).map(move |at| kind.offsets.iter().map(move |offset| ids[at + offset]))
}

/// The features of a review, each once, in rising order.
fn features(ids: &[i64]) -> Vec<u64> {
    let mut keys: Vec<u64> = Vec::with_capacity(KINDS.len() * ids.len());
    for (at, kind) in KINDS.iter().enumerate() {
        keys.extend(picked(kind, ids).map(|words| key(at, words)));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Weights in a table of bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// [`PLACES`] roots of weights, with their signs, and a zero for what is no feature.
    pub roots: Vec<i8>,
    /// A weight is a root times its absolute value times this.
    pub scale: f32,
    /// What a review without features gets.
    pub bias: f32,
}

impl Table {
    /// Above zero for a review that is rather positive; what the exported graph computes.
    pub fn logit(&self, ids: &[i64]) -> f32 {
        let mut sum = 0;
        for kind in &KINDS {
            let mut places: Vec<i64> = picked(kind, ids).map(|words| place(kind, words)).collect();
            places.sort_unstable();
            places.dedup();
            for place in places {
                let root = i32::from(self.roots[place as usize]);
                sum += root * root.abs();
            }
        }
        sum as f32 * self.scale + self.bias
    }

    /// How many places hold a weight.
    pub fn taken(&self) -> usize {
        self.roots.iter().filter(|&&root| root != 0).count()
    }
}

/// Finds the weights that tell positive reviews from the others. `strength` is the inverse of the regularisation's.
pub fn fit(reviews: &[&[i64]], positive: &[bool], strength: f64, seed: u64) -> Table {
    let keys: Vec<Vec<u64>> = reviews.iter().map(|ids| features(ids)).collect();
    let mut all = keys.concat();
    all.sort_unstable();
    let common = all.chunk_by(u64::eq).filter(|same| same.len() >= LEAST_REVIEWS);
    let names: Vec<u64> = common.map(|same| same[0]).collect();
    drop(all);
    let rows: Vec<Vec<u32>> = keys
        .iter()
        .map(|keys| {
            let found = keys.iter().filter_map(|key| names.binary_search(key).ok());
            found.map(|at| at as u32).collect()
        })
        .collect();
    drop(keys);
    let ratios = log_count_ratios(&rows, positive, names.len());
    let (mut weights, bias) = regress(&rows, positive, &ratios, strength, seed);
    for (weight, ratio) in weights.iter_mut().zip(&ratios) {
        *weight *= ratio;
    }
    table(&names, &weights, bias as f32)
}

/// How much commoner each feature is in positive reviews, as a logarithm, one added to each count.
fn log_count_ratios(rows: &[Vec<u32>], positive: &[bool], features: usize) -> Vec<f64> {
    let mut counts = [vec![1.0_f64; features], vec![1.0; features]];
    for (row, &positive) in rows.iter().zip(positive) {
        for &feature in row {
            counts[usize::from(positive)][feature as usize] += 1.0;
        }
    }
    let [negative, positive] = counts;
    let (negatives, positives): (f64, f64) = (negative.iter().sum(), positive.iter().sum());
    let pairs = positive.iter().zip(&negative);
    pairs
        .map(|(p, n)| ((p / positives) / (n / negatives)).ln())
        .collect()
}

/// Logistic regression with an L2 penalty on features that are `ratios` where they are present, by coordinate descent on the
/// dual (Yu, Huang and Lin, "Dual coordinate descent methods for logistic regression", 2011). Gives weights and bias.
fn regress(
    rows: &[Vec<u32>],
    positive: &[bool],
    ratios: &[f64],
    strength: f64,
    seed: u64,
) -> (Vec<f64>, f64) {
    let signs: Vec<f64> = positive
        .iter()
        .map(|&positive| if positive { 1.0 } else { -1.0 })
        .collect();
    // Each review's two dual variables add up to the strength; one more feature, always 1, gives the bias.
    let small = (0.001 * strength).min(1e-8);
    let mut duals = vec![[small, strength - small]; rows.len()];
    let mut weights = vec![0.0; ratios.len()];
    let mut bias = 0.0;
    let mut squares = Vec::with_capacity(rows.len());
    for (row, sign) in rows.iter().zip(&signs) {
        let mut square = 1.0;
        for &feature in row {
            let ratio = ratios[feature as usize];
            square += ratio * ratio;
            weights[feature as usize] += small * sign * ratio;
        }
        bias += small * sign;
        squares.push(square);
    }
    let bar = Bar::samples("n-grams", u64::from(PASSES) * rows.len() as u64, 0);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..PASSES {
        order.shuffle(&mut rng);
        for &at in &order {
            let row = &rows[at];
            let sum: f64 = row
                .iter()
                .map(|&feature| weights[feature as usize] * ratios[feature as usize])
                .sum();
            let margin = signs[at] * (sum + bias);
            let step = dual_step(&mut duals[at], squares[at], margin, strength);
            if step != 0.0 {
                let step = step * signs[at];
                for &feature in row {
                    weights[feature as usize] += step * ratios[feature as usize];
                }
                bias += step;
            }
            bar.advance(1);
        }
    }
    bar.finish();
    (weights, bias)
}

/// Moves one review's dual variables to their best place by Newton's method. Gives the step of the first one.
fn dual_step(duals: &mut [f64; 2], square: f64, margin: f64, strength: f64) -> f64 {
    // The smaller of the two is moved, for numerical reasons.
    let (one, sign) = if 0.5 * square * (duals[1] - duals[0]) + margin < 0.0 {
        (1, -1.0)
    } else {
        (0, 1.0)
    };
    let old = duals[one];
    let mut new = if strength - old < 0.5 * strength {
        0.1 * old
    } else {
        old
    };
    for _ in 0..100 {
        let gradient = square * (new - old) + sign * margin + (new / (strength - new)).ln();
        if gradient.abs() < 1e-6 {
            break;
        }
        let curvature = square + strength / (strength - new) / new;
        let next = new - gradient / curvature;
        new = if next <= 0.0 {
            0.1 * new
        } else {
            next.min(strength * (1.0 - 1e-12))
        };
    }
    duals[one] = new;
    duals[1 - one] = strength - new;
    sign * (new - old)
}

/// Puts the largest weights into their places. Where several meet, they add up.
fn table(names: &[u64], weights: &[f64], bias: f32) -> Table {
    let mut sizes: Vec<f64> = weights.iter().map(|weight| weight.abs()).collect();
    let least = match sizes.len().checked_sub(KEPT) {
        Some(cut) if cut > 0 => *sizes.select_nth_unstable_by(cut, f64::total_cmp).1,
        _ => 0.0,
    };
    let mut sums = vec![0.0_f64; PLACES as usize + 1];
    for (&name, &weight) in names.iter().zip(weights) {
        if weight.abs() < least {
            continue;
        }
        let kind = (1..=3).rev().map(|words| (words, name >> (16 * words)));
        let Some((words, kind)) = kind.into_iter().find(|&(_, kind)| kind > 0) else {
            continue;
        };
        let words = (0..words)
            .rev()
            .map(|at| (name >> (16 * at)) as i64 & (WORD_LIMIT - 1));
        sums[place(&KINDS[kind as usize - 1], words) as usize] += weight;
    }
    let largest = sums.iter().map(|weight| weight.abs()).fold(1e-12, f64::max);
    let scale = largest / f64::from(i8::MAX).powi(2);
    let root = |weight: &f64| ((weight.abs() / scale).sqrt().round() * weight.signum()) as i8;
    Table {
        roots: sums.iter().map(root).collect(),
        scale: scale as f32,
        bias,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_words_sequences_and_pairs_each_once() {
        let found = features(&[7, 8, 7, 8, 9]);
        let expected = [
            (0, vec![7]),
            (0, vec![8]),
            (0, vec![9]),
            (1, vec![7, 8]),
            (1, vec![8, 7]),
            (1, vec![8, 9]),
            (2, vec![7, 8, 7]),
            (2, vec![8, 7, 8]),
            (2, vec![7, 8, 9]),
            (3, vec![7, 7]),
            (3, vec![8, 8]),
            (3, vec![7, 9]),
            (4, vec![7, 8]),
            (4, vec![8, 9]),
            (5, vec![7, 9]),
        ];
        let mut expected: Vec<u64> = expected
            .into_iter()
            .map(|(kind, words)| key(kind, words.into_iter()))
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(features(&[7]).len(), 1);
        assert!(features(&[]).is_empty());
    }

    #[test]
    fn a_negated_word_is_learned_from_its_neighbour() {
        // 2 is good, 3 is bad, 4 is not; the other words mean nothing. Most reviews negate nothing.
        let mut texts: Vec<(Vec<i64>, bool)> = Vec::new();
        for filler in 10..40 {
            texts.push((vec![filler, 2, filler + 1], true));
            texts.push((vec![filler + 1, 2, filler], true));
            texts.push((vec![filler, 4, 2, filler + 1], false));
            texts.push((vec![filler, 3, filler + 1], false));
            texts.push((vec![filler + 1, 3, filler], false));
            texts.push((vec![filler, 4, 3, filler + 1], true));
        }
        let rows: Vec<&[i64]> = texts.iter().map(|(ids, _)| ids.as_slice()).collect();
        let positive: Vec<bool> = texts.iter().map(|&(_, positive)| positive).collect();
        let table = fit(&rows, &positive, 1.0, 1);
        assert!(table.logit(&[60, 2]) > 0.0);
        assert!(table.logit(&[60, 4, 2]) < 0.0);
        assert!(table.logit(&[60, 3]) < 0.0);
        assert!(table.logit(&[60, 4, 3]) > 0.0);
        assert_eq!(table, fit(&rows, &positive, 1.0, 1));
        assert!(table.taken() < 1000);
    }

    #[test]
    fn the_regression_is_at_its_minimum() {
        let rows = [vec![0, 1], vec![0], vec![1], vec![0, 1], vec![1]];
        let positive = [true, true, false, false, true];
        let ratios = [0.5, -1.5];
        let strength = 0.7;
        let (weights, bias) = regress(&rows, &positive, &ratios, strength, 1);
        // The penalty's gradient and the loss's cancel out.
        let mut gradient = vec![weights[0], weights[1], bias];
        for (row, &positive) in rows.iter().zip(&positive) {
            let sum: f64 = row
                .iter()
                .map(|&at| weights[at as usize] * ratios[at as usize])
                .sum::<f64>()
                + bias;
            let sign = if positive { 1.0 } else { -1.0 };
            let part = -strength * sign / (1.0 + (sign * sum).exp());
            for &at in row {
                gradient[at as usize] += part * ratios[at as usize];
            }
            gradient[2] += part;
        }
        assert!(gradient.iter().all(|part| part.abs() < 1e-4), "{gradient:?}");
    }
}
