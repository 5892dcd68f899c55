//! Networks: a tree of layers from which training, export and the graph's size all follow.

pub mod airbench;
pub mod digits;
pub mod fashion;
pub mod folder;
pub mod images;
pub mod words;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng as _},
};
use rand_distr::{Distribution as _, StandardNormal, Uniform};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use onnx_graph::{Attribute, GraphBuilder};
pub use words::Words;

/// Share of the newest batch in batch normalisation's running statistics.
const NORM_MOMENTUM: f64 = 0.1;
/// Keeps batch normalisation from dividing by zero.
const NORM_EPSILON: f64 = 1e-5;
/// Keeps whitening from blowing up directions in which pictures hardly differ.
const WHITEN_EPSILON: f64 = 5e-4;

/// Tensors by name.
pub type Weights = BTreeMap<String, Tensor>;

/// What a layer does to each of its values at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x` times the standard normal's distribution function at `x`.
    Gelu,
    /// `x` times its logistic function.
    Silu,
}

impl Activation {
    fn apply(self, value: &Tensor) -> Tensor {
        match self {
            Self::Identity => value.shallow_clone(),
            Self::Relu => value.relu(),
            Self::Gelu => value.gelu("none"),
            Self::Silu => value.silu(),
        }
    }

    /// Adds the operators to a graph. `path` keeps their names apart from other layers'.
    fn export(self, graph: &mut GraphBuilder, value: String, path: &str, output: Option<&str>) -> String {
        let last = |step: &str| output.map_or_else(|| format!("{step}_{path}"), str::to_owned);
        match self {
            Self::Identity => value,
            Self::Relu => graph.node("Relu", &[&value], &last("relu"), vec![]),
            Self::Gelu => {
                // The operator set has no Gelu yet; a runtime recognises this way to write it.
                let root = graph.floats(&format!("root_{path}"), &[], &[std::f32::consts::SQRT_2]);
                let one = graph.floats(&format!("one_{path}"), &[], &[1.0]);
                let half = graph.floats(&format!("half_{path}"), &[], &[0.5]);
                let divided = graph.node("Div", &[&value, &root], &format!("divided_{path}"), vec![]);
                let erf = graph.node("Erf", &[&divided], &format!("erf_{path}"), vec![]);
                let sum = graph.node("Add", &[&erf, &one], &format!("erf_plus_one_{path}"), vec![]);
                let product = graph.node("Mul", &[&value, &sum], &format!("product_{path}"), vec![]);
                graph.node("Mul", &[&product, &half], &last("gelu"), vec![])
            }
            Self::Silu => {
                let logistic = graph.node("Sigmoid", &[&value], &format!("logistic_{path}"), vec![]);
                graph.node("Mul", &[&value, &logistic], &last("silu"), vec![])
            }
        }
    }
}

/// A convolution without bias, a maximum of squares if wanted, batch normalisation, an activation. Exported as one
/// biased convolution, the maximum and the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Channels in.
    pub inputs: i64,
    /// Channels out.
    pub outputs: i64,
    /// Side of the square kernel.
    pub kernel: i64,
    /// Step between two positions of the kernel.
    pub stride: i64,
    /// Zeros added on every side.
    pub padding: i64,
    /// Side of the squares of which the largest value is kept, before normalisation; 1 keeps all.
    pub pool: i64,
    /// Batch normalisation also finds a factor for each channel.
    pub scaled: bool,
    /// Begins by passing its inputs on: output `i` is input `i`, as far as there are inputs.
    pub dirac: bool,
    /// At the end.
    pub activation: Activation,
}

impl Conv {
    /// Stride 1, as wide and high as its input, `Relu`.
    pub fn new(inputs: i64, outputs: i64, kernel: i64) -> Self {
        Self {
            inputs,
            outputs,
            kernel,
            stride: 1,
            padding: kernel / 2,
            pool: 1,
            scaled: true,
            dirac: false,
            activation: Activation::Relu,
        }
    }

