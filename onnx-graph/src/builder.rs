//! Builds graphs and files.

mod check;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost::bytes::Bytes;

use crate::error::OnnxError;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::type_proto;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};

/// Version of the standard operator set in new files. ONNX Runtime 1.12 and newer support it.
pub const OPSET_VERSION: i64 = 17;
/// Version of the file format in new files.
pub const IR_VERSION: i64 = 8;

/// One axis of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// A fixed length.
    Fixed(usize),
    /// A length that is known at run time. Axes with the same name have the same length.
    Symbolic(&'static str),
}

impl Dim {
    /// The first axis of the inputs and outputs of a classifier.
    pub const BATCH: Self = Self::Symbolic("batch");
}

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElementType {
    /// 32-bit floating point.
    Float,
    /// 64-bit signed integer, for indices, shapes and token ids.
    Int64,
    /// Boolean.
    Bool,
    /// 8-bit signed integer, for quantised weights.
    Int8,
}

impl ElementType {
    fn code(self) -> i32 {
        let code = match self {
            Self::Float => DataType::Float,
            Self::Int64 => DataType::Int64,
            Self::Bool => DataType::Bool,
            Self::Int8 => DataType::Int8,
        };
        code as i32
    }
}

/// A named attribute of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute(AttributeProto);

impl Attribute {
    fn empty(name: &str, kind: AttributeType) -> AttributeProto {
        AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(kind as i32),
            ..AttributeProto::default()
        }
    }

    /// An integer.
    pub fn int(name: &str, value: i64) -> Self {
        Self(AttributeProto {
            i: Some(value),
            ..Self::empty(name, AttributeType::Int)
        })
    }

    /// A list of integers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self(AttributeProto {
            ints: values.to_vec(),
            ..Self::empty(name, AttributeType::Ints)
        })
    }

    /// A float.
    pub fn float(name: &str, value: f32) -> Self {
        Self(AttributeProto {
            f: Some(value),
            ..Self::empty(name, AttributeType::Float)
        })
    }

    /// A float tensor with one element, for `ConstantOfShape`.
    pub fn scalar_tensor(name: &str, value: f32) -> Self {
        Self(AttributeProto {
            t: Some(tensor("", ElementType::Float, &[1], value.to_le_bytes().to_vec())),
            ..Self::empty(name, AttributeType::Tensor)
        })
    }

    /// A nested graph, for `Loop` and `If`. It may use the values of the graphs around it.
    pub fn graph(name: &str, body: GraphBuilder) -> Self {
        Self(AttributeProto {
            g: Some(body.0),
            ..Self::empty(name, AttributeType::Graph)
        })
    }
}

impl From<Attribute> for AttributeProto {
    fn from(attribute: Attribute) -> Self {
        attribute.0
    }
}

