//! A classifier's graph without its last dense layer, and the same graph with another one.
//!
//! The last dense layer is found by walking from the output towards the input. What is passed on the way either comes
//! after the scores (softmax, temperature, bias) and goes with the layer, or moves numbers about without knowing the
//! classes (pooling, reshaping, the mean over mirror images): that stays and is applied to the features instead, which
//! gives the same scores, since a dense layer may be put after a mean as well as before it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Component, Path},
};

use anyhow::{Context as _, Result, bail};
use prost::{Message as _, bytes::Bytes};

use crate::{
    builder::{Attribute, Dim, ElementType, tensor, value_info},
    proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
        TensorProto, ValueInfoProto, tensor_proto::DataLocation,
    },
};

/// Operators behind the last dense layer that belong to the scores and go with it.
const GO: [&str; 23] = [
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
/// Operators behind the last dense layer that do not know the classes and stay.
const STAY: [&str; 11] = [
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
/// Since this version of the operator set a `Gemm` broadcasts its bias without being told.
const OLDEST_OPSET: i64 = 7;

/// A graph up to the input of its last dense layer.
#[derive(Debug, Clone)]
pub struct Backbone {
    model: ModelProto,
    /// The value that the layer took, `[batch, width]`.
    features: String,
    width: usize,
    layer: String,
}

impl Backbone {
    /// Reads the file at `path` and takes off the last dense layer before `output`, the graph's first output if that is
    /// not given. Weights that lie beside the file are read as well.
    pub fn read(path: &Path, output: Option<&str>) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut model = ModelProto::decode(Bytes::from(bytes))
            .with_context(|| format!("{}: expected an ONNX model", path.display()))?;
        take_in(&mut model, path)?;
        Self::new(model, output)
            .with_context(|| format!("{}: cannot take off the last dense layer", path.display()))
    }

    fn new(mut model: ModelProto, output: Option<&str>) -> Result<Self> {
        let opset = model
            .opset_import
            .iter()
            .find(|opset| matches!(opset.domain(), "" | "ai.onnx"))
            .map_or(1, OperatorSetIdProto::version);
        if opset < OLDEST_OPSET {
            bail!("expected operator set {OLDEST_OPSET} or newer, found {opset}");
        }
        let mut graph = model.graph.take().context("expected a graph, found none")?;
        let output = match output {
            Some(name) => name.to_owned(),
            None => graph
                .output
                .first()
                .map(|output| output.name().to_owned())
                .context("expected an output, found none")?,
        };
        let walk = walk(&graph, &output)?;
        let features = walk.take_off(&mut graph);
        prune(&mut graph, &features)?;
        let features = name_features(&mut graph, features);
        let (layer, width) = (walk.layer, walk.width);
        model.graph = Some(graph);
        Ok(Self {
            model,
            features,
            width,
            layer,
        })
    }

    /// How many features each sample has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The layer that was taken off, in words.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// A model that gives the features: one output, `float32 [batch, width]`.
    pub fn features(&self) -> Vec<u8> {
        let mut model = self.model.clone();
        if let Some(graph) = &mut model.graph {
            graph.output = vec![value_info(
                &self.features,
                ElementType::Float,
                &[Dim::BATCH, Dim::Fixed(self.width)],
            )];
        }
        model.encode_to_vec()
    }

    /// A classifier with a new last layer: `weights` has one row of [`Self::width`] numbers for each class, `bias` one
    /// number for each. Gives the file's bytes and the name of the output. `metadata` is added to what the file says of
    /// itself; keys that are there are overwritten.
    pub fn with_head(
        &self,
        weights: &[f32],
        bias: &[f32],
        description: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, String)> {
        let classes = bias.len();
        if weights.len() != classes * self.width {
            bail!(
                "expected {classes} rows of {} weights, found {} weights",
                self.width,
                weights.len()
            );
        }
        let mut model = self.model.clone();
        let graph = model.graph.get_or_insert_default();
        let mut taken = names(graph);
        let mut name = |wish: &str| {
            let mut name = wish.to_owned();
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            name
        };
        let (weight_name, bias_name, logits) = (name("head.weight"), name("head.bias"), name("logits"));
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = [classes, self.width];
        let float = ElementType::Float;
        graph
            .initializer
            .push(tensor(&weight_name, float, &shape, bytes(weights)));
        graph
            .initializer
            .push(tensor(&bias_name, float, &[classes], bytes(bias)));
        graph.node.push(NodeProto {
            name: Some(format!("{logits}/Gemm")),
            op_type: Some("Gemm".to_owned()),
            input: vec![self.features.clone(), weight_name, bias_name],
            output: vec![logits.clone()],
            attribute: vec![Attribute::int("transB", 1).into()],
            ..NodeProto::default()
        });
        graph.output = vec![value_info(&logits, float, &[Dim::BATCH, Dim::Fixed(classes)])];
        model.doc_string = Some(description.to_owned());
        model
            .metadata_props
            .retain(|pair| !metadata.contains_key(pair.key()));
        model
            .metadata_props
            .extend(metadata.iter().map(|(key, value)| StringStringEntryProto {
                key: Some(key.clone()),
                value: Some(value.clone()),
            }));
        Ok((model.encode_to_vec(), logits))
    }
}

/// Calls the last value of a graph what it is now, so that the name that the scores had is free. Gives its name.
fn name_features(graph: &mut GraphProto, value: String) -> String {
    let taken = names(graph);
    let mut name = "features".to_owned();
    while taken.contains(&name) {
        name.push('_');
    }
    let mut outputs = graph.node.iter_mut().flat_map(|node| &mut node.output);
    match outputs.find(|output| **output == value) {
        Some(output) => {
            output.clone_from(&name);
            name
        }
        // The layer took the graph's input as it is.
        None => value,
    }
}

/// Reads weights that lie in files beside the model into it.
fn take_in(model: &mut ModelProto, path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new(""));
    for constant in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        if constant.data_location.unwrap_or_default() != DataLocation::External as i32 {
            continue;
        }
        let entry = |key: &str| {
            let mut entries = constant.external_data.iter();
            entries
                .find(|entry| entry.key() == key)
                .map(|entry| entry.value().to_owned())
        };
        let number = |key: &str| -> Result<Option<usize>> {
            let parse = |text: String| {
                let problem = || {
                    format!(
                        "constant `{}`: `{key}`: expected a number, found {text:?}",
                        constant.name()
                    )
                };
                text.parse().with_context(problem)
            };
            entry(key).map(parse).transpose()
        };
        let location = entry("location").unwrap_or_default();
        // A model may come from anywhere; it must not name files outside its own directory.
        let mut parts = Path::new(&location).components();
        if location.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            bail!(
                "{}: constant `{}`: expected weights in a file beside the model, found {location:?}",
                path.display(),
                constant.name()
            );
        }
        let file = directory.join(&location);
        let bytes = Bytes::from(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        let start = number("offset")?.unwrap_or(0);
        let end = number("length")?.map_or(Some(bytes.len()), |length| start.checked_add(length));
        let part = end.and_then(|end| bytes.get(start..end)).with_context(|| {
            format!(
                "{}: constant `{}` lies beyond the end of the file",
                file.display(),
                constant.name()
            )
        })?;
        constant.raw_data = Some(bytes.slice_ref(part));
        constant.data_location = None;
        constant.external_data.clear();
    }
    Ok(())
}