    /// With this stride.
    #[must_use]
    pub fn stride(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    /// With this activation.
    #[must_use]
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Keeps the maximum of squares with this side. The normalisation behind it has no factors: a negative one would make a
    /// minimum of the maximum when it becomes part of the convolution.
    #[must_use]
    pub fn pool(self, pool: i64) -> Self {
        Self {
            pool,
            scaled: false,
            ..self
        }
    }

    /// Normalisation without factors, weights that begin by passing the inputs on.
    #[must_use]
    pub fn dirac(self) -> Self {
        Self {
            scaled: false,
            dirac: true,
            ..self
        }
    }
}

/// One step of a network, on pictures of `[batch, channels, height, width]` or rows of `[batch, features]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// See [`Conv`].
    Conv(Conv),
    /// See [`Words`].
    Words(Words),
    /// A convolution whose kernels are not trained but made from the training pictures, so that its outputs are
    /// uncorrelated and of variance 1; each kernel also with its sign changed, and a trained bias.
    Whiten {
        /// Channels in.
        inputs: i64,
        /// Side of the square kernel.
        kernel: i64,
        /// At the end.
        activation: Activation,
    },
    /// Largest value of each square of this side; squares do not overlap.
    MaxPool(i64),
    /// Mean of each square of this side; squares do not overlap.
    AveragePool(i64),
    /// Mean over height and width: pictures to rows.
    GlobalAverage,
    /// Pictures to rows.
    Flatten,
    /// Fully connected, with bias.
    Dense {
        /// Features in.
        inputs: i64,
        /// Features out.
        outputs: i64,
        /// At the end.
        activation: Activation,
    },
    /// The sum of two ways from the same input, then an activation. A way without layers passes its input on.
    Residual {
        /// One way.
        body: Vec<Layer>,
        /// The other.
        shortcut: Vec<Layer>,
        /// After the sum.
        activation: Activation,
    },
    /// In training, sets each value to 0 with this probability, and makes up for it.
    Dropout(f64),
    /// Times a constant.
    Scale(f64),
    /// Outside training, adds each picture's mirror image to the batch.
    Mirror,
    /// Takes the mean of each row and that of its mirror image.
    MirrorMean,
}

/// What a pass through the network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Normalise by the batch's own statistics, and keep a running mean of them; drop out.
    Training,
    /// Normalise by the running statistics.
    Inference,
}

/// How numbers are kept within a pass. Weights, statistics and everything between passes are 32-bit numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// The convolutions' inputs and outputs are 16-bit brain floats, which some CPUs and GPUs multiply faster.
    Bf16,
}

/// Layers with their weights.
#[derive(Debug)]
pub struct Network {
    layers: Vec<Layer>,
    weights: Weights,
    precision: Precision,
}

impl Network {
    /// A network with fresh weights. The same seed gives the same weights.
    pub fn new(layers: &[Layer], seed: u64, device: Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut fresh = Weights::new();
        initialise(layers, "", &mut rng, &mut fresh)?;
        let mut weights = Weights::new();
        for (name, tensor) in fresh {
            let tensor = tensor.to_device(device).set_requires_grad(is_trainable(&name));
            weights.insert(name, tensor);
        }
        Ok(Self {
            layers: layers.to_vec(),
            weights,
            precision: Precision::F32,
        })
    }

    /// Computes with this precision from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Makes the kernels of a [`Layer::Whiten`] at the beginning from `pictures`, normalised training pictures of
    /// `[count, channels, height, width]`. Does nothing to other networks.
    pub fn whiten(&mut self, pictures: &Tensor) -> Result<()> {
        let found = self
            .layers
            .iter()
            .enumerate()
            .find_map(|(at, layer)| match *layer {
                Layer::Whiten { inputs, kernel, .. } => Some((at, inputs, kernel)),
                _ => None,
            });
        let Some((at, inputs, kernel)) = found else {
            return Ok(());
        };
        let patch = inputs * kernel * kernel;
        let kernels = tch::no_grad(|| {
            let patches = pictures
                .to_device(Device::Cpu)
                .to_kind(tch::Kind::Double)
                .im2col([kernel, kernel], [1, 1], [0, 0], [1, 1])
                .permute([0, 2, 1])
                .reshape([-1, patch]);
            let covariance = patches.tr().matmul(&patches) / patches.size()[0] as f64;
            let (variances, directions) = covariance.linalg_eigh("L");
            let kernels = directions.tr() / (variances.view([-1, 1]) + WHITEN_EPSILON).sqrt();
            let kernels = kernels.view([patch, inputs, kernel, kernel]);
            Tensor::cat(&[&kernels, &-&kernels], 0)
        });
        let name = format!("{at}.kernel");
        let own = self
            .weights
            .get_mut(&name)
            .with_context(|| format!("no weight `{name}`"))?;
        tch::no_grad(|| own.copy_(&kernels));
        Ok(())
    }

