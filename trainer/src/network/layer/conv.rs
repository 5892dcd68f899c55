use anyhow::Result;
use onnx_graph::Attribute;
use tch::{Kind, Tensor};

use super::{Activation, Export, Init, Module, Pass, full, pool};

/// The share of the current batch in the running statistics of batch normalisation.
const NORM_MOMENTUM: f64 = 0.1;
const NORM_EPSILON: f64 = 1e-5;

/// A convolution without bias, optional max pooling, batch normalisation and an activation.
/// Exporting folds the batch normalisation into the kernels and a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    inputs: i64,
    outputs: i64,
    kernel: i64,
    stride: i64,
    padding: i64,
    /// The side of the pooled squares; 1 for no pooling.
    pool: i64,
    /// Whether batch normalisation has a trained factor for each channel.
    scaled: bool,
    /// Whether the initial kernels copy input channel `i` to output channel `i`.
    dirac: bool,
    activation: Activation,
}

impl Conv {
    /// Stride 1, padding that keeps the size of the image, and a rectifier.
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

    #[must_use]
    pub fn stride(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    #[must_use]
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Adds max pooling over squares of this side, between the convolution and its normalisation.
    /// The normalisation gets no factors: folding a negative one into the kernels would turn the
    /// maximum into a minimum.
    #[must_use]
    pub fn pool(self, pool: i64) -> Self {
        Self {
            pool,
            scaled: false,
            ..self
        }
    }

    /// Begins as the identity on the channels that inputs and outputs share, and normalises without
    /// factors.
    #[must_use]
    pub fn dirac(self) -> Self {
        Self {
            scaled: false,
            dirac: true,
            ..self
        }
    }

    /// The kernels and the bias that do what the convolution and its normalisation do in inference.
    fn folded(&self, export: &Export<'_>) -> (Tensor, Tensor) {
        let weight = |name: &str| export.weight(name).to_kind(Kind::Double);
        tch::no_grad(|| {
            let mut scale = (weight("variance") + NORM_EPSILON).rsqrt();
            if self.scaled {
                scale *= weight("scale");
            }
            let kernels = weight("weight") * scale.view([-1, 1, 1, 1]);
            let bias = weight("shift") - weight("mean") * scale;
            (kernels, bias)
        })
    }
}

impl Module for Conv {
    fn initialise(&self, init: &mut Init<'_>) -> Result<()> {
        let shape = [self.outputs, self.inputs, self.kernel, self.kernel];
        let fan_in = self.inputs * self.kernel * self.kernel;
        let mut kernels = init.he_normal(&shape, fan_in);
        if self.dirac {
            // As small as most frameworks draw them by default, so that the copied channels
            // dominate.
            kernels *= 1.0 / 6f64.sqrt();
            let copied = self.inputs.min(self.outputs);
            let _ = kernels.narrow(0, 0, copied).zero_();
            for channel in 0..copied {
                let centre = kernels.get(channel).get(channel).get(self.kernel / 2);
                let _ = centre.get(self.kernel / 2).fill_(1.0);
            }
        }
        init.trained("weight", kernels);
        if self.scaled {
            init.trained("scale", full(self.outputs, 1.0));
        }
        init.trained("shift", full(self.outputs, 0.0));
        init.fixed("mean", full(self.outputs, 0.0));
        init.fixed("variance", full(self.outputs, 1.0));
        Ok(())
    }

    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        let sum = input.to_kind(pass.convolutions).conv2d(
            &pass.weight("weight").to_kind(pass.convolutions),
            None::<&Tensor>,
            [self.stride; 2],
            [self.padding; 2],
            [1, 1],
            1,
        );
        let normalised = pool::maximum(&sum, self.pool).batch_norm(
            self.scaled.then(|| pass.weight("scale")),
            Some(pass.weight("shift")),
            Some(pass.weight("mean")),
            Some(pass.weight("variance")),
            pass.is_training(),
            NORM_MOMENTUM,
            NORM_EPSILON,
            false,
        );
        self.activation.apply(&normalised)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let (kernels, bias) = self.folded(export);
        let kernels = export.constant("weight", &kernels)?;
        let bias = export.constant("bias", &bias)?;
        let settings = attributes(self.kernel, self.stride, self.padding);
        let inputs: [&str; 3] = [&input, &kernels, &bias];
        let before = if self.pool == 1 {
            let name = export.name_before(self.activation, "conv");
            export.graph.node("Conv", &inputs, &name, settings)
        } else {
            let (sum, name) = (export.inner("conv"), export.name_before(self.activation, "pool"));
            let sum = export.graph.node("Conv", &inputs, &sum, settings);
            let squares = pool::attributes(self.pool);
            export.graph.node("MaxPool", &[&sum], &name, squares)
        };
        Ok(self.activation.export(before, export))
    }

    fn describe(&self) -> Option<String> {
        let Self {
            outputs,
            kernel,
            stride,
            pool,
            ..
        } = self;
        let pool = if *pool > 1 {
            format!(", max pooling {pool} x {pool}")
        } else {
            String::new()
        };
        Some(format!(
            "convolution {kernel} x {kernel} to {outputs} channels, stride {stride}{pool}, batch normalisation{}",
            self.activation.describe()
        ))
    }
}

/// The attributes of ONNX's `Conv`.
pub(super) fn attributes(kernel: i64, stride: i64, padding: i64) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &[kernel; 2]),
        Attribute::ints("strides", &[stride; 2]),
        Attribute::ints("pads", &[padding; 4]),
    ]
}
