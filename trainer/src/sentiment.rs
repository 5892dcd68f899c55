//! The classifier of reviews: weighted word sequences and a convolution over GloVe vectors,
//! blended. This is the pipeline's task for `train sentiment`.
//!
//! 1. The vocabulary is counted.
//! 2. The network is trained by the loop that trains all networks ([`crate::training`]).
//! 3. A convex solver ([`ngrams`]) finds the weights of the word sequences.
//! 4. The reviews that were held out decide how the two logits are added up.

mod blend;
mod card;
mod model;
mod network;
pub mod ngrams;
mod source;
mod table_graph;
pub mod tokens;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use classifier::text::{TextServing, Tokenizer, Truncation};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::{
    data::{
        self, FetchTarget,
        imdb::{Imdb, Review},
    },
    export::TrainedModel,
    files::create,
    network::{Layer, Network},
    pipeline::{Opening, Prepared, Request, Subject, Task, TrainedNetwork},
    search::spread,
    training::Config,
};
use blend::Blend;
use model::ReviewModel;
pub use network::Kind;
use ngrams::Table;
use source::Texts;

/// The largest number of tokens of a review that are read; four of a hundred reviews have more.
pub const LENGTH: usize = 768;
/// Which part of a longer review is read.
pub const TRUNCATION: Truncation = Truncation::HeadTail;
/// The lengths that the reviews of a batch are padded to.
const BUCKETS: [u32; 7] = [64, 128, 192, 256, 384, 512, 768];
/// The number of words that have vectors: the most frequent ones.
const VECTORS: i64 = 20_000;
/// The inverse strength of the regularisation of word sequences.
const STRENGTH: f64 = 0.03;
/// The last tenth of the training reviews of each label, by number, is held out. Neighbouring
/// numbers are reviews of one movie, so hardly any movie is in both parts.
const HELD_OUT: usize = 10;

/// A classifier of reviews, and the data to train it on.
#[derive(Debug)]
pub struct SentimentTask {
    kind: Kind,
    /// The directory with the reviews.
    data: PathBuf,
    /// The directory with the word vectors.
    glove: PathBuf,
}

impl SentimentTask {
    /// `network` is the served one if it is `None`; the data is in the cache where a directory is
    /// `None`.
    pub fn new(network: Option<&str>, data: Option<PathBuf>, glove: Option<PathBuf>) -> Result<Self> {
        let directory = |given: Option<PathBuf>, set: FetchTarget| given.map_or_else(|| set.directory(), Ok);
        Ok(Self {
            kind: Kind::find(network)?,
            data: directory(data, FetchTarget::Imdb)?,
            glove: directory(glove, FetchTarget::Glove)?,
        })
    }
}

impl Task for SentimentTask {
    fn name(&self) -> &'static str {
        "sentiment"
    }

    fn defaults(&self) -> Config {
        self.kind.config()
    }

    fn default_run(&self) -> Result<PathBuf> {
        Ok(self.kind.run())
    }

    fn default_out(&self, _run: &Path) -> Result<PathBuf> {
        Ok(self.kind.out())
    }

    fn seed_selects_samples(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, opening: &Opening<'_>) -> Result<Box<dyn Prepared + 'a>> {
        let imdb = Imdb::open(&self.data)?;
        let reviews = imdb.unseen();
        let (training, held_out) = split(&reviews);
        let training = spread(training, opening.samples);
        if training.is_empty() || held_out.is_empty() {
            bail!(
                "expected training reviews of which a tenth can be held out, found {}",
                reviews.len()
            );
        }
        eprintln!(
            "{} reviews to train on, {} held out",
            training.len(),
            held_out.len()
        );
        let texts: Vec<&str> = reviews.iter().map(|review| review.text.as_str()).collect();
        let vocabulary = tokens::vocabulary(&texts)?;
        let tokenizer = tokenizer(opening.run, &vocabulary, LENGTH, TRUNCATION)?;
        let learned = Encoded::new(&tokenizer, &training)?;
        let known = Encoded::new(&tokenizer, &held_out)?;
        let network = if self.kind.has_network() {
            Some(self.network(&vocabulary, &learned, &known, opening.config.seed)?)
        } else {
            None
        };
        Ok(Box::new(PreparedReviews {
            task: self,
            vocabulary,
            learned,
            known,
            network,
            imdb,
        }))
    }
}

impl SentimentTask {
    fn network(
        &self,
        vocabulary: &HashMap<String, i64>,
        learned: &Encoded,
        known: &Encoded,
        seed: u64,
    ) -> Result<PreparedNetwork> {
        let count = VECTORS.min(vocabulary.len() as i64);
        let mut glove_words = 0;
        let vectors = if self.kind.has_glove() {
            let found = data::glove::read(&self.glove, vocabulary)?;
            glove_words = found.keys().filter(|&word| vocabulary[word] < count).count();
            Some(Arc::new(network::vectors(vocabulary, &found, count, seed)))
        } else {
            None
        };
        Ok(PreparedNetwork {
            layers: self.kind.layers(count, vectors),
            training: Texts::new(learned.rows.clone(), &learned.positive, self.kind.window()),
            validation: Texts::by_length(&known.rows, &known.positive),
            glove_words,
        })
    }
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

/// The network before it is trained.
struct PreparedNetwork {
    layers: Vec<Layer>,
    training: Texts,
    validation: Texts,
    /// The number of words with a vector from GloVe.
    glove_words: usize,
}

/// Reviews and network before anything is trained.
struct PreparedReviews<'a> {
    task: &'a SentimentTask,
    imdb: Imdb,
    vocabulary: HashMap<String, i64>,
    /// The reviews to train on.
    learned: Encoded,
    /// The reviews held out.
    known: Encoded,
    network: Option<PreparedNetwork>,
}

