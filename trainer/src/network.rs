//! Networks: a list of layers from which training, export and the graph's size all follow.

pub mod digits;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng as _},
};
use rand_distr::{Distribution as _, StandardNormal, Uniform};
use tch::{Device, Tensor};

use crate::onnx::{Attribute, Graph};

/// Share of the newest batch in batch normalisation's running statistics.
const NORM_MOMENTUM: f64 = 0.1;
/// Keeps batch normalisation from dividing by zero.
const NORM_EPSILON: f64 = 1e-5;

/// Tensors by name.
pub type Weights = BTreeMap<String, Tensor>;

/// One step of a network, on pictures of `[batch, channels, height, width]` or rows of `[batch, features]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Convolution without bias, batch normalisation, `Relu`. Exported as one biased convolution and a `Relu`.
    Conv {
        /// Channels in.
        inputs: i64,
        /// Channels out.
        outputs: i64,
        /// Side of the square kernel.
        kernel: i64,
        /// Step between two positions of the kernel.
        stride: i64,
        /// Zeros added on every side.
        padding: i64,
    },
    /// Largest value of each square of this side; squares do not overlap.
    MaxPool(i64),
    /// Pictures to rows.
    Flatten,
    /// Fully connected, with bias.
    Dense {
        /// Features in.
        inputs: i64,
        /// Features out.
        outputs: i64,
        /// Followed by a `Relu`.
        relu: bool,
    },
}

/// What a pass through the network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Normalise by the batch's own statistics, and keep a running mean of them.
    Training,
    /// Normalise by the running statistics.
    Inference,
}

/// Layers with their weights.
#[derive(Debug)]
pub struct Network {
    layers: Vec<Layer>,
    weights: Weights,
}

