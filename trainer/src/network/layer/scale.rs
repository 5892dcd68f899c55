use anyhow::Result;
use tch::Tensor;

use super::{Export, Module, Pass};

/// Multiplies by a constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale(pub f64);

impl Module for Scale {
    fn forward(&self, input: Tensor, _: &Pass<'_>) -> Tensor {
        input * self.0
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let (factor, name) = (export.inner("factor"), export.name("scaled"));
        let factor = export.graph.floats(&factor, &[], &[self.0 as f32]);
        Ok(export.graph.node("Mul", &[&input, &factor], &name, vec![]))
    }

    fn describe(&self) -> Option<String> {
        Some(format!("scaled by {:.3}", self.0))
    }
}
