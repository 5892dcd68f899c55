use anyhow::Result;
use onnx_graph::Attribute;
use tch::Tensor;

use super::{Export, Module, Pass};

/// Turns images into rows of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flatten;

impl Module for Flatten {
    fn forward(&self, input: Tensor, _: &Pass<'_>) -> Tensor {
        input.flatten(1, -1)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let name = export.name("flat");
        let settings = vec![Attribute::int("axis", 1)];
        Ok(export.graph.node("Flatten", &[&input], &name, settings))
    }

    fn describe(&self) -> Option<String> {
        Some("flatten".to_owned())
    }
}