/// Builds a graph. Nodes must be added in the order in which they can run.
///
/// Methods that make a value return its name, to be passed to the nodes that use it.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use onnx_graph::{Attribute, Dim, ElementType, GraphBuilder, ModelFile};
///
/// let mut graph = GraphBuilder::new("linear");
/// let rows = graph.input("rows", ElementType::Float, &[Dim::BATCH, Dim::Fixed(2)]);
/// let weight = graph.floats("weight", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
/// let attributes = vec![Attribute::int("transB", 1)];
/// let logits = graph.node("Gemm", &[&rows, &weight], "logits", attributes);
/// graph.output(&logits, ElementType::Float, &[Dim::BATCH, Dim::Fixed(3)]);
///
/// let bytes = ModelFile::new(graph, "an example", &BTreeMap::new())?.to_bytes();
/// assert_eq!(onnx_graph::Outline::read(&bytes)?.inputs, ["rows"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GraphBuilder(GraphProto);

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self(GraphProto {
            name: Some(name.to_owned()),
            ..GraphProto::default()
        })
    }

    /// Sets the text that viewers show for the graph.
    pub fn describe(&mut self, text: &str) {
        self.0.doc_string = Some(text.to_owned());
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, element: ElementType, shape: &[Dim]) -> String {
        self.0.input.push(value_info(name, element, shape));
        name.to_owned()
    }

    /// Declares that the value `name` is an output.
    pub fn output(&mut self, name: &str, element: ElementType, shape: &[Dim]) {
        self.0.output.push(value_info(name, element, shape));
    }

    /// Adds a constant of floats, in row-major order.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0
            .initializer
            .push(tensor(name, ElementType::Float, shape, bytes));
        name.to_owned()
    }

    /// Adds a constant of 64-bit integers, in row-major order.
    pub fn ints(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0
            .initializer
            .push(tensor(name, ElementType::Int64, shape, bytes));
        name.to_owned()
    }

    /// Adds a constant of 8-bit integers, in row-major order.
    pub fn bytes(&mut self, name: &str, shape: &[usize], values: &[i8]) -> String {
        let bytes = values.iter().map(|value| value.cast_unsigned()).collect();
        self.0
            .initializer
            .push(tensor(name, ElementType::Int8, shape, bytes));
        name.to_owned()
    }

    /// Adds a constant boolean.
    pub fn bool(&mut self, name: &str, value: bool) -> String {
        self.0
            .initializer
            .push(tensor(name, ElementType::Bool, &[], vec![u8::from(value)]));
        name.to_owned()
    }

    /// Adds a node with one output. The node is named after it.
    pub fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<Attribute>,
    ) -> String {
        self.node_with_outputs(operator, inputs, &[output], attributes);
        output.to_owned()
    }

    /// Adds a node with any number of outputs. An empty name leaves an optional input or output
    /// out.
    pub fn node_with_outputs(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<Attribute>,
    ) {
        let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.0.node.push(NodeProto {
            name: outputs.first().map(|&output| format!("{output}/{operator}")),
            op_type: Some(operator.to_owned()),
            input: named(inputs),
            output: named(outputs),
            attribute: attributes.into_iter().map(|attribute| attribute.0).collect(),
            ..NodeProto::default()
        });
    }
}

/// Reads the `metadata_props` of the file at `path`.
///
/// # Errors
///
/// Fails if the file cannot be read or is not an ONNX model.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>, OnnxError> {
    let bytes = fs::read(path).map_err(|source| OnnxError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let model = ModelProto::decode(Bytes::from(bytes)).map_err(|source| OnnxError::Decode {
        path: path.to_path_buf(),
        source,
    })?;
    let pairs = model.metadata_props.into_iter();
    Ok(pairs
        .map(|pair| (pair.key.unwrap_or_default(), pair.value.unwrap_or_default()))
        .collect())
}

pub(crate) fn metadata_props(
    metadata: &BTreeMap<String, String>,
) -> impl Iterator<Item = StringStringEntryProto> {
    metadata.iter().map(|(key, value)| StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    })
}

/// A graph with the versions and texts that a file adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile(ModelProto);

impl ModelFile {
    /// Wraps `graph` for writing.
    ///
    /// # Errors
    ///
    /// Fails if a name is given twice or used before it is made, if an output is missing, or if a
    /// constant does not have the size of its shape. A runtime would report these mistakes later
    /// and less clearly.
    pub fn new(
        graph: GraphBuilder,
        description: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, OnnxError> {
        check::check(&graph.0)?;
        Ok(Self(ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET_VERSION),
            }],
            doc_string: Some(description.to_owned()),
            metadata_props: metadata_props(metadata).collect(),
            graph: Some(graph.0),
            ..ModelProto::default()
        }))
    }

    /// Names the program that made the file. Viewers show it.
    #[must_use]
    pub fn with_producer(mut self, name: &str, version: &str) -> Self {
        self.0.producer_name = Some(name.to_owned());
        self.0.producer_version = Some(version.to_owned());
        self
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), OnnxError> {
        fs::write(path, self.to_bytes()).map_err(|source| OnnxError::Write {
            path: path.to_path_buf(),
            source,
        })
    }
}

pub(crate) fn value_info(name: &str, element: ElementType, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| Dimension {
            value: Some(match *dim {
                Dim::Fixed(length) => dimension::Value::DimValue(length as i64),
                Dim::Symbolic(name) => dimension::Value::DimParam(name.to_owned()),
            }),
            ..Dimension::default()
        })
        .collect();
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(element.code()),
                shape: Some(TensorShapeProto { dim }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

pub(crate) fn tensor(
    name: &str,
    element: ElementType,
    shape: &[usize],
    little_endian: Vec<u8>,
) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(element.code()),
        dims: shape.iter().map(|&length| length as i64).collect(),
        raw_data: Some(little_endian.into()),
        ..TensorProto::default()
    }
}
