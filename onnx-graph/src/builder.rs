use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use prost::{Message as _, bytes::Bytes};

use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

/// Version of the default operator set that the graphs use: understood by every ONNX Runtime since 1.12.
pub const OPSET_VERSION: i64 = 17;
/// Version of the file format that belongs to [`OPSET_VERSION`].
pub const IR_VERSION: i64 = 8;

/// One axis of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Always this many.
    Fixed(usize),
    /// Decided at run time; the same name means the same length everywhere.
    Symbolic(&'static str),
}

impl Dim {
    /// The leading axis of everything that is classified: as many rows as the caller has.
    pub const BATCH: Self = Self::Symbolic("batch");
}

/// Type of a tensor's elements; those that classifiers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floating point.
    Float,
    /// 64-bit signed integer: indices, shapes, token ids.
    Int64,
    /// Boolean.
    Bool,
    /// 8-bit signed integer: weights in a quarter of their size.
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

/// A named setting of a node.
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

    /// One integer.
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

    /// One float.
    pub fn float(name: &str, value: f32) -> Self {
        Self(AttributeProto {
            f: Some(value),
            ..Self::empty(name, AttributeType::Float)
        })
    }

    /// One-element float tensor, as `ConstantOfShape` takes it.
    pub fn scalar_tensor(name: &str, value: f32) -> Self {
        Self(AttributeProto {
            t: Some(tensor("", ElementType::Float, &[1], value.to_le_bytes().to_vec())),
            ..Self::empty(name, AttributeType::Tensor)
        })
    }

    /// A nested graph, as `Loop` and `If` take it. It may use the values of the graphs around it.
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

/// A graph under construction. Nodes are added in the order in which they can run.
///
/// Every method that makes a value returns its name, to be passed on to the nodes that use it.
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

    /// Adds constant floats, in row-major order.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0
            .initializer
            .push(tensor(name, ElementType::Float, shape, bytes));
        name.to_owned()
    }

    /// Adds constant integers, in row-major order.
    pub fn ints(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0
            .initializer
            .push(tensor(name, ElementType::Int64, shape, bytes));
        name.to_owned()
    }

    /// Adds constant bytes, in row-major order.
    pub fn bytes(&mut self, name: &str, shape: &[usize], values: &[i8]) -> String {
        let bytes = values.iter().map(|value| value.cast_unsigned()).collect();
        self.0
            .initializer
            .push(tensor(name, ElementType::Int8, shape, bytes));
        name.to_owned()
    }

    /// Adds a constant truth value.
    pub fn bool(&mut self, name: &str, value: bool) -> String {
        self.0
            .initializer
            .push(tensor(name, ElementType::Bool, &[], vec![u8::from(value)]));
        name.to_owned()
    }

    /// Adds a node with one output, which gives the node its name.
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

    /// Adds a node with any number of outputs. An empty name stands for an input or output that is left out.
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

/// The `metadata_props` of the file at `path`.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let model = ModelProto::decode(Bytes::from(bytes))
        .with_context(|| format!("{}: expected an ONNX model", path.display()))?;
    let pairs = model.metadata_props.into_iter();
    Ok(pairs
        .map(|pair| (pair.key.unwrap_or_default(), pair.value.unwrap_or_default()))
        .collect())
}

/// A graph with what a file carries beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile(ModelProto);