    /// A copy that shares no memory with this network and records no gradients.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            weights: copies(&self.weights),
            precision: self.precision,
        }
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.weights.values().next().map_or(Device::Cpu, Tensor::device)
    }

    /// The layers.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
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
        self.pass(&self.layers, "", batch.shallow_clone(), mode)
    }

    fn pass(&self, layers: &[Layer], prefix: &str, mut value: Tensor, mode: Mode) -> Tensor {
        for (at, layer) in layers.iter().enumerate() {
            let path = format!("{prefix}{at}");
            let weight = |name: &str| &self.weights[&format!("{path}.{name}")];
            let kind = match self.precision {
                Precision::F32 => tch::Kind::Float,
                Precision::Bf16 => tch::Kind::BFloat16,
            };
            value = match layer {
                Layer::Conv(conv) => {
                    let sum = value.to_kind(kind).conv2d(
                        &weight("weight").to_kind(kind),
                        None::<&Tensor>,
                        [conv.stride; 2],
                        [conv.padding; 2],
                        [1, 1],
                        1,
                    );
                    let normalised = max_pool(&sum, conv.pool).batch_norm(
                        conv.scaled.then(|| weight("scale")),
                        Some(weight("shift")),
                        Some(weight("mean")),
                        Some(weight("variance")),
                        mode == Mode::Training,
                        NORM_MOMENTUM,
                        NORM_EPSILON,
                        false,
                    );
                    conv.activation.apply(&normalised)
                }
                Layer::Whiten { activation, .. } => {
                    let (kernel, bias) = (weight("kernel").to_kind(kind), weight("bias").to_kind(kind));
                    let sum = value
                        .to_kind(kind)
                        .conv2d(&kernel, Some(&bias), [1, 1], [0, 0], [1, 1], 1);
                    activation.apply(&sum)
                }
                Layer::Words(words) => words.forward(&value, weight, mode == Mode::Training),
                Layer::MaxPool(side) => max_pool(&value, *side),
                Layer::AveragePool(side) => {
                    value.avg_pool2d([*side; 2], [*side; 2], [0, 0], false, true, None)
                }
                Layer::GlobalAverage => value.mean_dim([-2i64, -1].as_slice(), false, tch::Kind::Float),
                Layer::Flatten => value.flatten(1, -1),
                Layer::Dense { activation, .. } => {
                    let value = value.to_kind(tch::Kind::Float);
                    activation.apply(&value.linear(weight("weight"), Some(weight("bias"))))
                }
                Layer::Residual {
                    body,
                    shortcut,
                    activation,
                } => {
                    let one = self.pass(body, &format!("{path}.body."), value.shallow_clone(), mode);
                    let other = self.pass(shortcut, &format!("{path}.shortcut."), value, mode);
                    activation.apply(&(one + other))
                }
                Layer::Dropout(probability) => value.dropout(*probability, mode == Mode::Training),
                Layer::Scale(factor) => value * *factor,
                Layer::Mirror | Layer::MirrorMean if mode == Mode::Training => value,
                Layer::Mirror => Tensor::cat(&[&value, &value.flip([3])], 0),
                Layer::MirrorMean => {
                    let classes = value.size()[1];
                    value
                        .view([2, -1, classes])
                        .mean_dim([0i64].as_slice(), false, tch::Kind::Float)
                }
            };
        }
        value
    }

    /// Adds the network to an ONNX graph, from the value `input` to the value `output`. Batch normalisation becomes
    /// part of the convolutions, dropout goes.
    pub fn export(&self, graph: &mut GraphBuilder, input: &str, output: &str) -> Result<()> {
        if let Some(Layer::Words(_)) = self.layers.first() {
            bail!("expected a network with one input, found one that reads texts");
        }
        let made = self.add(graph, &self.layers, "", input.to_owned(), Some(output))?;
        if made != output {
            bail!("the network's last layer makes no value: expected one that does");
        }
        Ok(())
    }

    /// Adds `layers`, the last of which makes the value `output`, if that is given. Gives the name of what they make.
    fn add(
        &self,
        graph: &mut GraphBuilder,
        layers: &[Layer],
        prefix: &str,
        mut value: String,
        output: Option<&str>,
    ) -> Result<String> {
        for (at, layer) in layers.iter().enumerate() {
            let path = format!("{prefix}{at}");
            let output = output.filter(|_| at + 1 == layers.len());
            let name = |step: &str| output.map_or_else(|| format!("{step}_{path}"), str::to_owned);
            // What comes before an activation is the last only if there is none.
            let before = |step: &str, activation: Activation| match activation {
                Activation::Identity => name(step),
                _ => format!("{step}_{path}"),
            };
            let constant = |graph: &mut GraphBuilder, kind: &str, tensor: &Tensor| {
                constant(graph, &format!("{path}.{kind}"), tensor)
            };
            let weight = |kind: &str| &self.weights[&format!("{path}.{kind}")];
            value = match layer {
                Layer::Conv(conv) => {
                    let (kernels, bias) = self.folded(&path, conv.scaled);
                    let kernels = constant(graph, "weight", &kernels)?;
                    let bias = constant(graph, "bias", &bias)?;
                    let settings = convolution(conv.kernel, conv.stride, conv.padding);
                    if conv.pool == 1 {
                        let sum = before("conv", conv.activation);
                        let sum = graph.node("Conv", &[&value, &kernels, &bias], &sum, settings);
                        conv.activation.export(graph, sum, &path, output)
                    } else {
                        let sum = format!("conv_{path}");
                        let sum = graph.node("Conv", &[&value, &kernels, &bias], &sum, settings);
                        let pooled = before("pool", conv.activation);
                        let pooled = graph.node("MaxPool", &[&sum], &pooled, squares(conv.pool));
                        conv.activation.export(graph, pooled, &path, output)
                    }
                }
                Layer::Whiten {
                    kernel, activation, ..
                } => {
                    let kernels = constant(graph, "kernel", weight("kernel"))?;
                    let bias = constant(graph, "bias", weight("bias"))?;
                    let sum = before("conv", *activation);
                    let settings = convolution(*kernel, 1, 0);
                    let sum = graph.node("Conv", &[&value, &kernels, &bias], &sum, settings);
                    activation.export(graph, sum, &path, output)
                }
                Layer::MaxPool(side) => graph.node("MaxPool", &[&value], &name("pool"), squares(*side)),
                Layer::AveragePool(side) => {
                    graph.node("AveragePool", &[&value], &name("pool"), squares(*side))
                }
                Layer::GlobalAverage => {
                    let settings = vec![Attribute::ints("axes", &[2, 3]), Attribute::int("keepdims", 0)];
                    graph.node("ReduceMean", &[&value], &name("mean"), settings)
                }
                Layer::Flatten => {
                    let settings = vec![Attribute::int("axis", 1)];
                    graph.node("Flatten", &[&value], &name("flat"), settings)
                }
                Layer::Dense { activation, .. } => {
                    let weights = constant(graph, "weight", weight("weight"))?;
                    let bias = constant(graph, "bias", weight("bias"))?;
                    let sum = before("dense", *activation);
                    let settings = vec![Attribute::int("transB", 1)];
                    let sum = graph.node("Gemm", &[&value, &weights, &bias], &sum, settings);
                    activation.export(graph, sum, &path, output)
                }
                Layer::Residual {
                    body,
                    shortcut,
                    activation,
                } => {
                    let one = self.add(graph, body, &format!("{path}.body."), value.clone(), None)?;
                    let other = self.add(graph, shortcut, &format!("{path}.shortcut."), value, None)?;
                    let sum = before("sum", *activation);
                    let sum = graph.node("Add", &[&one, &other], &sum, vec![]);
                    activation.export(graph, sum, &path, output)
                }
                // Words have two inputs, and `export_text` has added them already.
                Layer::Dropout(_) | Layer::Words(_) => value,
                Layer::Scale(factor) => {
                    let factor = graph.floats(&format!("factor_{path}"), &[], &[*factor as f32]);
                    graph.node("Mul", &[&value, &factor], &name("scaled"), vec![])
                }
                Layer::Mirror => {
                    let mut ints =
                        |kind: &str, number: i64| graph.ints(&format!("{kind}_{path}"), &[1], &[number]);
                    // From the last column down to the first: the end is beyond any width.
                    let (start, end) = (ints("start", -1), ints("end", -(1 << 31)));
                    let (axis, step) = (ints("axis", 3), ints("step", -1));
                    let mirrored = format!("mirrored_{path}");
                    let slice = [value.as_str(), &start, &end, &axis, &step];
                    let mirrored = graph.node("Slice", &slice, &mirrored, vec![]);
                    let settings = vec![Attribute::int("axis", 0)];
                    graph.node("Concat", &[&value, &mirrored], &name("both"), settings)
                }
                Layer::MirrorMean => {
                    // 0 keeps the axis of `[2 * batch, classes]` only at its own place, so classes come first.
                    let shape = graph.ints(&format!("shape_{path}"), &[3], &[0, 2, -1]);
                    let turn = |axes: &[i64]| vec![Attribute::ints("perm", axes)];
                    let turned = graph.node("Transpose", &[&value], &format!("turned_{path}"), turn(&[1, 0]));
                    let pairs = graph.node("Reshape", &[&turned, &shape], &format!("pairs_{path}"), vec![]);
                    let settings = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 0)];
                    let mean = graph.node("ReduceMean", &[&pairs], &format!("mean_{path}"), settings);
                    graph.node("Transpose", &[&mean], &name("logits"), turn(&[1, 0]))
                }
            };
        }
        Ok(value)
    }

    /// Adds a network that begins with [`Layer::Words`] to an ONNX graph, from the values `ids` and `mask` to `output`.
    pub fn export_text(&self, graph: &mut GraphBuilder, ids: &str, mask: &str, output: &str) -> Result<()> {
        let Some(Layer::Words(words)) = self.layers.first() else {
            bail!(
                "expected a network that begins by reading words, found {:?}",
                self.layers.first()
            );
        };
        let value = words.export(graph, &self.weights, "0", ids, mask)?;
        let made = self.add(graph, &self.layers, "", value, Some(output))?;
        if made != output {
            bail!("the network's last layer makes no value: expected one that does");
        }
        Ok(())
    }

    /// Kernels and biases of a convolution with its batch normalisation in them.
    fn folded(&self, path: &str, scaled: bool) -> (Tensor, Tensor) {
        let weight = |name: &str| self.weights[&format!("{path}.{name}")].to_kind(tch::Kind::Double);
        tch::no_grad(|| {
            let mut scale = (weight("variance") + NORM_EPSILON).rsqrt();
            if scaled {
                scale *= weight("scale");
            }
            let kernels = weight("weight") * scale.view([-1, 1, 1, 1]);
            let bias = weight("shift") - weight("mean") * scale;
            (kernels, bias)
        })
    }
}

