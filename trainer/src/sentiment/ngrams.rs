//! A linear classifier of word n-grams and word pairs.
//!
//! The features of a review are its words, its sequences of two and three words, and its pairs of
//! words with one to three other words between them. Each feature counts once. Features are scaled
//! by their log-count ratio (Wang and Manning, "Baselines and Bigrams", 2012) and weighted by
//! logistic regression. A hash puts the weights into one table of bytes. The exported graph
//! computes the same hash, so it needs no list of the n-grams.

use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

use crate::progress::Bar;

/// Word ids are below this limit.
pub const WORD_LIMIT: i64 = 1 << 16;

/// A kind of feature: which words belong to it, relative to the position of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The distances of the words from the first one.
    pub offsets: &'static [usize],
    /// Added to the hash, so that the same words have another slot as a feature of another kind.
    pub salt: i64,
}

/// All kinds of features. Pairs with more than three words between them lowered the validation
/// accuracy.
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

/// The largest offset in [`KINDS`].
pub const REACH: usize = 4;

/// The hash's factors for the first, second and third word. Products of ids below [`WORD_LIMIT`]
/// do not overflow.
pub const FACTORS: [i64; 3] = [2_654_435_761, 2_246_822_519, 3_266_489_917];

/// The number of slots in the table. It is prime, so that hashes spread evenly.
pub const PLACES: i64 = 8_388_593;

/// The number of features that keep their weight: those with the largest absolute weights. This
/// leaves most slots empty, so an n-gram that training never saw seldom hits a weight.
const KEPT: usize = 700_000;

/// Features of fewer training reviews are left out.
const LEAST_REVIEWS: usize = 2;

/// The number of times that the solver visits each review.
const PASSES: u32 = 20;

/// Encodes a feature without collisions: its index in [`KINDS`] and its words.
fn key(kind: usize, words: impl Iterator<Item = i64>) -> u64 {
    words.fold(kind as u64 + 1, |key, word| (key << 16) | word as u64)
}

/// Returns the table's slot for a feature.
pub fn place(kind: &Kind, words: impl Iterator<Item = i64>) -> i64 {
    let products = words.zip(FACTORS).map(|(word, factor)| word * factor);
    (products.sum::<i64>() + kind.salt) % PLACES
}

/// Returns the words of each feature of one kind, in the order of the review.
fn picked<'a>(kind: &'a Kind, ids: &'a [i64]) -> impl Iterator<Item = impl Iterator<Item = i64> + 'a> + 'a {
    let last = kind.offsets.last().copied().unwrap_or(0);
    (0..ids.len().saturating_sub(last)).map(move |at| kind.offsets.iter().map(move |offset| ids[at + offset]))
}

