use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::{Activation, Export, Init, Module, Pass, conv, full};

/// Keeps directions in which images hardly vary from being amplified without bound.
const EPSILON: f64 = 5e-4;

/// A convolution whose kernels are computed from training images, so that its outputs are
/// uncorrelated and have variance 1. Each kernel occurs twice, with both signs. Only the biases are
/// trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whiten {
    pub inputs: i64,
    pub kernel: i64,
    pub activation: Activation,
}

impl Whiten {
    fn outputs(&self) -> i64 {
        2 * self.inputs * self.kernel * self.kernel
    }
}

impl Module for Whiten {
    fn initialise(&self, init: &mut Init<'_>) -> Result<()> {
        let outputs = self.outputs();
        let kernels = init.he_normal(&[outputs, self.inputs, self.kernel, self.kernel], outputs);
        init.fixed("kernel", kernels);
        init.trained("bias", full(outputs, 0.0));
        Ok(())
    }

    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        let kernels = pass.weight("kernel").to_kind(pass.convolutions);
        let bias = pass.weight("bias").to_kind(pass.convolutions);
        let sum = input
            .to_kind(pass.convolutions)
            .conv2d(&kernels, Some(&bias), [1, 1], [0, 0], [1, 1], 1);
        self.activation.apply(&sum)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let kernels = export.constant_weight("kernel")?;
        let bias = export.constant_weight("bias")?;
        let name = export.name_before(self.activation, "conv");
        let settings = conv::attributes(self.kernel, 1, 0);
        let sum = export
            .graph
            .node("Conv", &[&input, &kernels, &bias], &name, settings);
        Ok(self.activation.export(sum, export))
    }

    fn describe(&self) -> Option<String> {
        Some(format!(
            "whitening convolution {0} x {0} to {1} channels, of which only the biases are trained{2}",
            self.kernel,
            self.outputs(),
            self.activation.describe()
        ))
    }

    fn needs_fit(&self) -> bool {
        true
    }

    fn fit(&self, samples: &Tensor) -> Vec<(&'static str, Tensor)> {
        let patch = self.inputs * self.kernel * self.kernel;
        let kernels = tch::no_grad(|| {
            let patches = samples
                .to_device(Device::Cpu)
                .to_kind(Kind::Double)
                .im2col([self.kernel; 2], [1, 1], [0, 0], [1, 1])
                .permute([0, 2, 1])
                .reshape([-1, patch]);
            let covariance = patches.tr().matmul(&patches) / patches.size()[0] as f64;
            let (variances, directions) = covariance.linalg_eigh("L");
            let kernels = directions.tr() / (variances.view([-1, 1]) + EPSILON).sqrt();
            let kernels = kernels.view([patch, self.inputs, self.kernel, self.kernel]);
            Tensor::cat(&[&kernels, &-&kernels], 0)
        });
        vec![("kernel", kernels)]
    }
}