fn max_pool(value: &Tensor, side: i64) -> Tensor {
    if side == 1 {
        return value.shallow_clone();
    }
    value.max_pool2d([side; 2], [side; 2], [0, 0], [1, 1], false)
}

fn convolution(kernel: i64, stride: i64, padding: i64) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &[kernel; 2]),
        Attribute::ints("strides", &[stride; 2]),
        Attribute::ints("pads", &[padding; 4]),
    ]
}

fn squares(side: i64) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &[side; 2]),
        Attribute::ints("strides", &[side; 2]),
    ]
}

/// Adds fresh weights of `layers`.
fn initialise(layers: &[Layer], prefix: &str, rng: &mut ChaCha8Rng, weights: &mut Weights) -> Result<()> {
    let full = |count: i64, value: f64| Tensor::full([count], value, (tch::Kind::Float, Device::Cpu));
    for (at, layer) in layers.iter().enumerate() {
        let path = format!("{prefix}{at}");
        let mut insert = |name: &str, tensor: Tensor| weights.insert(format!("{path}.{name}"), tensor);
        match layer {
            Layer::Conv(conv) => {
                let shape = [conv.outputs, conv.inputs, conv.kernel, conv.kernel];
                let fan_in = conv.inputs * conv.kernel * conv.kernel;
                let mut kernels = he_normal(&shape, fan_in, rng);
                if conv.dirac {
                    // As small as the default of most frameworks, so that what is passed on is not drowned.
                    kernels *= 1.0 / 6f64.sqrt();
                    let passed = conv.inputs.min(conv.outputs);
                    let _ = kernels.narrow(0, 0, passed).zero_();
                    for channel in 0..passed {
                        let centre = kernels.get(channel).get(channel).get(conv.kernel / 2);
                        let _ = centre.get(conv.kernel / 2).fill_(1.0);
                    }
                }
                insert("weight", kernels);
                if conv.scaled {
                    insert("scale", full(conv.outputs, 1.0));
                }
                for (name, value) in [("shift", 0.0), ("mean", 0.0), ("variance", 1.0)] {
                    insert(name, full(conv.outputs, value));
                }
            }
            Layer::Words(words) => words.initialise(&path, rng, weights)?,
            Layer::Whiten { inputs, kernel, .. } => {
                let outputs = 2 * inputs * kernel * kernel;
                insert(
                    "kernel",
                    he_normal(&[outputs, *inputs, *kernel, *kernel], outputs, rng),
                );
                insert("bias", full(outputs, 0.0));
            }
            Layer::Dense { inputs, outputs, .. } => {
                let bound = 1.0 / (*inputs as f32).sqrt();
                let uniform = Uniform::new(-bound, bound).context("a dense layer has no inputs")?;
                let mut draw = |shape: &[i64]| {
                    let count = shape.iter().product::<i64>() as usize;
                    let values: Vec<f32> = uniform.sample_iter(&mut *rng).take(count).collect();
                    Tensor::from_slice(&values).view(shape)
                };
                insert("weight", draw(&[*outputs, *inputs]));
                insert("bias", draw(&[*outputs]));
            }
            Layer::Residual { body, shortcut, .. } => {
                initialise(body, &format!("{path}.body."), rng, weights)?;
                initialise(shortcut, &format!("{path}.shortcut."), rng, weights)?;
            }
            Layer::MaxPool(_)
            | Layer::AveragePool(_)
            | Layer::GlobalAverage
            | Layer::Flatten
            | Layer::Dropout(_)
            | Layer::Scale(_)
            | Layer::Mirror
            | Layer::MirrorMean => {}
        }
    }
    Ok(())
}

/// Sets the probability of every [`Layer::Dropout`] in the tree.
pub fn set_dropout(layers: &mut [Layer], probability: f64) {
    for layer in layers {
        match layer {
            Layer::Dropout(own) => *own = probability,
            Layer::Residual { body, shortcut, .. } => {
                set_dropout(body, probability);
                set_dropout(shortcut, probability);
            }
            _ => {}
        }
    }
}

/// Makes the last layer one for so many classes.
pub fn set_classes(layers: &mut [Layer], classes: i64) {
    for layer in layers.iter_mut().rev() {
        if let Layer::Dense { outputs, .. } = layer {
            *outputs = classes;
            return;
        }
    }
}

/// Running statistics are measured, whitening kernels computed and some vectors given; everything else is trained.
fn is_trainable(name: &str) -> bool {
    !["mean", "variance", "kernel", "vectors"].contains(&name.rsplit('.').next().unwrap_or_default())
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

fn constant(graph: &mut GraphBuilder, name: &str, tensor: &Tensor) -> Result<String> {
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