/// Returns the distinct features of a review in ascending order.
fn features(ids: &[i64]) -> Vec<u64> {
    let mut keys: Vec<u64> = Vec::with_capacity(KINDS.len() * ids.len());
    for (at, kind) in KINDS.iter().enumerate() {
        keys.extend(picked(kind, ids).map(|words| key(at, words)));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The trained weights, quantised to bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The signed square roots of the weights, one for each of the [`PLACES`] slots, and a final
    /// zero for positions without a feature.
    pub roots: Vec<i8>,
    /// A slot's weight is `root * root.abs() * scale`.
    pub scale: f32,
    /// The logit of a review without features.
    pub bias: f32,
}

impl Table {
    /// Computes the logit of `positive`, as the exported graph does.
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

    /// Returns the number of slots that hold a weight.
    pub fn taken(&self) -> usize {
        self.roots.iter().filter(|&&root| root != 0).count()
    }
}

/// Trains the classifier. `strength` is the inverse strength of the regularisation.
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

/// Computes the logarithm of how much more frequent each feature is in positive reviews than in
/// negative ones, with add-one smoothing.
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

/// Fits a logistic regression with an L2 penalty and returns its weights and bias. A feature has
/// the value in `ratios` if the review has it, and else 0.
fn regress(
    rows: &[Vec<u32>],
    positive: &[bool],
    ratios: &[f64],
    strength: f64,
    seed: u64,
) -> (Vec<f64>, f64) {
    let mut solver = Solver::new(rows, positive, ratios, strength);
    let bar = Bar::samples("n-grams", u64::from(PASSES) * rows.len() as u64, 0);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..PASSES {
        order.shuffle(&mut rng);
        for &at in &order {
            solver.visit(at);
            bar.advance(1);
        }
    }
    bar.finish();
    (solver.weights, solver.bias)
}

/// Coordinate descent on the dual problem of a logistic regression (Yu, Huang and Lin, "Dual
/// coordinate descent methods for logistic regression and maximum entropy models", 2011).
struct Solver<'a> {
    rows: &'a [Vec<u32>],
    ratios: &'a [f64],
    strength: f64,
    /// The class of each review: 1 for positive, else -1.
    signs: Vec<f64>,
    /// The squared norm of each review's features.
    squares: Vec<f64>,
    /// The two dual variables of each review. They add up to the strength.
    duals: Vec<[f64; 2]>,
    weights: Vec<f64>,
    /// The weight of an extra feature that is always 1.
    bias: f64,
}

impl<'a> Solver<'a> {
    fn new(rows: &'a [Vec<u32>], positive: &[bool], ratios: &'a [f64], strength: f64) -> Self {
        let sign = |&positive: &bool| if positive { 1.0 } else { -1.0 };
        let small = (0.001 * strength).min(1e-8);
        let mut solver = Self {
            rows,
            ratios,
            strength,
            signs: positive.iter().map(sign).collect(),
            squares: Vec::with_capacity(rows.len()),
            duals: vec![[small, strength - small]; rows.len()],
            weights: vec![0.0; ratios.len()],
            bias: 0.0,
        };
        for (row, sign) in rows.iter().zip(&solver.signs) {
            let mut square = 1.0;
            for &feature in row {
                let ratio = ratios[feature as usize];
                square += ratio * ratio;
                solver.weights[feature as usize] += small * sign * ratio;
            }
            solver.bias += small * sign;
            solver.squares.push(square);
        }
        solver
    }

    /// Optimises the dual variables of one review and updates the weights.
    fn visit(&mut self, at: usize) {
        let row = &self.rows[at];
        let sum: f64 = row
            .iter()
            .map(|&feature| self.weights[feature as usize] * self.ratios[feature as usize])
            .sum();
        let margin = self.signs[at] * (sum + self.bias);
        let step = dual_step(&mut self.duals[at], self.squares[at], margin, self.strength);
        if step != 0.0 {
            let step = step * self.signs[at];
            for &feature in row {
                self.weights[feature as usize] += step * self.ratios[feature as usize];
            }
            self.bias += step;
        }
    }
}

/// Optimises two dual variables by Newton's method and returns the change of the first.
fn dual_step(duals: &mut [f64; 2], square: f64, margin: f64, strength: f64) -> f64 {
    // Moving the smaller of the two is numerically stable.
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

/// Hashes the largest weights into the table. Weights that share a slot are added.
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
    fn a_review_has_each_word_sequence_and_pair_once() {
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
    fn a_negation_flips_the_word_after_it() {
        // 2 means "good", 3 "bad", 4 "not"; the other words carry no meaning. Most reviews have no
        // negation.
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
    fn the_solver_finds_the_minimum() {
        let rows = [vec![0, 1], vec![0], vec![1], vec![0, 1], vec![1]];
        let positive = [true, true, false, false, true];
        let ratios = [0.5, -1.5];
        let strength = 0.7;
        let (weights, bias) = regress(&rows, &positive, &ratios, strength, 1);
        // At the minimum the gradients of the penalty and of the loss cancel out.
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