/// The way from an output back to the last dense layer.
struct Walk {
    /// Place of the dense layer among the nodes.
    dense: usize,
    /// What the layer takes.
    input: String,
    /// How many numbers of it belong to one sample.
    width: usize,
    /// How many classes the layer gives.
    classes: i64,
    /// Places of the nodes behind the layer that stay, from the layer to the output.
    stay: Vec<usize>,
    /// In words.
    layer: String,
}

fn walk(graph: &GraphProto, output: &str) -> Result<Walk> {
    let makers = makers(graph);
    let constants = Constants {
        graph,
        makers: &makers,
    };
    let mut stay = Vec::new();
    let mut value = output;
    loop {
        let &at = makers.get(value).with_context(|| {
            format!("expected a dense layer before `{output}`, found none on the way to `{value}`")
        })?;
        let node = &graph.node[at];
        if let Some((input, width, classes)) = constants.dense(node) {
            stay.reverse();
            return Ok(Walk {
                dense: at,
                input: input.to_owned(),
                width,
                classes,
                stay,
                layer: format!(
                    "{} `{}` of {width} features and {classes} classes",
                    node.op_type(),
                    node.name()
                ),
            });
        }
        let operator = node.op_type();
        let known = matches!(node.domain(), "" | "ai.onnx");
        let stays = known && STAY.contains(&operator);
        // The data are the one input that is not constant.
        let mut data = node
            .input
            .iter()
            .filter(|input| !input.is_empty() && !constants.has(input));
        let next = match (data.next(), data.next()) {
            (Some(first), None) => Some(first),
            // A shape may be computed from the data; they come first.
            (Some(first), Some(_)) if stays => Some(first),
            _ => None,
        };
        match next {
            Some(next) if stays || (known && GO.contains(&operator)) => {
                if stays {
                    stay.push(at);
                }
                value = next;
            }
            _ => bail!(
                "expected a dense layer (Gemm, MatMul or a 1 x 1 Conv with constant weights) with nothing but pooling, \
                 reshaping and an activation between it and `{output}`, found {operator} `{}`",
                node.name()
            ),
        }
    }
}

