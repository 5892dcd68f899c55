use anyhow::Result;
use onnx_graph::Attribute;
use tch::{Kind, Tensor};

use super::{Export, Module, Pass};

/// Max pooling over squares of this side that do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool(pub i64);

impl Module for MaxPool {
    fn forward(&self, input: Tensor, _: &Pass<'_>) -> Tensor {
        maximum(&input, self.0)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let name = export.name("pool");
        Ok(export.graph.node("MaxPool", &[&input], &name, attributes(self.0)))
    }

    fn describe(&self) -> Option<String> {
        Some(format!("max pooling {0} x {0}", self.0))
    }
}

/// Average pooling over squares of this side that do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AveragePool(pub i64);

impl Module for AveragePool {
    fn forward(&self, input: Tensor, _: &Pass<'_>) -> Tensor {
        input.avg_pool2d([self.0; 2], [self.0; 2], [0, 0], false, true, None)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let name = export.name("pool");
        Ok(export
            .graph
            .node("AveragePool", &[&input], &name, attributes(self.0)))
    }

    fn describe(&self) -> Option<String> {
        Some(format!("average pooling {0} x {0}", self.0))
    }
}

/// The mean over height and width, which turns images into rows of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalAverage;

impl Module for GlobalAverage {
    fn forward(&self, input: Tensor, _: &Pass<'_>) -> Tensor {
        input.mean_dim([-2i64, -1].as_slice(), false, Kind::Float)
    }

    fn export(&self, input: String, export: &mut Export<'_>) -> Result<String> {
        let settings = vec![Attribute::ints("axes", &[2, 3]), Attribute::int("keepdims", 0)];
        let name = export.name("mean");
        Ok(export.graph.node("ReduceMean", &[&input], &name, settings))
    }

    fn describe(&self) -> Option<String> {
        Some("global average pooling".to_owned())
    }
}

pub(super) fn maximum(value: &Tensor, side: i64) -> Tensor {
    if side == 1 {
        return value.shallow_clone();
    }
    value.max_pool2d([side; 2], [side; 2], [0, 0], [1, 1], false)
}

/// The attributes of ONNX's pooling operators.
pub(super) fn attributes(side: i64) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &[side; 2]),
        Attribute::ints("strides", &[side; 2]),
    ]
}
