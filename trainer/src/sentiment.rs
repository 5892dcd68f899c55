//! The classifier of reviews: weighted word sequences and a convolution over GloVe vectors, blended.
//!
//! Training goes in steps that can each be repeated: the vocabulary is counted, the network is trained by the loop that
//! trains all networks ([`crate::training`]) with its checkpoints, the weights of word sequences are found by a convex
//! solver ([`ngrams`]), and the reviews that were held out decide how the two are added up.

mod card;
mod export;
mod network;
pub mod ngrams;
mod source;
pub mod tokens;

use std::{collections::HashMap, fs, path::Path, sync::Arc, sync::atomic::AtomicBool};

use anyhow::{Context as _, Result, bail};
use classifier::text::{TextServing, Tokenizer, Truncation};
use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::{
    data::{
        self,
        imdb::{Imdb, Review},
    },
    evaluate::Evaluation,
    network::{Layer, Network},
    search::{Subject, spread},
    training::{self, Config, Epoch, Outcome, Start, Task},
};
pub use network::Kind;
use ngrams::Table;
use source::Texts;

/// Most tokens of a review that are read; four of a hundred reviews have more.
pub const LENGTH: usize = 768;
/// What is read of a longer one.
pub const TRUNCATION: Truncation = Truncation::HeadTail;
/// Lengths that reviews are padded to in a batch.
const BUCKETS: [u32; 7] = [64, 128, 192, 256, 384, 512, 768];
/// Words that have vectors: the commonest.
const VECTORS: i64 = 20_000;
/// Inverse strength of the regularisation of word sequences.
const STRENGTH: f64 = 0.03;
/// The last tenth of the training reviews of each label, by number, is held out. Neighbours are reviews of one movie, so
/// hardly any movie is on both sides.
const HELD_OUT: usize = 10;

/// What to train and where.
#[derive(Debug)]
pub struct Job<'a> {
    /// Which classifier.
    pub kind: Kind,
    /// How its network is trained.
    pub config: &'a Config,
    /// The reviews.
    pub imdb: &'a Imdb,
    /// Directory of the word vectors.
    pub glove: &'a Path,
    /// Directory for checkpoints.
    pub run: &'a Path,
    /// What to do about checkpoints that are there.
    pub start: Start,
    /// Where to compute.
    pub device: Device,
    /// The model directory to write.
    pub out: &'a Path,
    /// The command that does it.
    pub command: &'a str,
}

/// How the parts are added up: `weights` times the logits of word sequences and of the network, and `bias`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Blend {
    weights: [f64; 2],
    bias: f64,
}

impl Blend {
    fn logit(&self, logits: [f64; 2]) -> f64 {
        self.bias + self.weights[0] * logits[0] + self.weights[1] * logits[1]
    }
}

/// A trained classifier and what is known about it.
#[derive(Debug)]
struct Trained<'a> {
    job: &'a Job<'a>,
    tokenizer: Tokenizer,
    table: Option<Table>,
    network: Option<Network>,
    blend: Blend,
    /// Reviews that were learned from and held out.
    split: (usize, usize),
    /// Accuracy on the reviews held out: of word sequences, of the network, of both.
    held_out: [Option<f64>; 3],
    /// Accuracy on the reviews held out where they are cut in other ways: what is kept, tokens, accuracy.
    cuts: Vec<(Truncation, usize, f64)>,
    /// Words with a vector of GloVe's.
    glove_words: usize,
    vocabulary: usize,
    history: Vec<Epoch>,
    best: u32,
}

/// Reviews as token ids, with their labels.
#[derive(Debug, Default)]
struct Encoded {
    rows: Vec<Vec<i64>>,
    positive: Vec<bool>,
}

impl Encoded {
    fn new(tokenizer: &Tokenizer, reviews: &[&Review]) -> Result<Self> {
        let encode = |review: &&Review| {
            let encoded = tokenizer
                .encode(&review.text)
                .with_context(|| review.name.clone());
            encoded.map(|encoded| encoded.ids)
        };
        Ok(Self {
            rows: reviews.par_iter().map(encode).collect::<Result<_>>()?,
            positive: reviews.iter().map(|review| review.label == 1).collect(),
        })
    }

    fn views(&self) -> Vec<&[i64]> {
        self.rows.iter().map(Vec::as_slice).collect()
    }

    fn accuracy(&self, logits: impl Iterator<Item = f64>) -> f64 {
        let right = logits
            .zip(&self.positive)
            .filter(|(logit, positive)| (*logit > 0.0) == **positive);
        right.count() as f64 / self.rows.len().max(1) as f64
    }
}

/// Reviews and network before anything is trained.
struct Prepared<'a> {
    training: Vec<&'a Review>,
    held_out: Vec<&'a Review>,
    vocabulary: HashMap<String, i64>,
    /// The reviews to learn from and those held out, as tokens.
    learned: Encoded,
    known: Encoded,
    /// None for a classifier without a network.
    layers: Vec<Layer>,
    /// Words with a vector of GloVe's.
    glove_words: usize,
}

