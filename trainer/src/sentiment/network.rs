//! The parts of a classifier of reviews, and its network.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use rand_distr::{Distribution as _, StandardNormal};
use tch::{Device, Tensor};

use super::source::padded;
use crate::{
    data::glove::DIMENSIONS,
    layers,
    network::{Activation, Dense, Dropout, Layer, Mode, Network, Words, copies, values, words},
    optimizer::Rule,
    training::{Config, Schedule},
};

/// The number of kernels of the convolution.
const FILTERS: i64 = 128;
/// The probability with which training drops a number of a vector.
const VECTOR_DROPOUT: f64 = 0.2;
/// The number of tokens of a review that a training step sees.
const WINDOW: usize = 256;
/// The number of reviews in a pass without training.
const LOOKED_AT: usize = 64;
/// The number of units between the mean of the vectors and the labels.
const HIDDEN: i64 = 32;

/// A classifier of reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Word sequences and the convolution over GloVe vectors. This one is served.
    Blend,
    /// Word sequences and the convolution, whose vectors start at random.
    BlendRandom,
    /// Word sequences alone.
    Ngrams,
    /// The convolution alone.
    Cnn,
    /// The convolution alone, whose vectors start at random.
    CnnRandom,
    /// The mean of fixed GloVe vectors and a hidden layer, the network of many introductions.
    Mean,
}

impl Kind {
    /// The first one is served.
    pub const ALL: [Self; 6] = [
        Self::Blend,
        Self::BlendRandom,
        Self::Ngrams,
        Self::Cnn,
        Self::CnnRandom,
        Self::Mean,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blend => "blend",
            Self::BlendRandom => "blend-random",
            Self::Ngrams => "ngrams",
            Self::Cnn => "cnn",
            Self::CnnRandom => "cnn-random",
            Self::Mean => "mean",
        }
    }

    /// Finds a classifier by name; `None` stands for the one that is served.
    pub fn find(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else {
            return Ok(Self::Blend);
        };
        match Self::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(kind),
            None => bail!(
                "--network: expected one of {}, found {name}",
                Self::ALL.map(Self::name).join(", ")
            ),
        }
    }

    /// The model directory to write unless an option names another one.
    pub fn out(self) -> PathBuf {
        match self {
            Self::Blend => "models/sentiment/1".into(),
            _ => format!("runs/sentiment-{}/sentiment/1", self.name()).into(),
        }
    }

    /// The directory for checkpoints unless an option names another one.
    pub fn run(self) -> PathBuf {
        format!("runs/sentiment-{}", self.name()).into()
    }

    /// A description for the model card.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Blend => "word sequences and a convolution over GloVe vectors",
            Self::BlendRandom => "the same without GloVe: the vectors start at random and are trained",
            Self::Ngrams => "word sequences alone",
            Self::Cnn => "the convolution over GloVe vectors alone",
            Self::CnnRandom => "the convolution alone, without GloVe",
            Self::Mean => {
                "the network of many introductions: fixed GloVe vectors, their mean, a hidden layer of 32"
            }
        }
    }

    pub(super) fn has_ngrams(self) -> bool {
        matches!(self, Self::Blend | Self::BlendRandom | Self::Ngrams)
    }

    pub(super) fn has_network(self) -> bool {
        self != Self::Ngrams
    }

    pub(super) fn has_glove(self) -> bool {
        matches!(self, Self::Blend | Self::Cnn | Self::Mean)
    }

    pub(super) fn window(self) -> usize {
        if self == Self::Mean { usize::MAX } else { WINDOW }
    }

    /// The settings unless options say otherwise. Classifiers that share a network share its name,
    /// so that one can resume the other's run.
    pub fn config(self) -> Config {
        let network = match self {
            Self::Blend | Self::Cnn => "cnn",
            Self::BlendRandom | Self::CnnRandom => "cnn-random",
            Self::Ngrams => "none",
            Self::Mean => "mean",
        };
        let config = Config {
            network: network.to_owned(),
            epochs: 4,
            batch_size: 64,
            learning_rate: 2e-3,
            schedule: Schedule::Cosine,
            optimizer: Rule::Adamw,
            weight_decay: 0.01,
            dropout: 0.5,
            clip: 1.0,
            augment: true,
            ..Config::default()
        };
        match self {
            Self::Mean => Config {
                epochs: 10,
                weight_decay: 0.0,
                dropout: 0.0,
                clip: 0.0,
                augment: false,
                ..config
            },
            _ => config,
        }
    }

    /// The network, for so many words with vectors.
    pub(super) fn layers(self, vocabulary: i64, vectors: Option<Arc<Vec<f32>>>) -> Vec<Layer> {
        let mean = self == Self::Mean;
        let words = Words {
            vocabulary,
            dimensions: DIMENSIONS as i64,
            filters: if mean { 0 } else { FILTERS },
            trained: !mean,
            dropout: if mean { 0.0 } else { VECTOR_DROPOUT },
            vectors,
        };
        let inputs = words.outputs();
        if mean {
            return layers![
                words,
                Dense::new(inputs, HIDDEN).activation(Activation::Relu),
                Dense::new(HIDDEN, 2),
            ];
        }
        layers![words, Dropout, Dense::new(inputs, 2)]
    }
}

/// Returns the network with its vectors rounded as the exported graph has them.
pub(super) fn rounded(network: &Network, layers: &[Layer]) -> Result<Network> {
    let mut weights = copies(network.weights());
    for name in ["0.embedding", "0.vectors"] {
        if let Some(table) = weights.get_mut(name) {
            *table = words::rounded(table)?;
        }
    }
    let mut rounded = Network::new(layers, 0, Device::Cpu)?;
    rounded.load(&weights)?;
    Ok(rounded.frozen())
}

/// The vectors of the first `count` words; those that GloVe lacks are drawn. Padding is 0.
pub(super) fn vectors(
    vocabulary: &HashMap<String, i64>,
    glove: &HashMap<String, Vec<f32>>,
    count: i64,
    seed: u64,
) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows: Vec<f32> = (0..count as usize * DIMENSIONS)
        .map(|_| {
            let value: f32 = StandardNormal.sample(&mut rng);
            value * 0.1
        })
        .collect();
    rows[..DIMENSIONS.min(count as usize * DIMENSIONS)].fill(0.0);
    for (word, vector) in glove {
        if let Some(&id) = vocabulary.get(word).filter(|&&id| id < count) {
            rows[id as usize * DIMENSIONS..][..DIMENSIONS].copy_from_slice(vector);
        }
    }
    rows
}

/// For each review, how much higher the logit of `positive` is.
pub(super) fn logits(network: &Network, rows: &[Vec<i64>]) -> Result<Vec<f64>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&at| rows[at].len());
    let mut found = vec![0.0; rows.len()];
    for places in order.chunks(LOOKED_AT) {
        let batch: Vec<&[i64]> = places.iter().map(|&at| rows[at].as_slice()).collect();
        let inputs = padded(&batch).to_device(network.device());
        let outputs: Tensor = tch::no_grad(|| network.forward(&inputs, Mode::Inference));
        for (&at, pair) in places.iter().zip(values(&outputs)?.chunks(2)) {
            found[at] = f64::from(pair[1] - pair[0]);
        }
    }
    Ok(found)
}
