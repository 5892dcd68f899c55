//! The layer that reads texts.

use std::{fmt, sync::Arc};

use anyhow::{Context as _, Result, bail};
use onnx_graph::Attribute;
use rand_distr::{Distribution as _, StandardNormal};
use tch::{Kind, Tensor};

use super::{Export, Init, Module, Pass, full, values};

/// The token id of padding.
pub const PADDING: i64 = 0;
/// The token id that every word outside the vocabulary gets.
pub const UNKNOWN: i64 = 1;
/// The number of words that a kernel covers.
const KERNEL: i64 = 3;
/// The standard deviation of initial vectors that are drawn at random.
const DEVIATION: f32 = 0.1;
/// ONNX's code for 32-bit floats.
const FLOAT: i64 = 1;

/// Looks up word vectors, convolves each with its neighbours and pools over the text: rows of token
/// ids, `[batch, words]`, become rows of features. [`PADDING`] is masked out.
#[derive(Clone, PartialEq)]
pub struct Words {
    /// The number of words with a vector. Every id from here on is read as [`UNKNOWN`].
    pub vocabulary: i64,
    /// The length of a vector.
    pub dimensions: i64,
    /// The number of kernels. The features are the maximum and the mean of each kernel's outputs;
    /// with 0 kernels, they are the mean of the vectors.
    pub filters: i64,
    /// Whether the vectors are trained.
    pub trained: bool,
    /// The probability with which training zeroes a number of a vector, like [`super::Dropout`].
    pub dropout: f64,
    /// The initial vectors, row by row; without them, they are drawn at random.
    pub vectors: Option<Arc<Vec<f32>>>,
}

// The derived implementation would print all vectors.
impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words")
            .field("vocabulary", &self.vocabulary)
            .field("dimensions", &self.dimensions)
            .field("filters", &self.filters)
            .field("trained", &self.trained)
            .finish_non_exhaustive()
    }
}

impl Words {
    /// The number of features.
    pub fn outputs(&self) -> i64 {
        if self.filters == 0 {
            self.dimensions
        } else {
            2 * self.filters
        }
    }

    /// The name of the vectors among the weights. Checkpoints contain it.
    fn table(&self) -> &'static str {
        if self.trained { "embedding" } else { "vectors" }
    }

    fn initial_vectors(&self, init: &mut Init<'_>) -> Result<Tensor> {
        let count = (self.vocabulary * self.dimensions) as usize;
        let vectors = match &self.vectors {
            Some(vectors) if vectors.len() == count => Tensor::from_slice(vectors),
            Some(vectors) => bail!(
                "expected {count} numbers in word vectors, found {}",
                vectors.len()
            ),
            None => {
                let mut draw = || -> f32 { StandardNormal.sample(init.rng()) };
                let values: Vec<f32> = (0..count).map(|_| draw() * DEVIATION).collect();
                Tensor::from_slice(&values)
            }
        };
        Ok(vectors.view([self.vocabulary, self.dimensions]))
    }

    /// Adds the lookup of the vectors. The graph stores them as bytes with a factor for each word,
    /// which takes a quarter of the space.
    fn export_lookup(&self, ids: &str, export: &mut Export<'_>) -> Result<Lookup> {
        let mask = export
            .mask
            .context("a network that reads words needs the name of the attention mask")?;
        let (bytes, factors) = quantised(export.weight(self.table()))?;
        let shape = [self.vocabulary as usize, self.dimensions as usize];
        let graph = &mut *export.graph;
        let bytes = graph.bytes("word_vectors", &shape, &bytes);
        let factors = graph.floats("word_factors", &[shape[0], 1], &factors);
        let limit = graph.ints("words_with_vectors", &[], &[self.vocabulary]);
        let unknown = graph.ints("unknown_word", &[], &[UNKNOWN]);
        let cast = || vec![Attribute::int("to", FLOAT)];

        let has_vector = graph.node("Less", &[ids, &limit], "has_vector", vec![]);
        let known = graph.node("Where", &[&has_vector, ids, &unknown], "known_ids", vec![]);
        let found = graph.node("Gather", &[&bytes, &known], "vector_bytes", vec![]);
        let found = graph.node("Cast", &[&found], "vector_numbers", cast());
        let factors = graph.node("Gather", &[&factors, &known], "vector_factors", vec![]);
        // Padding is masked out by a factor of 0.
        let last_axis = graph.ints("last_axis", &[1], &[2]);
        let mask = graph.node("Cast", &[mask], "mask_numbers", cast());
        let column = graph.node("Unsqueeze", &[&mask, &last_axis], "mask_column", vec![]);
        let factors = graph.node("Mul", &[&factors, &column], "masked_factors", vec![]);
        let vectors = graph.node("Mul", &[&found, &factors], "vectors", vec![]);
        let transposition = vec![Attribute::ints("perm", &[0, 2, 1])];
        let vectors = graph.node("Transpose", &[&vectors], "vectors_by_dimension", transposition);
        Ok(Lookup {
            vectors,
            mask,
            last_axis,
        })
    }
}

/// The names of values in an ONNX graph.
struct Lookup {
    /// The masked vectors, `[batch, dimensions, words]`.
    vectors: String,
    /// The attention mask as floats.
    mask: String,
    /// A constant: the axis of the words in `vectors`.
    last_axis: String,
}

