//! The kinds of layers, and what they need to initialise, run and export themselves.

mod activation;
mod conv;
mod dense;
mod dropout;
mod flatten;
mod mirror;
mod pool;
mod residual;
mod scale;
mod whiten;
pub mod words;

use std::{collections::BTreeSet, fmt, ops::Deref, sync::Arc};

use anyhow::Result;
use onnx_graph::GraphBuilder;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use rand_distr::{Distribution as _, StandardNormal};
use tch::{Device, Kind, Tensor};

use super::{Mode, Weights, values};

pub use activation::Activation;
pub use conv::Conv;
pub use dense::Dense;
pub use dropout::Dropout;
pub use flatten::Flatten;
pub use mirror::{Mirror, MirrorMean};
pub use pool::{AveragePool, GlobalAverage, MaxPool};
pub use residual::Residual;
pub use scale::Scale;
pub use whiten::Whiten;
pub use words::Words;

/// A kind of layer. A batch of images has the shape `[batch, channels, height, width]`, one of rows
/// of features `[batch, features]`.
pub trait Module: fmt::Debug + Send + Sync {
    /// Draws the initial weights. The order of the draws is part of the result: a run with the same
    /// seed must get the same weights.
    fn initialise(&self, _init: &mut Init<'_>) -> Result<()> {
        Ok(())
    }

    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor;

    /// Adds the layer's operators to a graph, `input` being the name of the layer's input. Returns
    /// the name of the layer's output, which is [`Export::name`] unless the layer adds nothing.
    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String>;

    /// The layer in the model card's description of the network; `None` if it does nothing in
    /// inference.
    fn describe(&self) -> Option<String>;

    /// A copy with another number of outputs, for the kinds of layers that can compute logits.
    fn with_classes(&self, _classes: i64) -> Option<Layer> {
        None
    }

    /// Whether [`Self::fit`] computes weights.
    fn needs_fit(&self) -> bool {
        false
    }

    /// Computes those of the layer's weights that follow from samples instead of being trained, by
    /// name.
    fn fit(&self, _samples: &Tensor) -> Vec<(&'static str, Tensor)> {
        Vec::new()
    }
}

/// A layer of any kind. Cloning is cheap.
#[derive(Clone)]
pub struct Layer(Arc<dyn Module>);

impl<M: Module + 'static> From<M> for Layer {
    fn from(module: M) -> Self {
        Self(Arc::new(module))
    }
}

impl Deref for Layer {
    type Target = dyn Module;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Builds a `Vec<Layer>` from layers of different kinds.
#[macro_export]
macro_rules! layers {
    ($($layer:expr),* $(,)?) => { vec![$($crate::network::Layer::from($layer)),*] };
}

/// Gives the last layer that computes logits `classes` outputs.
pub fn set_classes(layers: &mut [Layer], classes: i64) {
    for layer in layers.iter_mut().rev() {
        if let Some(changed) = layer.with_classes(classes) {
            *layer = changed;
            return;
        }
    }
}

/// The layers as a sentence of the model card.
pub fn describe(layers: &[Layer]) -> String {
    let steps: Vec<String> = layers.iter().filter_map(|layer| layer.describe()).collect();
    steps.join("; ")
}

/// Collects the initial weights of layers.
#[derive(Debug)]
pub struct Init<'a> {
    path: String,
    rng: &'a mut ChaCha8Rng,
    weights: &'a mut Weights,
    fixed: &'a mut BTreeSet<String>,
}

impl Init<'_> {
    /// Returns the initial weights and the names of those that are not trained.
    pub(super) fn run(layers: &[Layer], seed: u64) -> Result<(Weights, BTreeSet<String>)> {
        let (mut weights, mut fixed) = (Weights::new(), BTreeSet::new());
        let mut init = Init {
            path: String::new(),
            rng: &mut ChaCha8Rng::seed_from_u64(seed),
            weights: &mut weights,
            fixed: &mut fixed,
        };
        init.sequence(layers, "")?;
        Ok((weights, fixed))
    }

    fn sequence(&mut self, layers: &[Layer], prefix: &str) -> Result<()> {
        for (at, layer) in layers.iter().enumerate() {
            layer.initialise(&mut Init {
                path: format!("{prefix}{at}"),
                rng: &mut *self.rng,
                weights: &mut *self.weights,
                fixed: &mut *self.fixed,
            })?;
        }
        Ok(())
    }

    fn rng(&mut self) -> &mut ChaCha8Rng {
        self.rng
    }

    /// Adds a weight that training changes.
    fn trained(&mut self, name: &str, tensor: Tensor) {
        self.weights.insert(format!("{}.{name}", self.path), tensor);
    }

    /// Adds a weight that is not trained.
    fn fixed(&mut self, name: &str, tensor: Tensor) {
        self.fixed.insert(format!("{}.{name}", self.path));
        self.trained(name, tensor);
    }

    /// Draws He et al.'s normal distribution for layers in front of a rectifier.
    fn he_normal(&mut self, shape: &[i64], fan_in: i64) -> Tensor {
        let deviation = (2.0 / fan_in as f32).sqrt();
        let count = shape.iter().product::<i64>() as usize;
        let values: Vec<f32> = (0..count)
            .map(|_| {
                let standard: f32 = StandardNormal.sample(self.rng);
                standard * deviation
            })
            .collect();
        Tensor::from_slice(&values).view(shape)
    }
}

