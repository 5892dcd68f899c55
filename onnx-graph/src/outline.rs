//! Facts about a graph that can be read without its weights.

use std::collections::BTreeSet;

use prost::{DecodeError, Message};

/// What a server needs to know of a graph before a runtime loads it.
///
/// Reading it costs little, however large the file is: the weights are skipped, not copied, which
/// is why this does not decode the full [`proto::ModelProto`](crate::proto::ModelProto).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outline {
    /// Names of the inputs that a run must give, in the graph's order. Old files list their weights
    /// among the inputs as well; those are left out.
    pub inputs: Vec<String>,
    /// Names, as the graph spells them, of the files beside it that hold weights.
    pub external_files: BTreeSet<String>,
    /// Number of `Conv` and `ConvTranspose` nodes.
    pub convolutions: usize,
    /// Whether a run takes as long for one input as for any other of the same shape.
    ///
    /// `false` if the names of the operators do not tell, and for a file without a graph.
    pub cost_follows_shape: bool,
}

impl Outline {
    /// Reads the outline of an ONNX file.
    ///
    /// # Errors
    ///
    /// Fails if `model` is not a protobuf message of the expected form.
    ///
    /// ```
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/1/model.onnx");
    /// let outline = onnx_graph::Outline::read(&std::fs::read(path)?)?;
    /// assert_eq!(outline.inputs, ["pixel_values"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(model: &[u8]) -> Result<Self, DecodeError> {
        let Some(graph) = ModelView::decode(model)?.graph else {
            return Ok(Self::default());
        };
        let weights: BTreeSet<&str> = graph
            .initializer
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        let inputs = graph.input.iter().map(|input| &input.name);
        let entries = graph.initializer.iter().flat_map(|tensor| &tensor.external_data);
        let locations = entries.filter(|entry| entry.key == "location");
        Ok(Self {
            inputs: inputs
                .filter(|name| !weights.contains(name.as_str()))
                .cloned()
                .collect(),
            external_files: locations.map(|entry| entry.value.clone()).collect(),
            convolutions: graph.node.iter().filter(|node| node.is_convolution()).count(),
            cost_follows_shape: graph.node.iter().all(NodeView::cost_follows_shape),
        })
    }
}

// Views of the messages in `proto`: the same tags, but only the fields that an outline needs.
// Fields that are not listed are skipped by the decoder. In particular `TensorProto.raw_data` is.

#[derive(Message)]
struct ModelView {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphView>,
}

#[derive(Message)]
struct GraphView {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeView>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorView>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoView>,
}

#[derive(Message)]
struct TensorView {
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<EntryView>,
}

#[derive(Message)]
struct EntryView {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct ValueInfoView {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Message)]
struct NodeView {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(string, tag = "7")]
    domain: String,
}

impl NodeView {
    fn is_convolution(&self) -> bool {
        matches!(self.op_type.as_str(), "Conv" | "ConvTranspose")
    }

    fn cost_follows_shape(&self) -> bool {
        self.domain.is_empty() && COST_FOLLOWS_SHAPE.contains(&self.op_type.as_str())
    }
}

/// Standard operators whose work follows from the shapes of their inputs, whatever the values are.
///
/// Loops and conditions are not among them, nor operators that take a size from a value, such as
/// `ConstantOfShape`, `Expand`, `NonZero`, `Range`, `Resize` and `Tile`.
const COST_FOLLOWS_SHAPE: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto};

    fn outline(name: &str) -> Outline {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        Outline::read(&std::fs::read(root.join(name).join("1/model.onnx")).unwrap()).unwrap()
    }

    #[test]
    fn cost_follows_shape_unless_a_value_decides_how_much_there_is_to_compute() {
        assert!(outline("models/digits").cost_follows_shape);
        assert!(outline("tests/fixtures/models/linear").cost_follows_shape);
        assert!(!outline("tests/fixtures/models/hang").cost_follows_shape);
        assert!(!outline("tests/fixtures/models/slow").cost_follows_shape);
        assert!(Outline::read(b"no graph").is_err());
        assert_eq!(Outline::read(b"").unwrap(), Outline::default());
    }

    #[test]
    fn external_files_are_listed_once() {
        let weights = |location: &str| TensorProto {
            name: Some(format!("weights in {location}")),
            raw_data: Some(vec![1, 2, 3].into()),
            external_data: vec![StringStringEntryProto {
                key: Some("location".into()),
                value: Some(location.into()),
            }],
            ..TensorProto::default()
        };
        let model = ModelProto {
            graph: Some(GraphProto {
                initializer: vec![weights("model.onnx_data"), weights("other"), weights("other")],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        };
        let files = Outline::read(&model.encode_to_vec()).unwrap().external_files;
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            ["model.onnx_data", "other"]
        );
        assert!(outline("models/digits").external_files.is_empty());
    }

    #[test]
    fn weights_that_are_listed_as_inputs_are_not_inputs() {
        let named = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            ..ValueInfoProto::default()
        };
        let model = ModelProto {
            graph: Some(GraphProto {
                input: vec![named("pixels"), named("weights"), named("mask")],
                initializer: vec![TensorProto {
                    name: Some("weights".into()),
                    ..TensorProto::default()
                }],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        };
        assert_eq!(
            Outline::read(&model.encode_to_vec()).unwrap().inputs,
            ["pixels", "mask"]
        );
    }

    #[test]
    fn inputs_and_convolutions_of_a_shipped_model_are_found() {
        assert_eq!(outline("models/digits").inputs, ["pixel_values"]);
        assert!(outline("models/digits").convolutions > 1);
        assert_eq!(outline("tests/fixtures/models/linear").convolutions, 0);
    }
}