impl Module for Words {
    fn initialise(&self, init: &mut Init<'_>) -> Result<()> {
        let vectors = self.initial_vectors(init)?;
        if self.trained {
            init.trained(self.table(), vectors);
        } else {
            init.fixed(self.table(), vectors);
        }
        if self.filters > 0 {
            let shape = [self.filters, self.dimensions, KERNEL];
            let kernels = init.he_normal(&shape, self.dimensions * KERNEL);
            init.trained("weight", kernels);
            init.trained("bias", full(self.filters, 0.0));
        }
        Ok(())
    }

    fn forward(&self, ids: Tensor, pass: &Pass<'_>) -> Tensor {
        let mask = ids.not_equal(PADDING).to_kind(Kind::Float).unsqueeze(1);
        let known = ids.where_self(&ids.less(self.vocabulary), &ids.full_like(UNKNOWN));
        let vectors = Tensor::embedding(pass.weight(self.table()), &known, -1, false, false);
        let vectors = vectors.dropout(self.dropout, pass.is_training()).transpose(1, 2) * &mask;
        let count = mask
            .sum_dim_intlist([2i64].as_slice(), false, Kind::Float)
            .clamp_min(1.0);
        if self.filters == 0 {
            return vectors.sum_dim_intlist([2i64].as_slice(), false, Kind::Float) / count;
        }
        let (kernels, bias) = (pass.weight("weight"), pass.weight("bias"));
        let found = vectors.conv1d(kernels, Some(bias), 1, KERNEL / 2, 1, 1).relu() * &mask;
        let largest = found.amax([2i64].as_slice(), false);
        let mean = found.sum_dim_intlist([2i64].as_slice(), false, Kind::Float) / count;
        Tensor::cat(&[largest, mean], 1)
    }

    fn export(&self, ids: String, export: &mut Export<'_>) -> Result<String> {
        let Lookup {
            vectors,
            mask,
            last_axis,
        } = self.export_lookup(&ids, export)?;
        let graph = &mut *export.graph;
        let one = graph.floats("one_word", &[], &[1.0]);
        let words_axis = graph.ints("words_axis", &[1], &[1]);
        let length = graph.node("ReduceSum", &[&mask, &words_axis], "words", vec![]);
        let length = graph.node("Max", &[&length, &one], "words_or_one", vec![]);
        let settings = || vec![Attribute::int("keepdims", 0)];
        if self.filters == 0 {
            let sum = graph.node("ReduceSum", &[&vectors, &last_axis], "vector_sum", settings());
            return Ok(graph.node("Div", &[&sum, &length], "vector_mean", vec![]));
        }
        let kernels = export.constant_weight("weight")?;
        let bias = export.constant_weight("bias")?;
        let graph = &mut *export.graph;
        let convolution = vec![
            Attribute::ints("kernel_shape", &[KERNEL]),
            Attribute::ints("pads", &[KERNEL / 2; 2]),
        ];
        let sums = graph.node("Conv", &[&vectors, &kernels, &bias], "phrases", convolution);
        let found = graph.node("Relu", &[&sums], "phrases_found", vec![]);
        let row = graph.node("Unsqueeze", &[&mask, &words_axis], "mask_row", vec![]);
        let found = graph.node("Mul", &[&found, &row], "phrases_masked", vec![]);
        let maximum = vec![Attribute::ints("axes", &[2]), Attribute::int("keepdims", 0)];
        let largest = graph.node("ReduceMax", &[&found], "largest", maximum);
        let sum = graph.node("ReduceSum", &[&found, &last_axis], "phrase_sum", settings());
        let mean = graph.node("Div", &[&sum, &length], "phrase_mean", vec![]);
        let settings = vec![Attribute::int("axis", 1)];
        Ok(graph.node("Concat", &[&largest, &mean], "pooled", settings))
    }

    fn describe(&self) -> Option<String> {
        Some(format!(
            "vectors of {} words, {} numbers each",
            self.vocabulary, self.dimensions
        ))
    }
}

/// Rounds each row to bytes and a factor.
fn quantised(table: &Tensor) -> Result<(Vec<i8>, Vec<f32>)> {
    let columns = table.size().get(1).map_or(1, |&columns| columns.max(1) as usize);
    let (mut bytes, mut factors) = (Vec::new(), Vec::new());
    for row in values(table)?.chunks(columns) {
        let largest = row
            .iter()
            .fold(1e-12_f32, |largest, value| largest.max(value.abs()));
        let factor = largest / f32::from(i8::MAX);
        bytes.extend(row.iter().map(|value| (value / factor).round() as i8));
        factors.push(factor);
    }
    Ok((bytes, factors))
}

/// The vectors as the exported graph computes them from bytes and factors.
pub fn rounded(table: &Tensor) -> Result<Tensor> {
    let (bytes, factors) = quantised(table)?;
    let columns = bytes.len() / factors.len().max(1);
    let rows = bytes.chunks(columns.max(1)).zip(&factors);
    let values: Vec<f32> = rows
        .flat_map(|(row, factor)| row.iter().map(move |&byte| f32::from(byte) * factor))
        .collect();
    Ok(Tensor::from_slice(&values).view(table.size().as_slice()))
}
