//! Neural networks: lists of layers with their weights.
//!
//! A kind of layer is one file in `network/layer/`: its settings, initial weights, forward pass,
//! ONNX operators and description for the model card. The other modules here are the architectures
//! that recipes choose from.

pub mod airbench;
pub mod digits;
pub mod fashion;
pub mod folder;
pub mod images;
mod layer;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use onnx_graph::GraphBuilder;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

pub use layer::{
    Activation, AveragePool, Conv, Dense, Dropout, Flatten, GlobalAverage, Layer, MaxPool, Mirror,
    MirrorMean, Residual, Scale, Whiten, Words, describe, set_classes, words,
};
use layer::{Export, Init, Pass};

/// Weights by name. The name of a weight is the path of its layer and the weight's own name, such
/// as `3.body.0.shift`. Checkpoints contain these names.
pub type Weights = BTreeMap<String, Tensor>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch normalisation uses the statistics of the batch and updates their running mean; dropout
    /// is on.
    Training,
    /// Batch normalisation uses the running statistics; dropout is off.
    Inference,
}

/// The precision of the convolutions. Weights, statistics and all other values are 32-bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// All numbers have 32 bits.
    #[default]
    F32,
    /// Convolutions in bfloat16, which some CPUs and GPUs compute faster.
    Bf16,
}

/// Layers with their weights.
#[derive(Debug)]
pub struct Network {
    layers: Vec<Layer>,
    weights: Weights,
    /// The names of the weights that gradients do not change.
    fixed: BTreeSet<String>,
    precision: Precision,
    dropout: f64,
}

impl Network {
    /// Creates a network with initial weights that are drawn from `seed`.
    pub fn new(layers: &[Layer], seed: u64, device: Device) -> Result<Self> {
        let (weights, fixed) = Init::run(layers, seed)?;
        let weights = weights.into_iter().map(|(name, tensor)| {
            let tensor = tensor.to_device(device).set_requires_grad(!fixed.contains(&name));
            (name, tensor)
        });
        Ok(Self {
            weights: weights.collect(),
            layers: layers.to_vec(),
            fixed,
            precision: Precision::F32,
            dropout: 0.0,
        })
    }

    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Sets the probability with which the [`Dropout`] layers zero a value in training.
    pub fn set_dropout(&mut self, probability: f64) {
        self.dropout = probability;
    }

    /// Whether [`Self::fit`] must see samples before the first training step.
    pub fn needs_fit(&self) -> bool {
        self.layers.iter().any(|layer| layer.needs_fit())
    }

    /// Computes those weights that depend on the training samples but are not trained; see
    /// [`Whiten`].
    pub fn fit(&mut self, samples: &Tensor) -> Result<()> {
        for (at, layer) in self.layers.iter().enumerate() {
            for (name, fitted) in layer.fit(samples) {
                let name = format!("{at}.{name}");
                let own = self
                    .weights
                    .get_mut(&name)
                    .with_context(|| format!("no weight `{name}`"))?;
                tch::no_grad(|| own.copy_(&fitted));
            }
        }
        Ok(())
    }

    /// Copies the network without sharing memory. The copy records no gradients.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            weights: copies(&self.weights),
            fixed: self.fixed.clone(),
            precision: self.precision,
            dropout: self.dropout,
        }
    }

    pub fn device(&self) -> Device {
        self.weights.values().next().map_or(Device::Cpu, Tensor::device)
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Overwrites the weights with others of the same names and shapes.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        if !self.weights.keys().eq(weights.keys()) {
            bail!(
                "these weights belong to another network: expected {:?}, found {:?}",
                self.weights.keys(),
                weights.keys()
            );
        }
        for (name, own) in &mut self.weights {
            let new = &weights[name];
            if own.size() != new.size() {
                bail!(
                    "weight `{name}`: expected shape {:?}, found {:?}",
                    own.size(),
                    new.size()
                );
            }
            tch::no_grad(|| own.copy_(new));
        }
        Ok(())
    }

    /// The weights that gradients change.
    pub fn trainable(&mut self) -> impl Iterator<Item = (&String, &mut Tensor)> {
        let fixed = &self.fixed;
        self.weights
            .iter_mut()
            .filter(move |(name, _)| !fixed.contains(*name))
    }

    /// Counts the numbers that training learns.
    pub fn parameters(&self) -> usize {
        let trainable = self
            .weights
            .iter()
            .filter(|(name, _)| !self.fixed.contains(*name));
        trainable.map(|(_, tensor)| tensor.numel()).sum()
    }

    /// Updates these weights as an exponential moving average of those of `other`.
    pub fn follow(&mut self, other: &Self, decay: f64) {
        tch::no_grad(|| {
            for (name, own) in &mut self.weights {
                let _ = own.lerp_(&other.weights[name], 1.0 - decay);
            }
        });
    }

    /// Computes the logits of a batch.
    pub fn forward(&self, batch: &Tensor, mode: Mode) -> Tensor {
        let convolutions = match self.precision {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        let pass = Pass::new(&self.weights, mode, convolutions, self.dropout);
        pass.sequence(&self.layers, "", batch.shallow_clone())
    }

    /// Adds the network's operators to an ONNX graph, from the value `input` to the value `output`.
    /// Batch normalisation is folded into the convolutions.
    pub fn export(&self, graph: &mut GraphBuilder, input: &str, output: &str) -> Result<()> {
        self.export_with(Export::new(graph, &self.weights, None), input, output)
    }

    /// Does what [`Self::export`] does for a network that begins with [`Words`]. `ids` and `mask`
    /// are the token ids and the attention mask.
    pub fn export_text(&self, graph: &mut GraphBuilder, ids: &str, mask: &str, output: &str) -> Result<()> {
        self.export_with(Export::new(graph, &self.weights, Some(mask)), ids, output)
    }

    fn export_with(&self, mut export: Export<'_>, input: &str, output: &str) -> Result<()> {
        let made = export.sequence(&self.layers, "", input.to_owned(), Some(output))?;
        if made != output {
            bail!("the network's last layer adds no operator to the graph");
        }
        Ok(())
    }
}

/// Copies that share no memory with `weights` and record no gradients.
pub fn copies(weights: &Weights) -> Weights {
    let copy = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.detach().copy());
    weights.iter().map(copy).collect()
}

/// The numbers of a tensor in row-major order.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor
        .detach()
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .flatten(0, -1);
    Vec::try_from(&flat).context("cannot read a tensor")
}