impl ModelFile {
    /// Wraps `graph` for writing. Refuses a graph whose names do not fit together, since a runtime would name the
    /// trouble less clearly, and later.
    pub fn new(graph: GraphBuilder, description: &str, metadata: &BTreeMap<String, String>) -> Result<Self> {
        check(&graph.0, &HashSet::new())?;
        Ok(Self(ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET_VERSION),
            }],
            doc_string: Some(description.to_owned()),
            metadata_props: metadata
                .iter()
                .map(|(key, value)| StringStringEntryProto {
                    key: Some(key.clone()),
                    value: Some(value.clone()),
                })
                .collect(),
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
    pub fn save(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_bytes()).with_context(|| format!("cannot write {}", path.display()))
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

/// Every value is made once and before it is used, outputs exist, and constants hold as many bytes as their shape says.
fn check(graph: &GraphProto, outer: &HashSet<String>) -> Result<()> {
    let title = graph.name();
    let mut known = outer.clone();
    let define = |name: &str, known: &mut HashSet<String>| {
        if !name.is_empty() && !known.insert(name.to_owned()) {
            bail!("graph `{title}`: the name `{name}` is given twice");
        }
        Ok(())
    };
    for input in &graph.input {
        define(input.name(), &mut known)?;
    }
    for constant in &graph.initializer {
        define(constant.name(), &mut known)?;
        let width = match constant.data_type() {
            code if code == DataType::Float as i32 => 4,
            code if code == DataType::Int64 as i32 => 8,
            _ => 1,
        };
        let expected = constant.dims.iter().product::<i64>() * width;
        let found = constant.raw_data().len();
        if usize::try_from(expected) != Ok(found) {
            bail!(
                "graph `{title}`: constant `{}` of shape {:?} needs {expected} bytes, got {found}",
                constant.name(),
                constant.dims
            );
        }
    }
    for node in &graph.node {
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            if !known.contains(input) {
                bail!(
                    "graph `{title}`: node `{}` uses `{input}`, which nothing before it makes",
                    node.name()
                );
            }
        }
        for body in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            check(body, &known)?;
        }
        for output in &node.output {
            define(output, &mut known)?;
        }
    }
    if graph.output.is_empty() {
        bail!("graph `{title}` has no output");
    }
    for output in &graph.output {
        if !known.contains(output.name()) {
            bail!("graph `{title}`: nothing makes its output `{}`", output.name());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear() -> GraphBuilder {
        let mut graph = GraphBuilder::new("linear");
        let rows = graph.input("rows", ElementType::Float, &[Dim::BATCH, Dim::Fixed(2)]);
        let weight = graph.floats("weight", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let logits = graph.node(
            "Gemm",
            &[&rows, &weight],
            "logits",
            vec![Attribute::int("transB", 1), Attribute::float("alpha", 2.0)],
        );
        graph.output(&logits, ElementType::Float, &[Dim::BATCH, Dim::Fixed(3)]);
        graph
    }

    fn error(graph: GraphBuilder) -> String {
        ModelFile::new(graph, "", &BTreeMap::new())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn bytes_decode_to_what_was_built() {
        let metadata = BTreeMap::from([("network".to_owned(), "test".to_owned())]);
        let model = ModelFile::new(linear(), "a test", &metadata).unwrap();
        let decoded = ModelProto::decode(model.to_bytes().as_slice()).unwrap();
        assert_eq!(decoded, model.0);
        assert_eq!(decoded.ir_version(), 8);
        assert_eq!(decoded.opset_import[0].version(), 17);
        assert_eq!(decoded.metadata_props[0].key(), "network");

        let graph = decoded.graph.unwrap();
        let Some(type_proto::Value::TensorType(input)) = &graph.input[0].r#type.as_ref().unwrap().value
        else {
            panic!("not a tensor");
        };
        let dims = &input.shape.as_ref().unwrap().dim;
        assert_eq!(
            dims[0].value,
            Some(dimension::Value::DimParam("batch".to_owned()))
        );
        assert_eq!(dims[1].value, Some(dimension::Value::DimValue(2)));
        assert_eq!(graph.initializer[0].raw_data()[..4], 1f32.to_le_bytes());
        assert_eq!(graph.node[0].attribute[0].i(), 1);
    }

    #[test]
    fn wiring_mistakes_are_named() {
        let mut graph = linear();
        graph.node("Relu", &["typo"], "hidden", vec![]);
        assert_eq!(
            error(graph),
            "graph `linear`: node `hidden/Relu` uses `typo`, which nothing before it makes"
        );

        let mut graph = linear();
        graph.node("Relu", &["rows"], "logits", vec![]);
        assert_eq!(error(graph), "graph `linear`: the name `logits` is given twice");

        let mut graph = linear();
        graph.output("other", ElementType::Float, &[]);
        assert_eq!(error(graph), "graph `linear`: nothing makes its output `other`");

        let mut graph = linear();
        graph.floats("short", &[2, 2], &[0.0]);
        assert_eq!(
            error(graph),
            "graph `linear`: constant `short` of shape [2, 2] needs 16 bytes, got 4"
        );
    }

    #[test]
    fn nested_graphs_see_the_values_around_them() {
        let mut body = GraphBuilder::new("body");
        let _ = body.input("turn", ElementType::Int64, &[]);
        let go_on = body.input("go_on", ElementType::Bool, &[]);
        let next = body.node("Identity", &[&go_on], "next", vec![]);
        let sum = body.node("Add", &["rows", "rows"], "sum", vec![]);
        body.output(&next, ElementType::Bool, &[]);
        body.output(&sum, ElementType::Float, &[Dim::BATCH, Dim::Fixed(2)]);
        assert!(error(body.clone()).contains("uses `rows`"));

        let mut graph = linear();
        let turns = graph.ints("turns", &[], &[3]);
        let sums = graph.node(
            "Loop",
            &[&turns, ""],
            "sums",
            vec![Attribute::graph("body", body)],
        );
        graph.output(
            &sums,
            ElementType::Float,
            &[Dim::Fixed(3), Dim::BATCH, Dim::Fixed(2)],
        );
        assert!(ModelFile::new(graph, "", &BTreeMap::new()).is_ok());
    }
}