impl Network {
    /// A network with fresh weights. The same seed gives the same weights.
    pub fn new(layers: &[Layer], seed: u64, device: Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Weights::new();
        for (at, layer) in layers.iter().enumerate() {
            match *layer {
                Layer::Conv {
                    inputs,
                    outputs,
                    kernel,
                    ..
                } => {
                    let fan_in = inputs * kernel * kernel;
                    let kernels = he_normal(&[outputs, inputs, kernel, kernel], fan_in, &mut rng);
                    weights.insert(format!("{at}.weight"), kernels);
                    for (name, value) in [("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0)] {
                        let tensor = Tensor::full([outputs], value, (tch::Kind::Float, Device::Cpu));
                        weights.insert(format!("{at}.{name}"), tensor);
                    }
                }
                Layer::Dense { inputs, outputs, .. } => {
                    let bound = 1.0 / (inputs as f32).sqrt();
                    let uniform = Uniform::new(-bound, bound).context("a dense layer has no inputs")?;
                    let mut draw = |shape: &[i64]| {
                        let count = shape.iter().product::<i64>() as usize;
                        let values: Vec<f32> = uniform.sample_iter(&mut rng).take(count).collect();
                        Tensor::from_slice(&values).view(shape)
                    };
                    weights.insert(format!("{at}.weight"), draw(&[outputs, inputs]));
                    weights.insert(format!("{at}.bias"), draw(&[outputs]));
                }
                Layer::MaxPool(_) | Layer::Flatten => {}
            }
        }
        let mut network = Self {
            layers: layers.to_vec(),
            weights: Weights::new(),
        };
        for (name, tensor) in weights {
            let tensor = tensor.to_device(device).set_requires_grad(is_trainable(&name));
            network.weights.insert(name, tensor);
        }
        Ok(network)
    }

    /// A copy that shares no memory with this network and records no gradients.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            weights: copies(&self.weights),
        }
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Overwrites the weights. They must have the names and shapes of this network's own.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        if !self.weights.keys().eq(weights.keys()) {
            bail!(
                "these are another network's weights: expected {:?}, found {:?}",
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

    /// The tensors that training changes through their gradients.
    pub fn trainable(&mut self) -> impl Iterator<Item = (&String, &mut Tensor)> {
        self.weights.iter_mut().filter(|(name, _)| is_trainable(name))
    }

    /// How many numbers training finds.
    pub fn parameters(&self) -> usize {
        let trainable = self.weights.iter().filter(|(name, _)| is_trainable(name));
        trainable.map(|(_, tensor)| tensor.numel()).sum()
    }

    /// Moves these weights the part `1 - decay` of the way to those of `other`.
    pub fn follow(&mut self, other: &Self, decay: f64) {
        tch::no_grad(|| {
            for (name, own) in &mut self.weights {
                let _ = own.lerp_(&other.weights[name], 1.0 - decay);
            }
        });
    }

    /// The logits of a batch.
    pub fn forward(&self, batch: &Tensor, mode: Mode) -> Tensor {
        let mut value = batch.shallow_clone();
        for (at, layer) in self.layers.iter().enumerate() {
            let weight = |name: &str| &self.weights[&format!("{at}.{name}")];
            value = match *layer {
                Layer::Conv { stride, padding, .. } => value
                    .conv2d(
                        weight("weight"),
                        None::<&Tensor>,
                        [stride, stride],
                        [padding, padding],
                        [1, 1],
                        1,
                    )
                    .batch_norm(
                        Some(weight("scale")),
                        Some(weight("shift")),
                        Some(weight("mean")),
                        Some(weight("variance")),
                        mode == Mode::Training,
                        NORM_MOMENTUM,
                        NORM_EPSILON,
                        false,
                    )
                    .relu(),
                Layer::MaxPool(side) => value.max_pool2d([side, side], [side, side], [0, 0], [1, 1], false),
                Layer::Flatten => value.flatten(1, -1),
                Layer::Dense { relu, .. } => {
                    let sum = value.linear(weight("weight"), Some(weight("bias")));
                    if relu { sum.relu() } else { sum }
                }
            };
        }
        value
    }

    /// Adds the network to an ONNX graph, from the value `input` to the value `output`. Batch normalisation becomes
    /// part of the convolutions.
    pub fn export(&self, graph: &mut Graph, input: &str, output: &str) -> Result<()> {
        let mut value = input.to_owned();
        for (at, layer) in self.layers.iter().enumerate() {
            let last = at + 1 == self.layers.len();
            let name = |step: &str| {
                if last {
                    output.to_owned()
                } else {
                    format!("{step}_{at}")
                }
            };
            value = match *layer {
                Layer::Conv {
                    kernel,
                    stride,
                    padding,
                    ..
                } => {
                    let (weight, bias) = self.folded(at);
                    let weight = constant(graph, &format!("{at}.weight"), &weight)?;
                    let bias = constant(graph, &format!("{at}.bias"), &bias)?;
                    let settings = vec![
                        Attribute::ints("kernel_shape", &[kernel; 2]),
                        Attribute::ints("strides", &[stride; 2]),
                        Attribute::ints("pads", &[padding; 4]),
                    ];
                    let sum = graph.node("Conv", &[&value, &weight, &bias], &format!("conv_{at}"), settings);
                    graph.node("Relu", &[&sum], &name("relu"), vec![])
                }
                Layer::MaxPool(side) => {
                    let settings = vec![
                        Attribute::ints("kernel_shape", &[side; 2]),
                        Attribute::ints("strides", &[side; 2]),
                    ];
                    graph.node("MaxPool", &[&value], &name("pool"), settings)
                }
                Layer::Flatten => graph.node(
                    "Flatten",
                    &[&value],
                    &name("flat"),
                    vec![Attribute::int("axis", 1)],
                ),
                Layer::Dense { relu, .. } => {
                    let weight = format!("{at}.weight");
                    let weight = constant(graph, &weight, &self.weights[&weight])?;
                    let bias = format!("{at}.bias");
                    let bias = constant(graph, &bias, &self.weights[&bias])?;
                    let sum = if relu {
                        format!("dense_{at}")
                    } else {
                        name("dense")
                    };
                    let settings = vec![Attribute::int("transB", 1)];
                    let sum = graph.node("Gemm", &[&value, &weight, &bias], &sum, settings);
                    if relu {
                        graph.node("Relu", &[&sum], &name("relu"), vec![])
                    } else {
                        sum
                    }
                }
            };
        }
        Ok(())
    }

    /// Kernels and biases of a convolution with its batch normalisation in them.
    fn folded(&self, at: usize) -> (Tensor, Tensor) {
        let weight = |name: &str| self.weights[&format!("{at}.{name}")].to_kind(tch::Kind::Double);
        tch::no_grad(|| {
            let scale = weight("scale") / (weight("variance") + NORM_EPSILON).sqrt();
            let kernels = weight("weight") * scale.view([-1, 1, 1, 1]);
            let bias = weight("shift") - weight("mean") * scale;
            (kernels, bias)
        })
    }
}

/// Running statistics are measured; everything else is trained.
fn is_trainable(name: &str) -> bool {
    !["mean", "variance"].contains(&name.rsplit('.').next().unwrap_or_default())
}

/// Copies that share no memory with `weights` and record no gradients.
pub fn copies(weights: &Weights) -> Weights {
    let copy = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.detach().copy());
    weights.iter().map(copy).collect()
}

fn he_normal(shape: &[i64], fan_in: i64, rng: &mut impl Rng) -> Tensor {
    let deviation = (2.0 / fan_in as f32).sqrt();
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            let standard: f32 = StandardNormal.sample(rng);
            standard * deviation
        })
        .collect();
    Tensor::from_slice(&values).view(shape)
}

fn constant(graph: &mut Graph, name: &str, tensor: &Tensor) -> Result<String> {
    let shape: Vec<usize> = tensor.size().iter().map(|&length| length as usize).collect();
    Ok(graph.floats(name, &shape, &values(tensor)?))
}

/// The numbers of a tensor in row-major order.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor
        .detach()
        .to_device(Device::Cpu)
        .to_kind(tch::Kind::Float)
        .flatten(0, -1);
    Vec::try_from(&flat).context("cannot read a tensor")
}