impl Prepared for PreparedReviews<'_> {
    fn subject(&self) -> Option<Subject<'_>> {
        let network = self.network.as_ref()?;
        Some(Subject {
            layers: &network.layers,
            training: &network.training,
            validation: &network.validation,
        })
    }

    fn identity(&self) -> Result<Value> {
        Ok(json!(self.imdb.title()))
    }

    fn finish<'a>(
        &'a self,
        trained: Option<TrainedNetwork>,
        request: &'a Request,
    ) -> Result<Box<dyn TrainedModel + 'a>> {
        let network = match (&trained, &self.network) {
            (Some(trained), Some(prepared)) => Some(network::rounded(&trained.network, &prepared.layers)?),
            _ => None,
        };
        let table = self.task.kind.has_ngrams().then(|| {
            let (rows, positive) = (self.learned.views(), &self.learned.positive);
            ngrams::fit(&rows, positive, STRENGTH, request.config.seed)
        });
        let mut parts = Parts {
            table,
            network,
            blend: Blend::default(),
        };
        let logits = parts.logits(&self.known.rows)?;
        parts.blend = Blend::fit(self.task.kind, &logits, &self.known.positive);
        let held_out = self.held_out_accuracies(&parts, &logits);
        let cuts = if self.task.kind == Kind::Blend {
            self.cuts(&parts, &request.run)?
        } else {
            Vec::new()
        };
        if parts.table.is_some() {
            // Everything is decided, so the reviews held out can be learned from as well.
            let mut rows = self.learned.views();
            rows.extend(self.known.views());
            let positive = [self.learned.positive.as_slice(), &self.known.positive].concat();
            parts.table = Some(ngrams::fit(&rows, &positive, STRENGTH, request.config.seed));
        }
        let tokenizer = tokenizer(&request.run, &self.vocabulary, LENGTH, TRUNCATION)?;
        let reviews: Vec<&Review> = self.imdb.test.iter().collect();
        Ok(Box::new(ReviewModel {
            prepared: self,
            request,
            parts,
            held_out,
            cuts,
            test_rows: Encoded::new(&tokenizer, &reviews)?.rows,
            trained,
        }))
    }
}

/// The accuracy on the reviews held out, for one way to cut reviews.
#[derive(Debug, Clone, Copy)]
struct Cut {
    truncation: Truncation,
    length: usize,
    accuracy: f64,
}

impl PreparedReviews<'_> {
    /// The accuracy on the reviews held out: of the word sequences, of the network, of both.
    fn held_out_accuracies(&self, parts: &Parts, logits: &[[f64; 2]]) -> [Option<f64>; 3] {
        let measured = |blend: Blend| {
            let blended = logits.iter().map(|&logits| blend.logit(logits));
            self.known.accuracy(blended)
        };
        let accuracies = [
            parts.table.is_some().then(|| measured(Blend::of_part(0))),
            parts.network.is_some().then(|| measured(Blend::of_part(1))),
            Some(measured(parts.blend)),
        ];
        eprintln!(
            "held out: word sequences {:?}, network {:?}, both {:?}",
            accuracies[0], accuracies[1], accuracies[2]
        );
        accuracies
    }

    fn cuts(&self, parts: &Parts, run: &Path) -> Result<Vec<Cut>> {
        let reviews = self.imdb.unseen();
        let (_, held_out) = split(&reviews);
        let mut cuts = Vec::new();
        for length in [256, 512, LENGTH] {
            for truncation in [Truncation::Head, Truncation::Tail, Truncation::HeadTail] {
                let other = tokenizer(run, &self.vocabulary, length, truncation)?;
                let rows = Encoded::new(&other, &held_out)?.rows;
                let logits = parts.logits(&rows)?;
                let blended = logits.iter().map(|&logits| parts.blend.logit(logits));
                let accuracy = self.known.accuracy(blended);
                eprintln!("held out, {truncation:?} of {length} tokens: {accuracy:.4}");
                cuts.push(Cut {
                    truncation,
                    length,
                    accuracy,
                });
            }
        }
        Ok(cuts)
    }
}

/// The trained parts of a classifier of reviews.
struct Parts {
    table: Option<Table>,
    network: Option<Network>,
    blend: Blend,
}

impl Parts {
    /// For each review, the logits of the word sequences and of the network; 0 for a part that does
    /// not exist.
    fn logits(&self, rows: &[Vec<i64>]) -> Result<Vec<[f64; 2]>> {
        let sequences = match &self.table {
            Some(table) => rows.par_iter().map(|row| f64::from(table.logit(row))).collect(),
            None => vec![0.0; rows.len()],
        };
        let network = match &self.network {
            Some(network) => network::logits(network, rows)?,
            None => vec![0.0; rows.len()],
        };
        Ok(sequences
            .into_iter()
            .zip(network)
            .map(|(sequences, network)| [sequences, network])
            .collect())
    }
}

/// Splits reviews into those to train on and those to hold out.
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

/// The tokenizer that a server reads.
fn tokenizer(
    run: &Path,
    vocabulary: &HashMap<String, i64>,
    length: usize,
    truncation: Truncation,
) -> Result<Tokenizer> {
    create(run)?;
    tokens::write(run, vocabulary, length)?;
    let serving = TextServing {
        truncation: Some(truncation),
        buckets: None,
    };
    Ok(Tokenizer::read(run, &serving)?)
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
}
