//! The layer that reads texts: vectors of words, a convolution over neighbours, pooling.

use std::{fmt, sync::Arc};

use anyhow::{Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use tch::{Kind, Tensor};

use super::{Weights, constant, he_normal, values};
use onnx_graph::{Attribute, GraphBuilder};

/// The word that stands for padding.
pub const PADDING: i64 = 0;
/// The word that stands for unknown ones.
pub const UNKNOWN: i64 = 1;
/// Words a kernel covers.
const KERNEL: i64 = 3;
/// Deviation of vectors that training begins with at random.
const DEVIATION: f32 = 0.1;
/// ONNX's code for 32-bit floats.
const FLOAT: i64 = 1;

/// Rows of word ids, `[batch, words]`, to rows of features. Ids of [`PADDING`] are no words.
#[derive(Clone, PartialEq)]
pub struct Words {
    /// How many words have vectors; any other id is read as [`UNKNOWN`].
    pub vocabulary: i64,
    /// Numbers of a vector.
    pub dimensions: i64,
    /// Kernels of three words, of whose outputs the largest and the mean are kept. 0: the mean of the vectors instead.
    pub filters: i64,
    /// Whether vectors are trained.
    pub trained: bool,
    /// In training, sets each number of a vector to 0 with this probability, and makes up for it.
    pub dropout: f64,
    /// Vectors to begin with, row by row. Otherwise they are drawn.
    pub vectors: Option<Arc<Vec<f32>>>,
}

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
    /// Features that come out.
    pub fn outputs(&self) -> i64 {
        if self.filters == 0 {
            self.dimensions
        } else {
            2 * self.filters
        }
    }

    /// Name of the vectors among the weights; see `is_trainable`.
    pub(super) fn table(&self) -> &'static str {
        if self.trained { "embedding" } else { "vectors" }
    }

    pub(super) fn initialise(&self, path: &str, rng: &mut ChaCha8Rng, weights: &mut Weights) -> Result<()> {
        let count = (self.vocabulary * self.dimensions) as usize;
        let vectors = match &self.vectors {
            Some(vectors) if vectors.len() == count => Tensor::from_slice(vectors),
            Some(vectors) => bail!(
                "expected {count} numbers for the words' vectors, found {}",
                vectors.len()
            ),
            None => {
                let mut draw = || -> f32 { StandardNormal.sample(rng) };
                let values: Vec<f32> = (0..count).map(|_| draw() * DEVIATION).collect();
                Tensor::from_slice(&values)
            }
        };
        let vectors = vectors.view([self.vocabulary, self.dimensions]);
        weights.insert(format!("{path}.{}", self.table()), vectors);
        if self.filters > 0 {
            let shape = [self.filters, self.dimensions, KERNEL];
            let kernels = he_normal(&shape, self.dimensions * KERNEL, rng);
            weights.insert(format!("{path}.weight"), kernels);
            weights.insert(
                format!("{path}.bias"),
                Tensor::zeros([self.filters], tch::kind::FLOAT_CPU),
            );
        }
        Ok(())
    }

    pub(super) fn forward<'a>(
        &self,
        ids: &Tensor,
        weight: impl Fn(&str) -> &'a Tensor,
        training: bool,
    ) -> Tensor {
        let mask = ids.not_equal(PADDING).to_kind(Kind::Float).unsqueeze(1);
        let known = ids.where_self(&ids.less(self.vocabulary), &ids.full_like(UNKNOWN));
        let vectors = Tensor::embedding(weight(self.table()), &known, -1, false, false);
        let vectors = vectors.dropout(self.dropout, training).transpose(1, 2) * &mask;
        let count = mask
            .sum_dim_intlist([2i64].as_slice(), false, Kind::Float)
            .clamp_min(1.0);
        if self.filters == 0 {
            return vectors.sum_dim_intlist([2i64].as_slice(), false, Kind::Float) / count;
        }
        let found = vectors
            .conv1d(weight("weight"), Some(weight("bias")), 1, KERNEL / 2, 1, 1)
            .relu()
            * &mask;
        let largest = found.amax([2i64].as_slice(), false);
        let mean = found.sum_dim_intlist([2i64].as_slice(), false, Kind::Float) / count;
        Tensor::cat(&[largest, mean], 1)
    }

    /// Adds the layer to a graph with the inputs `ids` and `mask`. Vectors are stored as bytes, with a factor for each word.
    pub fn export(
        &self,
        graph: &mut GraphBuilder,
        weights: &Weights,
        path: &str,
        ids: &str,
        mask: &str,
    ) -> Result<String> {
        let weight = |name: &str| &weights[&format!("{path}.{name}")];
        let table = weight(self.table());
        let (bytes, factors) = quantised(table)?;
        let shape = [self.vocabulary as usize, self.dimensions as usize];
        let bytes = graph.bytes("word_vectors", &shape, &bytes);
        let factors = graph.floats("word_factors", &[shape[0], 1], &factors);
        let limit = graph.ints("words_with_vectors", &[], &[self.vocabulary]);
        let unknown = graph.ints("unknown_word", &[], &[UNKNOWN]);
        let cast = |kind: i64| vec![Attribute::int("to", kind)];

        let has_vector = graph.node("Less", &[ids, &limit], "has_vector", vec![]);
        let known = graph.node("Where", &[&has_vector, ids, &unknown], "known_ids", vec![]);
        let found = graph.node("Gather", &[&bytes, &known], "vector_bytes", vec![]);
        let found = graph.node("Cast", &[&found], "vector_numbers", cast(FLOAT));
        let factors = graph.node("Gather", &[&factors, &known], "vector_factors", vec![]);
        // One factor for what is padding: 0.
        let axis = graph.ints("last_axis", &[1], &[2]);
        let real = graph.node("Cast", &[mask], "mask_numbers", cast(FLOAT));
        let column = graph.node("Unsqueeze", &[&real, &axis], "mask_column", vec![]);
        let factors = graph.node("Mul", &[&factors, &column], "masked_factors", vec![]);
        let vectors = graph.node("Mul", &[&found, &factors], "vectors", vec![]);
        let across = vec![Attribute::ints("perm", &[0, 2, 1])];
        let vectors = graph.node("Transpose", &[&vectors], "vectors_by_dimension", across);

        let one = graph.floats("one_word", &[], &[1.0]);
        let along = graph.ints("words_axis", &[1], &[1]);
        let length = graph.node("ReduceSum", &[&real, &along], "words", vec![]);
        let length = graph.node("Max", &[&length, &one], "words_or_one", vec![]);
        let settings = || vec![Attribute::int("keepdims", 0)];
        if self.filters == 0 {
            let sum = graph.node("ReduceSum", &[&vectors, &axis], "vector_sum", settings());
            return Ok(graph.node("Div", &[&sum, &length], "vector_mean", vec![]));
        }
        let kernels = constant(graph, &format!("{path}.weight"), weight("weight"))?;
        let bias = constant(graph, &format!("{path}.bias"), weight("bias"))?;
        let convolution = vec![
            Attribute::ints("kernel_shape", &[KERNEL]),
            Attribute::ints("pads", &[KERNEL / 2; 2]),
        ];
        let sums = graph.node("Conv", &[&vectors, &kernels, &bias], "phrases", convolution);
        let found = graph.node("Relu", &[&sums], "phrases_found", vec![]);
        let row = graph.node("Unsqueeze", &[&real, &along], "mask_row", vec![]);
        let found = graph.node("Mul", &[&found, &row], "phrases_masked", vec![]);
        let maximum = vec![Attribute::ints("axes", &[2]), Attribute::int("keepdims", 0)];
        let largest = graph.node("ReduceMax", &[&found], "largest", maximum);
        let sum = graph.node("ReduceSum", &[&found, &axis], "phrase_sum", settings());
        let mean = graph.node("Div", &[&sum, &length], "phrase_mean", vec![]);
        Ok(graph.node(
            "Concat",
            &[&largest, &mean],
            "pooled",
            vec![Attribute::int("axis", 1)],
        ))
    }
}

/// Each row as bytes and a factor.
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

/// The vectors as the exported graph sees them.
pub fn rounded(table: &Tensor) -> Result<Tensor> {
    let (bytes, factors) = quantised(table)?;
    let columns = bytes.len() / factors.len().max(1);
    let rows = bytes.chunks(columns.max(1)).zip(&factors);
    let values: Vec<f32> = rows
        .flat_map(|(row, factor)| row.iter().map(move |&byte| f32::from(byte) * factor))
        .collect();
    Ok(Tensor::from_slice(&values).view(table.size().as_slice()))
}