/// `run` is a directory to leave the tokenizer in; of the reviews to learn from, `samples` are used.
fn prepare<'a>(
    kind: Kind,
    config: &Config,
    (imdb, glove): (&'a Imdb, &Path),
    run: &Path,
    samples: Option<usize>,
) -> Result<Prepared<'a>> {
    let reviews = imdb.unseen();
    let (training, held_out) = split(&reviews);
    let training = spread(training, samples);
    if training.is_empty() || held_out.is_empty() {
        bail!(
            "expected training reviews of which a tenth can be held out, found {}",
            reviews.len()
        );
    }
    eprintln!(
        "{} reviews to learn from, {} held out",
        training.len(),
        held_out.len()
    );
    let texts: Vec<&str> = reviews.iter().map(|review| review.text.as_str()).collect();
    let vocabulary = tokens::vocabulary(&texts)?;
    let tokenizer = tokenizer(run, &vocabulary, LENGTH, TRUNCATION)?;
    let (mut layers, mut glove_words) = (Vec::new(), 0);
    if kind.has_network() {
        let count = VECTORS.min(vocabulary.len() as i64);
        let vectors = if kind.has_glove() {
            let found = data::glove::read(glove, &vocabulary)?;
            glove_words = found.keys().filter(|&word| vocabulary[word] < count).count();
            Some(Arc::new(network::vectors(
                &vocabulary,
                &found,
                count,
                config.seed,
            )))
        } else {
            None
        };
        layers = kind.layers(count, vectors);
    }
    Ok(Prepared {
        learned: Encoded::new(&tokenizer, &training)?,
        known: Encoded::new(&tokenizer, &held_out)?,
        training,
        held_out,
        vocabulary,
        layers,
        glove_words,
    })
}

/// The network and the reviews that a search tries settings with; of a blend, the network alone.
pub fn subject(
    kind: Kind,
    config: &Config,
    data: (&Imdb, &Path),
    run: &Path,
    samples: Option<usize>,
) -> Result<Subject> {
    if !kind.has_network() {
        bail!(
            "--network: expected one with something to search for, found {}",
            kind.name()
        );
    }
    let prepared = prepare(kind, config, data, run, samples)?;
    let (learned, known) = (prepared.learned, prepared.known);
    Ok(Subject {
        layers: prepared.layers,
        training: Box::new(Texts::new(learned.rows, &learned.positive, kind.window())),
        validation: Box::new(Texts::by_length(&known.rows, &known.positive)),
    })
}

/// Trains, writes the model directory, measures it. Nothing if `stop` became true first.
pub fn train(job: &Job<'_>, stop: &AtomicBool) -> Result<Option<Evaluation>> {
    let Prepared {
        training,
        held_out,
        vocabulary,
        learned,
        known,
        layers,
        glove_words,
    } = prepare(job.kind, job.config, (job.imdb, job.glove), job.run, None)?;
    let mut trained_network = None;
    if job.kind.has_network() {
        let task = Task {
            layers: &layers,
            config: job.config,
            training: &Texts::new(learned.rows.clone(), &learned.positive, job.kind.window()),
            validation: &Texts::by_length(&known.rows, &known.positive),
            device: job.device,
        };
        match training::train(&task, job.run, job.start, stop)? {
            Outcome::Interrupted => return Ok(None),
            Outcome::Finished {
                network,
                best,
                history,
            } => trained_network = Some((network, best, history)),
        }
    }
    let network = trained_network
        .as_ref()
        .map(|(network, ..)| export::rounded(network, &layers))
        .transpose()?;

    let mut table = job
        .kind
        .has_ngrams()
        .then(|| ngrams::fit(&learned.views(), &learned.positive, STRENGTH, job.config.seed));
    let logits = logits(table.as_ref(), network.as_ref(), &known.rows)?;
    let blend = blend(job.kind, &logits, &known.positive);
    let measured = |part: Blend| known.accuracy(logits.iter().map(|&logits| part.logit(logits)));
    let only = |at: usize| {
        let mut weights = [0.0; 2];
        weights[at] = 1.0;
        measured(Blend { weights, bias: 0.0 })
    };
    let accuracies = [
        table.is_some().then(|| only(0)),
        network.is_some().then(|| only(1)),
        Some(measured(blend)),
    ];
    eprintln!(
        "held out: word sequences {:?}, network {:?}, both {:?}",
        accuracies[0], accuracies[1], accuracies[2]
    );
    let mut cuts = Vec::new();
    if job.kind == Kind::Blend {
        for length in [256, 512, LENGTH] {
            for truncation in [Truncation::Head, Truncation::Tail, Truncation::HeadTail] {
                let other = self::tokenizer(job.run, &vocabulary, length, truncation)?;
                let rows = Encoded::new(&other, &held_out)?.rows;
                let logits = self::logits(table.as_ref(), network.as_ref(), &rows)?;
                let accuracy = known.accuracy(logits.iter().map(|&logits| blend.logit(logits)));
                eprintln!("held out, {truncation:?} of {length} tokens: {accuracy:.4}");
                cuts.push((truncation, length, accuracy));
            }
        }
    }
    if table.is_some() {
        // All is decided; the weights of word sequences are found once more, from the reviews held out as well.
        let mut rows = learned.views();
        rows.extend(known.views());
        let positive = [learned.positive.as_slice(), &known.positive].concat();
        table = Some(ngrams::fit(&rows, &positive, STRENGTH, job.config.seed));
    }
    let (best, history) = match trained_network {
        Some((_, best, history)) => (best, history),
        None => (0, Vec::new()),
    };
    let trained = Trained {
        job,
        tokenizer: self::tokenizer(job.run, &vocabulary, LENGTH, TRUNCATION)?,
        table,
        network,
        blend,
        split: (training.len(), held_out.len()),
        held_out: accuracies,
        cuts,
        glove_words,
        vocabulary: vocabulary.len(),
        history,
        best,
    };
    export::export(&trained, &vocabulary).map(Some)
}

