use anyhow::{Context as _, Result};
use onnx_graph::Attribute;
use rand_distr::{Distribution as _, Uniform};
use tch::{Kind, Tensor};

use super::{Activation, Export, Init, Layer, Module, Pass};

/// A fully connected layer with a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense {
    inputs: i64,
    outputs: i64,
    activation: Activation,
}

impl Dense {
    /// Without an activation.
    pub fn new(inputs: i64, outputs: i64) -> Self {
        Self {
            inputs,
            outputs,
            activation: Activation::Identity,
        }
    }

    #[must_use]
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }
}

impl Module for Dense {
    fn initialise(&self, init: &mut Init<'_>) -> Result<()> {
        let bound = 1.0 / (self.inputs as f32).sqrt();
        let uniform = Uniform::new(-bound, bound).context("a dense layer has no inputs")?;
        let mut draw = |shape: &[i64]| {
            let count = shape.iter().product::<i64>() as usize;
            let values: Vec<f32> = uniform.sample_iter(init.rng()).take(count).collect();
            Tensor::from_slice(&values).view(shape)
        };
        let (weight, bias) = (draw(&[self.outputs, self.inputs]), draw(&[self.outputs]));
        init.trained("weight", weight);
        init.trained("bias", bias);
        Ok(())
    }

    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        let input = input.to_kind(Kind::Float);
        let sum = input.linear(pass.weight("weight"), Some(pass.weight("bias")));
        self.activation.apply(&sum)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let weights = export.constant_weight("weight")?;
        let bias = export.constant_weight("bias")?;
        let name = export.name_before(self.activation, "dense");
        let settings = vec![Attribute::int("transB", 1)];
        let sum = export
            .graph
            .node("Gemm", &[&input, &weights, &bias], &name, settings);
        Ok(self.activation.export(sum, export))
    }

    fn describe(&self) -> Option<String> {
        Some(format!(
            "fully connected to {}{}",
            self.outputs,
            self.activation.describe()
        ))
    }

    fn with_classes(&self, classes: i64) -> Option<Layer> {
        Some(Layer::from(Self {
            outputs: classes,
            ..*self
        }))
    }
}
