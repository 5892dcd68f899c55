//! The way from an output back to the last dense layer.

use super::constants::{Constants, integers, makers};
use super::is_standard;
use crate::builder::{ElementType, tensor};
use crate::proto::{GraphProto, NodeProto};

/// Operators after the last dense layer that belong to the scores. They are removed with it.
const REMOVED: [&str; 23] = [
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "HardSigmoid",
    "Identity",
    "Dropout",
    "Relu",
    "LeakyRelu",
    "Clip",
    "Elu",
    "Selu",
    "Softplus",
    "Tanh",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Neg",
    "Max",
    "Min",
    "BatchNormalization",
    "QuantizeLinear",
    "DequantizeLinear",
];
/// Operators after the last dense layer that do not depend on the classes. They stay.
const KEPT: [&str; 11] = [
    "GlobalAveragePool",
    "GlobalMaxPool",
    "AveragePool",
    "MaxPool",
    "ReduceMean",
    "ReduceMax",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Cast",
];
/// The last dense layer before an output, and the nodes between them.
pub(super) struct Walk {
    /// Position of the dense layer among the nodes.
    dense: usize,
    /// Name of the value that the layer takes.
    input: String,
    /// Number of values per sample in `input`.
    pub(super) width: usize,
    classes: i64,
    /// Positions of the nodes after the layer that stay, from the layer to the output.
    kept: Vec<usize>,
    /// A description of the layer.
    pub(super) layer: String,
}

impl Walk {
    /// Walks from `output` to the last dense layer.
    pub(super) fn new(graph: &GraphProto, output: &str) -> Result<Self, String> {
        let makers = makers(graph);
        let constants = Constants {
            graph,
            makers: &makers,
        };
        let mut kept = Vec::new();
        let mut value = output;
        loop {
            let &at = makers.get(value).ok_or_else(|| {
                format!("expected a dense layer before `{output}`, found none on the way to `{value}`")
            })?;
            let node = &graph.node[at];
            if let Some((input, width, classes)) = constants.dense(node) {
                kept.reverse();
                let (operator, name) = (node.op_type(), node.name());
                return Ok(Self {
                    dense: at,
                    input: input.to_owned(),
                    width,
                    classes,
                    kept,
                    layer: format!("{operator} `{name}` of {width} features and {classes} classes"),
                });
            }
            let (next, is_kept) = step(&constants, node).ok_or_else(|| {
                format!(
                    "expected a dense layer (Gemm, MatMul or a 1 x 1 Conv with constant weights) with only pooling, \
                     reshaping and an activation between it and `{output}`, found {} `{}`",
                    node.op_type(),
                    node.name()
                )
            })?;
            if is_kept {
                kept.push(at);
            }
            value = next;
        }
    }

    /// Cuts the layer off: the nodes after it that stay are applied to the features. Returns the
    /// name of the value with the features.
    pub(super) fn cut(&self, graph: &mut GraphProto) -> String {
        let mut value = self.input.clone();
        for (number, &at) in self.kept.iter().enumerate() {
            let shape = self.reshaped(graph, at);
            let node = &mut graph.node[at];
            if let Some(data) = node.input.first_mut() {
                *data = value;
            }
            if let Some(shape) = shape {
                let name = format!("{}/features_shape_{number}", self.input);
                let bytes = shape.iter().flat_map(|length| length.to_le_bytes()).collect();
                node.input[1].clone_from(&name);
                graph
                    .initializer
                    .push(tensor(&name, ElementType::Int64, &[shape.len()], bytes));
            }
            value = graph.node[at].output.first().cloned().unwrap_or_default();
        }
        graph.node[self.dense].op_type = Some(String::new());
        graph.node[self.dense].output.clear();
        value
    }

    /// The constant shape of a `Reshape`, with the number of features in place of the number of
    /// classes. `None` if it does not contain the number of classes.
    fn reshaped(&self, graph: &GraphProto, at: usize) -> Option<Vec<i64>> {
        let node = &graph.node[at];
        if node.op_type() != "Reshape" {
            return None;
        }
        let makers = makers(graph);
        let constants = Constants {
            graph,
            makers: &makers,
        };
        let mut shape = integers(constants.tensor(node.input.get(1)?)?);
        // Only the last length can be the number of classes. An earlier one may equal it by chance.
        let last = shape.last_mut().filter(|length| **length == self.classes)?;
        *last = self.width as i64;
        Some(shape)
    }
}

/// The value that `node` computes its output from, and whether the node is kept. `None` if the walk
/// cannot pass it.
fn step<'a>(constants: &Constants<'_>, node: &'a NodeProto) -> Option<(&'a str, bool)> {
    if !is_standard(node.domain()) {
        return None;
    }
    let is_kept = KEPT.contains(&node.op_type());
    if !is_kept && !REMOVED.contains(&node.op_type()) {
        return None;
    }
    let mut data = node
        .input
        .iter()
        .filter(|input| !input.is_empty() && !constants.has(input));
    match (data.next(), data.next()) {
        (Some(first), None) => Some((first, is_kept)),
        // The data come first. The second input is a shape that was computed from them.
        (Some(first), Some(_)) if is_kept => Some((first, true)),
        _ => None,
    }
}