fn full(count: i64, value: f64) -> Tensor {
    Tensor::full([count], value, (Kind::Float, Device::Cpu))
}

/// The surroundings of a layer in a forward pass.
#[derive(Debug)]
pub struct Pass<'a> {
    weights: &'a Weights,
    path: String,
    mode: Mode,
    /// The element type of the convolutions.
    convolutions: Kind,
    dropout: f64,
}

impl<'a> Pass<'a> {
    pub(super) fn new(weights: &'a Weights, mode: Mode, convolutions: Kind, dropout: f64) -> Self {
        Self {
            weights,
            path: String::new(),
            mode,
            convolutions,
            dropout,
        }
    }

    /// Runs layers one after another.
    pub(super) fn sequence(&self, layers: &[Layer], prefix: &str, mut value: Tensor) -> Tensor {
        for (at, layer) in layers.iter().enumerate() {
            let pass = Pass {
                path: format!("{prefix}{at}"),
                ..*self
            };
            value = layer.forward(value, &pass);
        }
        value
    }

    fn weight(&self, name: &str) -> &'a Tensor {
        &self.weights[&format!("{}.{name}", self.path)]
    }

    fn is_training(&self) -> bool {
        self.mode == Mode::Training
    }
}

/// The surroundings of a layer that is added to an ONNX graph.
#[derive(Debug)]
pub struct Export<'a> {
    graph: &'a mut GraphBuilder,
    weights: &'a Weights,
    path: String,
    /// The name of the network's output, if the layer computes it.
    output: Option<&'a str>,
    /// The name of the attention mask, in a graph that takes text.
    mask: Option<&'a str>,
}

impl<'a> Export<'a> {
    pub(super) fn new(graph: &'a mut GraphBuilder, weights: &'a Weights, mask: Option<&'a str>) -> Self {
        Self {
            graph,
            weights,
            path: String::new(),
            output: None,
            mask,
        }
    }

    /// Adds layers one after another. The last one's output gets the name `output`, if there is
    /// one. Returns the name of the output.
    pub(super) fn sequence(
        &mut self,
        layers: &[Layer],
        prefix: &str,
        mut value: String,
        output: Option<&str>,
    ) -> Result<String> {
        for (at, layer) in layers.iter().enumerate() {
            let mut export = Export {
                graph: &mut *self.graph,
                weights: self.weights,
                path: format!("{prefix}{at}"),
                output: output.filter(|_| at + 1 == layers.len()),
                mask: self.mask,
            };
            value = layer.export(value, &mut export)?;
        }
        Ok(value)
    }

    fn weight(&self, name: &str) -> &'a Tensor {
        &self.weights[&format!("{}.{name}", self.path)]
    }

    /// Adds a tensor to the graph as a constant.
    fn constant(&mut self, name: &str, tensor: &Tensor) -> Result<String> {
        let shape: Vec<usize> = tensor.size().iter().map(|&length| length as usize).collect();
        let name = format!("{}.{name}", self.path);
        Ok(self.graph.floats(&name, &shape, &values(tensor)?))
    }

    /// Adds one of the layer's weights to the graph as a constant.
    fn constant_weight(&mut self, name: &str) -> Result<String> {
        self.constant(name, self.weight(name))
    }

    /// A name for a value inside the layer.
    fn inner(&self, step: &str) -> String {
        format!("{step}_{}", self.path)
    }

    /// The name of the layer's output.
    fn name(&self, step: &str) -> String {
        self.output.map_or_else(|| self.inner(step), str::to_owned)
    }

    /// The name of the value that `activation` is applied to, which is the layer's output if it is
    /// the identity.
    fn name_before(&self, activation: Activation, step: &str) -> String {
        match activation {
            Activation::Identity => self.name(step),
            _ => self.inner(step),
        }
    }
}
