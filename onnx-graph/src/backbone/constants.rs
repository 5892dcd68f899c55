//! What can be known about constants.

use std::collections::HashMap;

use super::is_standard;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// The position of the node that makes each value.
pub(super) fn makers(graph: &GraphProto) -> HashMap<&str, usize> {
    let nodes = graph.node.iter().enumerate();
    nodes
        .flat_map(|(at, node)| node.output.iter().map(move |output| (output.as_str(), at)))
        .filter(|(output, _)| !output.is_empty())
        .collect()
}

/// The values that a graph computes from constants alone.
pub(super) struct Constants<'a> {
    pub(super) graph: &'a GraphProto,
    pub(super) makers: &'a HashMap<&'a str, usize>,
}

impl<'a> Constants<'a> {
    fn maker(&self, name: &str) -> Option<&'a NodeProto> {
        self.makers.get(name).map(|&at| &self.graph.node[at])
    }

    fn initializer(&self, name: &str) -> Option<&'a TensorProto> {
        self.graph.initializer.iter().find(|tensor| tensor.name() == name)
    }

    /// Whether a value is constant.
    pub(super) fn has(&self, name: &str) -> bool {
        if self.initializer(name).is_some() {
            return true;
        }
        self.maker(name).is_some_and(|node| {
            let nested = node.attribute.iter().any(|attribute| attribute.g.is_some());
            let mut inputs = node.input.iter().filter(|input| !input.is_empty());
            !nested && inputs.all(|input| self.has(input))
        })
    }

    /// A constant that the file contains as it is.
    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.initializer(name).or_else(|| {
            let node = self.maker(name).filter(|node| node.op_type() == "Constant")?;
            attribute(node, "value")?.t.as_ref()
        })
    }

    /// The shape of a constant, which may be converted or transposed.
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        if let Some(tensor) = self.tensor(name) {
            return Some(tensor.dims.clone());
        }
        let node = self.maker(name)?;
        let shape = self.shape(node.input.first()?)?;
        match node.op_type() {
            "Identity" | "Cast" | "DequantizeLinear" => Some(shape),
            "Transpose" => match attribute(node, "perm") {
                None => Some(shape.into_iter().rev().collect()),
                Some(perm) => perm
                    .ints
                    .iter()
                    .map(|&axis| shape.get(axis as usize).copied())
                    .collect(),
            },
            _ => None,
        }
    }

    /// The input, the number of features and the number of classes of a dense layer. `None` for any
    /// other node.
    pub(super) fn dense<'b>(&self, node: &'b NodeProto) -> Option<(&'b str, usize, i64)> {
        let [input, weight, ..] = node.input.as_slice() else {
            return None;
        };
        if !is_standard(node.domain()) || self.has(input) || !self.has(weight) {
            return None;
        }
        let setting = |name: &str| attribute(node, name).map_or(0, AttributeProto::i);
        let shape = self.shape(weight)?;
        let (features, classes) = match (node.op_type(), shape.as_slice()) {
            ("Gemm", &[rows, columns]) if setting("transA") == 0 => {
                if setting("transB") == 0 {
                    (rows, columns)
                } else {
                    (columns, rows)
                }
            }
            ("MatMul", &[features, classes]) => (features, classes),
            ("Conv", &[classes, features, 1, 1]) if setting("group") <= 1 => (features, classes),
            _ => return None,
        };
        Some((
            input,
            usize::try_from(features).ok().filter(|&width| width > 0)?,
            classes,
        ))
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

/// The values of an `int64` tensor.
pub(super) fn integers(tensor: &TensorProto) -> Vec<i64> {
    match &tensor.raw_data {
        Some(bytes) => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
            .collect(),
        None => tensor.int64_data.clone(),
    }
}