/// What is learned from, and what is held out.
fn split<'a>(reviews: &[&'a Review]) -> (Vec<&'a Review>, Vec<&'a Review>) {
    let (mut training, mut held_out) = (Vec::new(), Vec::new());
    for label in 0..2 {
        let own: Vec<&Review> = reviews
            .iter()
            .copied()
            .filter(|review| review.label == label)
            .collect();
        let (first, last) = own.split_at(own.len() - own.len() / HELD_OUT);
        training.extend(first);
        held_out.extend(last);
    }
    (training, held_out)
}

/// The tokenizer that a server would read.
fn tokenizer(
    run: &Path,
    vocabulary: &HashMap<String, i64>,
    length: usize,
    cut: Truncation,
) -> Result<Tokenizer> {
    fs::create_dir_all(run).with_context(|| format!("cannot create {}", run.display()))?;
    tokens::write(run, vocabulary, length)?;
    let serving = TextServing {
        truncation: Some(cut),
        buckets: None,
    };
    Ok(Tokenizer::read(run, &serving)?)
}

/// For each review, the logits of word sequences and of the network; 0 for a part that is not there.
fn logits(table: Option<&Table>, network: Option<&Network>, rows: &[Vec<i64>]) -> Result<Vec<[f64; 2]>> {
    let sequences = match table {
        Some(table) => rows.par_iter().map(|row| f64::from(table.logit(row))).collect(),
        None => vec![0.0; rows.len()],
    };
    let network = match network {
        Some(network) => network::logits(network, rows)?,
        None => vec![0.0; rows.len()],
    };
    Ok(sequences
        .into_iter()
        .zip(network)
        .map(|(one, other)| [one, other])
        .collect())
}

/// Finds the blend by logistic regression on the reviews held out.
fn blend(kind: Kind, logits: &[[f64; 2]], positive: &[bool]) -> Blend {
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
    let mut blend = Blend {
        bias: found[columns - 1],
        ..Blend::default()
    };
    let mut found = found.into_iter();
    for (weight, used) in blend.weights.iter_mut().zip(used) {
        if used {
            *weight = found.next().unwrap_or_default();
        }
    }
    blend
}

/// Weights of a logistic regression with few features, by Newton's method. A slight penalty keeps them finite where the
/// classes can be told apart without a mistake.
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
    fn the_last_tenth_of_each_label_is_held_out() {
        let reviews: Vec<Review> = (0..40)
            .map(|at| Review {
                text: at.to_string(),
                label: at / 20,
                number: (at % 20) as u32,
                name: String::new(),
            })
            .collect();
        let reviews: Vec<&Review> = reviews.iter().collect();
        let (training, held_out) = split(&reviews);
        assert_eq!((training.len(), held_out.len()), (36, 4));
        let numbers: Vec<u32> = held_out.iter().map(|review| review.number).collect();
        assert_eq!(numbers, [18, 19, 18, 19]);
    }

    #[test]
    fn a_blend_trusts_the_part_that_is_right_more_often() {
        // The first part is right in 9 of 10 cases, the second in 6 of 10.
        let mut logits = Vec::new();
        let mut positive = Vec::new();
        for at in 0..200 {
            let truth = at % 2 == 0;
            let sign = |right: bool| if right == truth { 1.0 } else { -1.0 };
            logits.push([sign(at / 2 % 10 != 0), 3.0 * sign(at / 2 % 10 < 6)]);
            positive.push(truth);
        }
        let found = blend(Kind::Blend, &logits, &positive);
        assert!(found.weights[0] > 3.0 * found.weights[1], "{found:?}");
        assert!(found.weights[0].is_finite() && found.bias.abs() < 0.1);
        let alone = blend(Kind::Ngrams, &logits, &positive);
        // Chances of 9 to 1.
        assert!((alone.weights[0] - 9f64.ln()).abs() < 0.05, "{alone:?}");
        assert_eq!(alone.weights[1], 0.0);
    }
}