impl Walk {
    /// Takes the layer off: the nodes behind it that stay work on the features. Gives the value with the features.
    fn take_off(&self, graph: &mut GraphProto) -> String {
        let mut value = self.input.clone();
        for (number, &at) in self.stay.iter().enumerate() {
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

    /// The constant shape of a `Reshape` that names the number of classes, with the number of features in its place.
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
        // Only at the end does a length equal to the number of classes stand for the classes.
        let last = shape.last_mut().filter(|length| **length == self.classes)?;
        *last = self.width as i64;
        Some(shape)
    }
}

/// Which node makes each value.
fn makers(graph: &GraphProto) -> HashMap<&str, usize> {
    let nodes = graph.node.iter().enumerate();
    nodes
        .flat_map(|(at, node)| node.output.iter().map(move |output| (output.as_str(), at)))
        .filter(|(output, _)| !output.is_empty())
        .collect()
}

/// What a graph computes from nothing but its constants.
struct Constants<'a> {
    graph: &'a GraphProto,
    makers: &'a HashMap<&'a str, usize>,
}

impl<'a> Constants<'a> {
    fn maker(&self, name: &str) -> Option<&'a NodeProto> {
        self.makers.get(name).map(|&at| &self.graph.node[at])
    }

    fn initializer(&self, name: &str) -> Option<&'a TensorProto> {
        self.graph.initializer.iter().find(|tensor| tensor.name() == name)
    }

    fn has(&self, name: &str) -> bool {
        if self.initializer(name).is_some() {
            return true;
        }
        self.maker(name).is_some_and(|node| {
            let nested = node.attribute.iter().any(|attribute| attribute.g.is_some());
            let mut inputs = node.input.iter().filter(|input| !input.is_empty());
            !nested && inputs.all(|input| self.has(input))
        })
    }

    /// A constant that stands in the file as it is.
    fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.initializer(name).or_else(|| {
            let node = self.maker(name).filter(|node| node.op_type() == "Constant")?;
            attribute(node, "value")?.t.as_ref()
        })
    }

    /// The shape of a constant, also of one that was converted or transposed.
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

    /// What a dense layer takes, its number of features and its number of classes. `None` for any other node.
    fn dense<'b>(&self, node: &'b NodeProto) -> Option<(&'b str, usize, i64)> {
        let [input, weight, ..] = node.input.as_slice() else {
            return None;
        };
        if !matches!(node.domain(), "" | "ai.onnx") || self.has(input) || !self.has(weight) {
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

fn integers(tensor: &TensorProto) -> Vec<i64> {
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

/// Leaves nothing in the graph but what `value` needs.
fn prune(graph: &mut GraphProto, value: &str) -> Result<()> {
    let mut needed = HashSet::from([value.to_owned()]);
    // A node comes after those that make its inputs.
    let mut keep: Vec<bool> = Vec::with_capacity(graph.node.len());
    for node in graph.node.iter().rev() {
        let kept = node.output.iter().any(|output| needed.contains(output));
        if kept {
            uses(node, &mut needed);
        }
        keep.push(kept);
    }
    let mut keep = keep.into_iter().rev();
    graph.node.retain(|_| keep.next().unwrap_or(true));
    graph
        .initializer
        .retain(|constant| needed.contains(constant.name()));
    graph.sparse_initializer.retain(|constant| {
        constant
            .values
            .as_ref()
            .is_some_and(|values| needed.contains(values.name()))
    });
    graph
        .quantization_annotation
        .retain(|note| needed.contains(note.tensor_name()));
    // Inputs that only repeat a constant go with it; the others are what the classifier is called with.
    let made: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str)
        .collect();
    let sparse = graph
        .sparse_initializer
        .iter()
        .filter_map(|constant| constant.values.as_ref());
    let constants: HashSet<&str> = graph
        .initializer
        .iter()
        .chain(sparse)
        .map(TensorProto::name)
        .collect();
    graph.input.retain(|input| needed.contains(input.name()));
    let given: HashSet<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    for node in &graph.node {
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            if ![&made, &constants, &given]
                .iter()
                .any(|known| known.contains(input.as_str()))
            {
                bail!(
                    "{} `{}` needs `{input}`, which is the last dense layer's own",
                    node.op_type(),
                    node.name()
                );
            }
        }
    }
    // What is noted of the values in between is a hint, and wrong for those that changed.
    graph.value_info.clear();
    Ok(())
}

/// Adds the values that a node and the graphs nested in it use.
fn uses(node: &NodeProto, needed: &mut HashSet<String>) {
    needed.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
    let nested = |attribute: &AttributeProto| {
        attribute
            .g
            .iter()
            .chain(&attribute.graphs)
            .cloned()
            .collect::<Vec<_>>()
    };
    for graph in node.attribute.iter().flat_map(nested) {
        needed.extend(graph.output.iter().map(|output| output.name().to_owned()));
        for node in &graph.node {
            uses(node, needed);
        }
    }
}

/// All names that values have.
fn names(graph: &GraphProto) -> HashSet<String> {
    let made = graph.node.iter().flat_map(|node| &node.output).cloned();
    let constants = graph
        .initializer
        .iter()
        .map(|constant| constant.name().to_owned());
    let inputs = graph.input.iter().map(|input| input.name().to_owned());
    made.chain(constants).chain(inputs).collect()
}
