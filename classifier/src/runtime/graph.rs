//! What can be known of a graph without running it.

use std::collections::BTreeSet;
use std::io;

use prost::Message;

/// The part of ONNX's `ModelProto` that names the operators and the inputs; all else is skipped.
#[derive(Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
}

#[derive(Message)]
struct TensorProto {
    #[prost(string, tag = "8")]
    name: String,
    /// `location`, `offset` and `length` of values that are in another file.
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
}

#[derive(Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Message)]
struct NodeProto {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(string, tag = "7")]
    domain: String,
}

/// Operators whose work follows from the shapes of their inputs, whatever the values are. Not among them: loops and
/// conditions, and what takes a size from a value, such as `ConstantOfShape`, `Expand`, `NonZero`, `Range`, `Resize`, `Tile`.
const STEADY: &[&str] = &[
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

/// Whether a run of this graph takes as long for one input as for any other of the same shape.
///
/// False where that cannot be told from the names of its operators.
pub fn is_steady(model: &[u8]) -> io::Result<bool> {
    let steady = |node: &NodeProto| node.domain.is_empty() && STEADY.contains(&node.op_type.as_str());
    Ok(read(model)?.is_some_and(|graph| graph.node.iter().all(steady)))
}

/// How many convolutions this graph has.
pub(super) fn convolutions(model: &[u8]) -> io::Result<usize> {
    let is_convolution = |node: &&NodeProto| matches!(node.op_type.as_str(), "Conv" | "ConvTranspose");
    Ok(read(model)?.map_or(0, |graph| graph.node.iter().filter(is_convolution).count()))
}

/// The names of the inputs that a run must give. Old files list weights among the inputs.
pub(super) fn input_names(model: &[u8]) -> io::Result<Vec<String>> {
    let Some(graph) = read(model)? else {
        return Ok(Vec::new());
    };
    let is_weight = |name: &String| graph.initializer.iter().any(|tensor| tensor.name == *name);
    let names = graph.input.into_iter().map(|input| input.name);
    Ok(names.filter(|name| !is_weight(name)).collect())
}

/// The files beside the graph that hold values of its weights, as the graph names them.
pub(crate) fn external_files(model: &[u8]) -> io::Result<BTreeSet<String>> {
    let weights = read(model)?.map(|graph| graph.initializer).unwrap_or_default();
    let entries = weights.into_iter().flat_map(|tensor| tensor.external_data);
    let locations = entries.filter(|entry| entry.key == "location");
    Ok(locations.map(|entry| entry.value).collect())
}

fn read(model: &[u8]) -> io::Result<Option<GraphProto>> {
    let model = ModelProto::decode(model).map_err(io::Error::other)?;
    Ok(model.graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Vec<u8> {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        std::fs::read(root.join(name).join("1/model.onnx")).unwrap()
    }

    #[test]
    fn a_graph_whose_values_decide_how_much_there_is_to_do_is_not_steady() {
        assert!(is_steady(&model("models/digits")).unwrap());
        assert!(is_steady(&model("tests/fixtures/models/linear")).unwrap());
        assert!(!is_steady(&model("tests/fixtures/models/hang")).unwrap());
        assert!(!is_steady(&model("tests/fixtures/models/slow")).unwrap());
        assert!(is_steady(b"no graph").is_err());
    }

    #[test]
    fn files_of_weights_are_told() {
        let weights = |location: &str| TensorProto {
            name: "weights".into(),
            external_data: vec![StringStringEntryProto {
                key: "location".into(),
                value: location.into(),
            }],
        };
        let graph = GraphProto {
            node: Vec::new(),
            initializer: vec![weights("model.onnx_data"), weights("other"), weights("other")],
            input: Vec::new(),
        };
        let bytes = ModelProto { graph: Some(graph) }.encode_to_vec();
        let files: Vec<_> = external_files(&bytes).unwrap().into_iter().collect();
        assert_eq!(files, ["model.onnx_data", "other"]);
        assert!(external_files(&model("models/digits")).unwrap().is_empty());
    }

    #[test]
    fn inputs_and_convolutions_are_told() {
        assert_eq!(input_names(&model("models/digits")).unwrap(), ["pixel_values"]);
        assert!(convolutions(&model("models/digits")).unwrap() > 1);
        assert_eq!(convolutions(&model("tests/fixtures/models/linear")).unwrap(), 0);
    }
}
